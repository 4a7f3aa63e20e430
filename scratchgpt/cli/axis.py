"""Axes of pictures made of characters. Each label is the value of the row or column at which it stands."""

import math
from typing import NamedTuple

ROUND = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
"""From one row to the next, a value changes by one of these, times a power of ten."""
ROUND_STEPS = (1, 2, 5)
"""From one label to the next, a step changes by one of these, times a power of ten."""
SMALLEST, LARGEST = 1e-12, 1e12
"""Changes and values beyond these have labels in the form 1.25e+20."""


class Axis(NamedTuple):
    """The range of an axis, and its labels."""

    low: float  # the value of the first row or column
    high: float  # the value of the last one
    ticks: list[float]
    labels: list[str]


def vertical(low: float, high: float, n_rows: int) -> Axis:
    """Return an axis that shows low to high in n_rows rows, at least two.

    Every row has a round value. So labels are exact and at equal distances.
    """
    if not high > low:
        margin = abs(low) * 0.1 or 0.1
        low, high = low - margin, high + margin
    part, exponent = _change(low, high, n_rows)
    change = float(f"{part}e{exponent}")
    first = math.floor(low / change + 1e-6)
    apart = 1 if n_rows < 3 else 2 if n_rows < 12 else 4
    ticks = [row * change for row in range(first, first + n_rows) if row % apart == 0]
    decimals = len(f"{part:g}".partition(".")[2]) - exponent
    return Axis(first * change, (first + n_rows - 1) * change, ticks, _labels(ticks, change, max(decimals, 0)))


def logarithmic(low: float, high: float, n_rows: int) -> Axis:
    """Return an axis of logarithms to the base of ten; the labels are the values, to half a row or less."""
    axis = vertical(math.log10(low), math.log10(high), n_rows)
    part_of_row = 10 ** ((axis.high - axis.low) / (n_rows - 1)) - 1
    digits = max(2, math.ceil(1 - math.log10(part_of_row / 2)))
    return axis._replace(labels=[_plain(f"{10**tick:.{digits}g}") for tick in axis.ticks])


def _plain(number: str) -> str:
    """Return a number without an exponent where that is not longer than 9 characters."""
    plain = f"{float(number):,f}".rstrip("0").rstrip(".") if "e" in number else number
    return plain if len(plain) <= 9 else number


def _change(low: float, high: float, n_rows: int) -> tuple[float, int]:
    """Return the smallest round change of value a row with which low to high fit, as a number and a power of ten."""
    exponent = math.floor(math.log10((high - low) / n_rows)) - 1
    while True:
        for part in ROUND:
            change = float(f"{part}e{exponent}")
            if math.floor(low / change + 1e-6) + n_rows - 1 >= high / change - 1e-6:
                return part, exponent
        exponent += 1


def _labels(ticks: list[float], change: float, decimals: int) -> list[str]:
    """Return the values as texts with as many decimals as they need, all with the same number."""
    if change < SMALLEST or max(map(abs, ticks), default=0.0) > LARGEST:
        return [f"{tick:.6g}" for tick in ticks]
    labels = [f"{tick:,.{decimals}f}" for tick in ticks]
    while decimals and all(label.endswith("0") for label in labels):
        decimals -= 1
        labels = [label[:-1].removesuffix(".") for label in labels]
    return labels


def horizontal(first: int, last: int, n_columns: int) -> Axis:
    """Return an axis of steps in n_columns columns, with as many round labels as there is room for."""
    last = max(last, first + 1)
    width = len(f"{last:,}") + 2
    every = next(
        part * 10**exponent
        for exponent in range(20)
        for part in ROUND_STEPS
        if part * 10**exponent * (n_columns - 1) >= width * (last - first) or part * 10**exponent > last
    )
    steps = range(-(-first // every) * every, last + 1, every)
    return Axis(first, last, [float(step) for step in steps], [f"{step:,}" for step in steps])
