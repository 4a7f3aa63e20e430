"""Norms of the residual stream on buffers that stay the same.

A norm and the linear map behind it are one: norm(x) W + b = (x̂ · gain) W + offset. So a norm here has no bias. Its gain
comes times √C, since it divides by √C times the deviation: that saves dividing a sum by C.
"""

import math
from collections.abc import Callable

import numpy as np

from scratchgpt.ops.array import Array, array_module

Norm = Callable[[Array], None]
"""Fills `normed` (R, C) from x (R, C), given the gain (C,) times √C."""


def layernorm(x: Array, normed: Array, epsilon: float) -> Norm:
    """Divide x - mean by √(Σ (x - mean)² + ε C)."""
    xp, (R, C) = array_module(x), x.shape
    mean = xp.full(C, 1 / C, x.dtype)
    if xp is np and R == 1:
        return _layernorm_of_a_row(x[0], normed[0], mean, epsilon * C)
    dots = xp.empty(R, x.dtype)
    column = dots[:, None]
    shift = xp.full((), epsilon * C, x.dtype)  # NumPy takes half a microsecond to make an array of a number
    dot_rows = np.vecdot if xp is np else _dot_rows  # CuPy has no vecdot

    def normalise(gain: Array) -> None:
        nonlocal dots, normed  # in place: an operator is quicker to call than a function with `out`
        dot_rows(x, mean, out=dots)
        xp.subtract(x, column, out=normed)
        dot_rows(normed, normed, out=dots)
        dots += shift
        xp.sqrt(dots, out=dots)
        normed /= column
        normed *= gain

    return normalise


def _layernorm_of_a_row(x: Array, normed: Array, mean: Array, shift: float) -> Norm:
    """Do the same for a single row (C,) on a CPU, where numbers are quicker than arrays of one number."""
    number = np.empty((), x.dtype)

    def normalise(gain: Array) -> None:
        nonlocal normed
        np.dot(x, mean, out=number)
        np.subtract(x, number, out=normed)
        np.dot(normed, normed, out=number)
        number[()] = 1 / math.sqrt(float(number) + shift)
        normed *= number
        normed *= gain

    return normalise


def rmsnorm(x: Array, normed: Array, epsilon: float) -> Norm:
    """Divide x by √(Σ x² + ε C)."""
    xp, (R, C) = array_module(x), x.shape
    dots = xp.empty(R, x.dtype)
    column = dots[:, None]
    shift = xp.full((), epsilon * C, x.dtype)
    dot_rows = np.vecdot if xp is np else _dot_rows

    def normalise(gain: Array) -> None:
        nonlocal dots, normed
        dot_rows(x, x, out=dots)
        dots += shift
        xp.sqrt(dots, out=dots)
        xp.divide(x, column, out=normed)
        normed *= gain

    return normalise


def _dot_rows(a: Array, b: Array, out: Array) -> None:
    """out = Σ a · b along rows (B, C)."""
    out[...] = (a * b).sum(axis=-1)


NORMS: dict[str, Callable[[Array, Array, float], Norm]] = {"layernorm": layernorm, "rmsnorm": rmsnorm}
"""By the names of the configuration: (x, normed, epsilon) -> the norm."""
