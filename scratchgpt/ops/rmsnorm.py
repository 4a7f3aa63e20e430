"""Root-mean-square normalisation over the channels. Derivation: rmsnorm.md."""

from typing import NamedTuple

from scratchgpt.ops.array import Array, array_module

EPSILON = 1e-5
"""Added to the mean square, as Llama 2 and later do."""


class Saved(NamedTuple):
    """Values that the backward needs."""

    xhat: Array  # (..., C): the normalised input
    rrms: Array  # (..., 1): the reciprocal root mean square
    has_bias: bool


def forward(x: Array, gain: Array, bias: Array | None = None, epsilon: float = EPSILON) -> tuple[Array, Saved]:
    """y = x̂ · gain + bias  with  x̂ = x · rrms,  rrms = 1 / √(mean x² + ε).

    x (..., C), gain (C,), bias (C,) or None -> y (..., C).
    Zhang, Sennrich: Root Mean Square Layer Normalization, 2019 (arXiv 1910.07467).
    """
    xp = array_module(x)
    rrms = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon)
    xhat = x * rrms
    y = xhat * gain
    if bias is not None:
        y += bias
    return y, Saved(xhat, rrms, bias is not None)


def backward(dy: Array, saved: Saved, gain: Array) -> tuple[Array, Array, Array | None]:
    """dx = rrms · (dx̂ - x̂ · mean(dx̂ · x̂))  with  dx̂ = dy · gain.

    dy (..., C), gain (C,) -> dx (..., C), dgain (C,), dbias (C,) or None.
    """
    xhat, rrms, has_bias = saved
    rows = tuple(range(dy.ndim - 1))
    dgain = (dy * xhat).sum(axis=rows)
    dbias = dy.sum(axis=rows) if has_bias else None
    dxhat = dy * gain
    along = (dxhat * xhat).mean(axis=-1, keepdims=True)
    return rrms * (dxhat - xhat * along), dgain, dbias
