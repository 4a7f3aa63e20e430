"""How curves look: options for ECharts. Colours come from the page, which may be light or dark."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchgpt.web.history import Points

COLOURS = ("#4c7dff", "#f0883e", "#2da44e", "#bf5af2", "#e5484d", "#12a594")
"""For runs that are compared."""
MOST_DOTS = 60
FAINT = 0.25


def colour(name: str) -> str:
    """Return JavaScript for a colour that the page's style sheet names."""
    return f"getComputedStyle(document.body).getPropertyValue('--{name}')"


TOOLTIP = {
    "renderMode": "richText",  # drawn, so that no name can be HTML
    "confine": True,
    ":backgroundColor": colour("card"),
    ":borderColor": colour("edge"),
    "textStyle": {":color": colour("ink"), "fontSize": 12},
}
SHADES = "['--card', '--heat-1', '--heat-2', '--heat-3'].map(n => getComputedStyle(document.body).getPropertyValue(n))"
"""From nothing to all."""


def line(
    name: str, points: Points, shade: str, *, width: float = 2, has_dots: bool = False, **style: Any
) -> dict[str, Any]:
    """Return a curve; with dots it shows each of its points, unless these are many."""
    return {
        "type": "line",
        "name": name,
        "data": points,
        "lineStyle": style | {"width": width, "color": shade},
        "itemStyle": {"color": shade, "opacity": style.get("opacity", 1)},
        "symbol": "circle",
        "symbolSize": 6,
        "showSymbol": has_dots and len(points) <= MOST_DOTS,
    }


def heat_map(weights: npt.NDArray[Any] | None = None, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return a picture of weights (T, T) from 0 to 1, NaN for none; `names` are of rows and columns."""
    weights = np.empty((0, 0)) if weights is None else weights
    rows, columns = np.nonzero(np.isfinite(weights))
    of_cells = weights[rows, columns]
    cells = np.stack([columns, rows, np.sqrt(of_cells), of_cells], axis=1).astype(np.float32)  # roots: small ones show
    axis: dict[str, Any] = {
        "type": "category",
        "data": [*names],
        "axisLabel": {":color": colour("soft"), "fontFamily": "monospace"},
        "axisTick": {"show": False},
        "axisLine": {"show": False},
    }
    return {
        "animation": False,
        "grid": {"left": 4, "right": 4, "top": 4, "bottom": 4, "containLabel": True},
        "xAxis": axis | {"position": "top", "axisLabel": axis["axisLabel"] | {"rotate": 90}},
        "yAxis": axis | {"inverse": True},
        "tooltip": TOOLTIP | {"trigger": "item", ":formatter": "p => (100 * p.value[3]).toFixed(1) + '%'"},
        "visualMap": {"show": False, "min": 0, "max": 1, "dimension": 2, "inRange": {":color": SHADES}},
        "series": [{"type": "heatmap", "data": cells}],
    }


def options(series: list[dict[str, Any]], *, digits: int = 4, has_legend: bool = True) -> dict[str, Any]:
    """Return a chart of some curves over steps."""
    axis: dict[str, Any] = {
        "axisLabel": {":color": colour("soft"), "hideOverlap": True},
        "axisLine": {"lineStyle": {":color": colour("edge")}},
        "splitLine": {"lineStyle": {":color": colour("edge")}},
    }
    steps: dict[str, Any] = {"type": "value", "min": 0, "max": "dataMax", "splitLine": {"show": False}}
    steps |= {"minInterval": 1, "axisPointer": {"label": {"precision": 0}}}
    whole = {":formatter": "v => Math.round(v).toLocaleString('en')"}
    steps["axisLabel"] = axis["axisLabel"] | whole | {"showMaxLabel": False}  # it would not fit
    number = f"v => v == null ? '' : Number(Number(v).toPrecision({digits})).toLocaleString('en')"
    tooltip = TOOLTIP | {"trigger": "axis", ":valueFormatter": number}
    return {
        "animation": False,
        "grid": {"left": 4, "right": 16, "top": 34 if has_legend else 14, "bottom": 4, "containLabel": True},
        "legend": {
            "show": has_legend,
            "type": "scroll",
            "top": 0,
            "left": 0,
            "icon": "roundRect",
            "itemWidth": 16,
            "itemHeight": 4,
            "textStyle": {":color": colour("soft")},
        },
        "tooltip": tooltip,
        "xAxis": axis | steps,
        "yAxis": axis | {"type": "value", "scale": True},
        "dataZoom": [{"type": "inside", "zoomOnMouseWheel": "ctrl", "moveOnMouseWheel": False}],
        "series": series,
    }
