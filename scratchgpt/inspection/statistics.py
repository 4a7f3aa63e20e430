"""What a tensor's numbers are like, without looking at more of them at once than a little."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scratchgpt.model.tensors import DTYPES, Tensor

CHUNK = 2**20
"""Numbers looked at together."""


class Statistics(NamedTuple):
    """What a tensor's numbers are like; mean, deviation and extremes are those of the finite ones, None of none."""

    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    n_nan: int = 0
    n_infinite: int = 0


def statistics(tensor: Tensor, progress: Callable[[int], None] = lambda _: None) -> Statistics | None:
    """Look at all numbers of a tensor, of which `progress` is told; None if they are of a type that NumPy lacks."""
    if tensor.dtype not in DTYPES:
        return None
    n, mean, squares, n_nan, n_infinite = 0, 0.0, 0.0, 0, 0
    smallest, largest = math.inf, -math.inf
    for start in range(0, tensor.size, CHUNK):
        values = tensor.stored(slice(start, start + CHUNK)).astype(np.float64)
        progress(len(values))
        n_nan += int(np.isnan(values).sum())
        n_infinite += int(np.isinf(values).sum())
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        smallest, largest = min(smallest, float(values.min())), max(largest, float(values.max()))
        # Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979.
        with np.errstate(over="ignore", invalid="ignore"):
            own_mean = float(values.mean())
            step = own_mean - mean
            squares += float(np.square(values - own_mean).sum()) + step * step * n * values.size / (n + values.size)
        n += values.size
        mean += step * values.size / n
    if not n:
        return Statistics(n_nan=n_nan, n_infinite=n_infinite)
    return Statistics(mean, math.sqrt(squares / n), smallest, largest, n_nan, n_infinite)
