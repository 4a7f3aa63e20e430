"""Pictures on the page, which picture.js draws in the page's colours: curves of runs, and where a head looks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from nicegui import ui

from scratchgpt.web.history import Points

N_SHADES = 6
"""Colours that style.css names --curve-1, --curve-2, ..."""


class Curve(NamedTuple):
    """A curve of one run."""

    number: int  # of the run among those that are compared, from 1: it stands at the curve's end
    run: str  # its name, "" if there is no other
    what: str  # "training", "validation", "each step", or "" in a chart of one kind of curve
    points: Points

    def options(self) -> dict[str, Any]:
        """Return what picture.js needs to know."""
        return self._asdict() | {"shade": (self.number - 1) % N_SHADES + 1}

    def summary(self) -> str:
        """Return its values for people who do not see it, nothing if there are none."""
        values = self.points[:, 1]
        values = values[np.isfinite(values)]
        name = ", ".join(filter(None, (self.run, self.what)))
        return (
            f"{name}: starts at {values[0]:.4g}, ends at {values[-1]:.4g}, lowest {values.min():.4g}."
            if len(values) and self.what != "each step"
            else ""
        )


class Picture(ui.echart, component="picture.js"):
    """A chart; it sends "zoom" with the part of its width, from 0 to 1, that a person wants to see."""

    def __init__(self) -> None:
        """Begin without a picture."""
        super().__init__({})
        self.classes("chart").props("role=img")
        self.describe("Nothing is drawn yet")

    def describe(self, words: str) -> None:
        """Say what the picture shows, to people who do not see it."""
        self.props["aria-label"] = words

    def show_curves(
        self,
        title: str,
        curves: Sequence[Curve],
        *,
        x: str = "step",
        span: tuple[float, float] = (0, 1),
        is_logarithmic: bool = False,
        is_large: bool = False,
    ) -> None:
        """Show curves over `x`, within a part of its width."""
        self.describe(" ".join([f"{title} by {x}.", *filter(None, (curve.summary() for curve in curves))]))
        self.options["curves"] = [curve.options() for curve in curves]
        self.options.update({"x": x, "span": span, "isLogarithmic": is_logarithmic, "isLarge": is_large})
        self.update()

    def show_map(self, weights: npt.NDArray[Any], labels: Sequence[str], words: str) -> None:
        """Show weights (T, T) from 0 to 1, NaN for none; `labels` are of rows and columns."""
        self.describe(words)
        self.options.clear()
        self.options.update({"labels": [*labels], "weights": weights.astype(np.float32)})
        self.style(f"--cells: {len(labels)}")
        self.update()
