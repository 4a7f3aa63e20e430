"""How curves look: options for ECharts. Colours come from the page, which may be light or dark."""

from typing import Any

from scratchgpt.web.history import Points

COLOURS = ("#4c7dff", "#f0883e", "#2da44e", "#bf5af2", "#e5484d", "#12a594")
"""For runs that are compared."""
MOST_DOTS = 60
FAINT = 0.25


def colour(name: str) -> str:
    """Return JavaScript for a colour that the page's style sheet names."""
    return f"getComputedStyle(document.body).getPropertyValue('--{name}')"


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


def options(series: list[dict[str, Any]], *, digits: int = 4, has_legend: bool = True) -> dict[str, Any]:
    """Return a chart of some curves over steps."""
    axis: dict[str, Any] = {
        "axisLabel": {":color": colour("soft"), "hideOverlap": True},
        "axisLine": {"lineStyle": {":color": colour("edge")}},
        "splitLine": {"lineStyle": {":color": colour("edge")}},
    }
    steps: dict[str, Any] = {"type": "value", "min": 0, "max": "dataMax", "splitLine": {"show": False}}
    steps["axisLabel"] = axis["axisLabel"] | {"showMaxLabel": False}  # it would not fit
    tooltip = {
        "trigger": "axis",
        "renderMode": "richText",  # drawn, so that no name can be HTML
        "confine": True,
        ":backgroundColor": colour("card"),
        ":borderColor": colour("edge"),
        "textStyle": {":color": colour("ink"), "fontSize": 12},
        ":valueFormatter": f"v => v == null ? '' : Number(Number(v).toPrecision({digits})).toLocaleString('en')",
    }
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
