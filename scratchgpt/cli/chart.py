"""A chart in a terminal: curves that fit any size, with labels that are true at any size."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from textual.app import RenderResult
from textual_plotext import PlotextPlot
from textual_plotext.plot import Plot

from scratchgpt.cli.axis import horizontal, logarithmic, vertical

SMALLEST = (16, 4)
"""Columns and rows without which there is no chart."""
AXIS_ROWS = 2
"""Rows of the horizontal axis: the line and its labels."""


class Series(NamedTuple):
    """Points that are drawn alike."""

    steps: Sequence[int]
    values: Sequence[float]
    marker: str  # "braille" for a line, else what is put at each point
    colour: str


class Picture(NamedTuple):
    """The curves of a chart, and between which values they are shown: positive ones if it is logarithmic."""

    low: float
    high: float
    series: Sequence[Series]
    is_log: bool = False


class Chart(PlotextPlot):
    """Curves, where there is room for them."""

    picture: Picture | None = None

    def show(self, picture: Picture) -> None:
        """Draw these curves."""
        self.picture = picture
        self.refresh()

    def render(self) -> RenderResult:
        """Draw."""
        width, height = self.size
        if self.picture is None or width < SMALLEST[0] or height < SMALLEST[1]:
            return ""
        if not any(series.steps for series in self.picture.series):
            return ""
        prepare(self.plt, self.picture, width, height)
        return super().render()


def prepare(plot: Plot, picture: Picture, width: int, height: int) -> None:
    """Tell plotext what to draw in a chart of this size.

    The labels are ours. Of its own ones, plotext writes several into one row where rows are few.
    """
    plot.clear_data()
    series = [_logarithmic(each) for each in picture.series] if picture.is_log else picture.series
    axis = (logarithmic if picture.is_log else vertical)(picture.low, picture.high, height - AXIS_ROWS)
    plot.xaxes(True, False)  # noqa: FBT003 - plotext's signature: below, but not above
    plot.yaxes(True, False)  # noqa: FBT003 - at the left, but not at the right
    plot.ylim(axis.low, axis.high)
    plot.yticks(axis.ticks, axis.labels)
    steps = [step for each in series for step in each.steps]
    n_columns = max(width - 1 - max(map(len, axis.labels), default=0), 2)
    axis = horizontal(min(steps), max(steps), n_columns)
    plot.xlim(axis.low, axis.high)
    plot.xticks(axis.ticks, axis.labels)
    for each in series:
        draw = plot.plot if each.marker == "braille" else plot.scatter
        every = slice(None, None, 1 + len(each.steps) // n_columns)  # a point a column is enough
        if each.steps:
            draw(each.steps[every], each.values[every], marker=each.marker, color=each.colour)


def _logarithmic(series: Series) -> Series:
    """Return the series with the logarithms of its positive values."""
    points = [(step, math.log10(value)) for step, value in zip(series.steps, series.values, strict=True) if value > 0]
    return series._replace(steps=[step for step, _ in points], values=[value for _, value in points])
