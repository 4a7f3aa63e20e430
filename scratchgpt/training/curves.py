"""Curves out of logs, with no more points than a picture shows."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratchgpt.ops.array import Array
from scratchgpt.training import logs

STRETCHES = 1000
"""Into so many parts a curve is divided to be thinned."""


class Curve(NamedTuple):
    """Points from left to right; NaN where there is no number."""

    x: Array  # (N,) steps, tokens, or seconds
    y: Array  # (N,) loss in nats a token


class Curves(NamedTuple):
    """The losses of one run."""

    training: Curve
    validation: Curve  # over the fixed windows


def read(run: Path, against: str) -> Curves:
    """Read a run's log; `against` is steps, tokens, or time: that of training steps alone. Raises DataError."""
    training, validation = [], []
    tokens, seconds = 0.0, 0.0
    for row in logs.read(run / logs.NAME):
        if row is None:
            continue
        if "loss" in row:
            milliseconds = row.get("step_ms") or 0.0
            seconds += milliseconds / 1e3
            tokens += tokens_of(row)
            training.append(({"steps": row["step"], "tokens": tokens, "time": seconds}[against], row["loss"]))
        elif "val_loss" in row and not row.get("val_whole"):
            validation.append(({"steps": row["step"], "tokens": tokens, "time": seconds}[against], row["val_loss"]))
    return Curves(_curve(training), _curve(validation))


def tokens_of(row: logs.Row) -> int:
    """Return how many tokens a step computed; logs of older versions only say how many a second."""
    return row.get("tokens") or round((row.get("tokens_per_s") or 0.0) * (row.get("step_ms") or 0.0) / 1e3)


def _curve(points: list[tuple[float, float | None]]) -> Curve:
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return Curve(x, y)


def smoothed(curve: Curve, width: int) -> Curve:
    """Return for each point the mean over the `width` around it, of those that are numbers."""
    is_number = np.isfinite(curve.y)
    sums = np.append(0.0, np.cumsum(np.where(is_number, curve.y, 0.0)))
    counts = np.append(0, np.cumsum(is_number))
    index = np.arange(len(curve.y))
    low, high = np.maximum(index - (width - 1) // 2, 0), np.minimum(index + width // 2 + 1, len(index))
    n = counts[high] - counts[low]
    return Curve(curve.x, np.where(n > 0, (sums[high] - sums[low]) / np.maximum(n, 1), np.nan))


def outline(curve: Curve, stretches: int = STRETCHES) -> Curve:
    """Return the lowest and the highest point of each stretch: what of a dense curve can be seen, with its spikes."""
    if len(curve.x) <= 2 * stretches:
        return curve
    starts = np.linspace(0, len(curve.x), stretches, endpoint=False).astype(int)
    lowest, highest = np.fmin.reduceat(curve.y, starts), np.fmax.reduceat(curve.y, starts)
    return Curve(np.repeat(curve.x[starts], 2), np.stack([lowest, highest], axis=1).ravel())


def sparse(curve: Curve, stretches: int = STRETCHES) -> Curve:
    """Return points at equal distances, the first and the last among them: what a smooth curve needs."""
    if len(curve.x) <= 2 * stretches:
        return curve
    index = np.linspace(0, len(curve.x) - 1, 2 * stretches).astype(int)
    return Curve(curve.x[index], curve.y[index])
