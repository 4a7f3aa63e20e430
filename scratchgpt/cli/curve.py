"""A curve of any number of points in constant memory, and how it looks in one line of text."""

import math
from collections.abc import Sequence

MOST_POINTS = 400
SMOOTHING = 0.1
"""Weight of a new point in the smoothed curve; more at first, where there are few."""
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"


FALL = 0.05
"""Part of a run in which the loss falls so far that what comes after would look flat beside it."""


class Curve:
    """Points in the order of their steps; of many, only every second, fourth, ... is kept."""

    def __init__(self) -> None:
        """Begin without points."""
        self.steps: list[int] = []
        self.raw: list[float] = []
        self.smooth: list[float] = []  # the running mean at the same steps
        self._n = 0
        self._mean = 0.0
        self._stride = 1

    def add(self, step: int, value: float) -> None:
        """Add a point, unless it is not finite."""
        if not math.isfinite(value):
            return
        self._n += 1
        self._mean += max(SMOOTHING, 2 / (self._n + 1)) * (value - self._mean)
        if (self._n - 1) % self._stride:
            return
        for values, new in ((self.steps, step), (self.raw, value), (self.smooth, self._mean)):
            values.append(new)  # type: ignore[arg-type]
        if len(self.steps) > MOST_POINTS:
            for values in (self.steps, self.raw, self.smooth):
                del values[1::2]
            self._stride *= 2

    @property
    def mean(self) -> float:
        """The running mean at the last step."""
        return self._mean


def heights(curve: Curve, steps: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Return between what a curve and other values at `steps` are to be seen: all but the fall at the beginning."""
    points = [*zip(curve.steps, curve.smooth, strict=False), *zip(steps, values, strict=False)]
    first = FALL * max((step for step, _ in points), default=0)
    low = min([*curve.raw, *values], default=0.0)
    high = max((value for step, value in points if step >= first), default=1.0)
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def sparkline(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """Return a line of at most `width` blocks, the highest for the largest of the values."""
    values = list(values)  # another thread may be adding to them
    width = min(width, len(values))
    chosen = [values[(column + 1) * len(values) // width - 1] for column in range(width)]
    low, high = min(chosen, default=0.0), max(chosen, default=0.0)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] for value in chosen)
