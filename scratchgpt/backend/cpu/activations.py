"""Activations in place, which also give their derivative: the backward only multiplies by it."""

from collections.abc import Callable

import numpy as np

from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops.array import Array
from scratchgpt.ops.gelu import CUBIC, SCALE

Activation = Callable[[Array, Array, Workspace], None]
"""Turns x (n,) into its activation, in place, and fills slope (n,) with the derivative."""


def gelu(x: Array, slope: Array, workspace: Workspace) -> None:
    """Apply GELU to x (n,), in place, and fill slope (n,) with its derivative.

    With p = (1 + tanh u)/2, y = x p: the derivative p + x · 2 p (1 - p) · u' is p + 2 y (1 - p) u'.
    """
    square, p = (workspace.take(name, x.shape, x.dtype) for name in ("gelu square", "gelu p"))
    np.multiply(x, x, out=square)
    np.multiply(square, SCALE * CUBIC, out=p)
    p += SCALE
    p *= x
    np.tanh(p, out=p)
    p += 1
    p *= 0.5
    x *= p  # y
    square *= 6 * SCALE * CUBIC
    square += 2 * SCALE  # 2 u'
    square *= x
    np.subtract(1, p, out=slope)
    slope *= square
    slope += p


def relu(x: Array, slope: Array, workspace: Workspace) -> None:  # noqa: ARG001 - it needs no buffers
    """Apply ReLU to x (n,), in place, and fill slope (n,) with its derivative."""
    np.greater(x, 0, out=slope)
    np.maximum(x, 0, out=x)
