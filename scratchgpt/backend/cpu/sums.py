"""Sums over rows and columns as products.

A sum along a row of 128 costs NumPy eight times what a product with a vector of ones costs: 3% of a step of gpt-nano.
"""

import functools

import numpy as np
import numpy.typing as npt

from scratchgpt.ops.array import Array


@functools.cache
def ones(n: int, dtype: npt.DTypeLike) -> Array:
    """Return (n,) ones, always the same array."""
    array = np.ones(n, dtype)
    array.flags.writeable = False
    return array


def add_column_sums(rows: Array, out: Array) -> None:
    """out += Σ rows. rows (R, N), out (N,)."""
    out += ones(len(rows), rows.dtype.name) @ rows


def are_safe(sums: Array) -> bool:
    """Return whether sums of exponentials, and small gradients, can be divided by: none is nan, huge or nearly 0."""
    return bool(sums.max() < 1e12 and sums.min() > 1e-12)
