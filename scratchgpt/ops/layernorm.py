"""Layer normalisation over the channels. Derivation: layernorm.md."""

from typing import NamedTuple

from scratchgpt.ops.array import Array, array_module

EPSILON = 1e-5
"""Added to the variance, as GPT-2 does."""


class Saved(NamedTuple):
    """Values that the backward needs."""

    xhat: Array  # (..., C): the normalised input
    rstd: Array  # (..., 1): the reciprocal standard deviation
    has_bias: bool


def forward(x: Array, gain: Array, bias: Array | None = None, epsilon: float = EPSILON) -> tuple[Array, Saved]:
    """y = x̂ · gain + bias  with  x̂ = (x - mean x) · rstd,  rstd = 1 / √(var x + ε).

    x (..., C), gain (C,), bias (C,) or None -> y (..., C). The variance is the biased one (over C).
    Ba, Kiros, Hinton: Layer Normalization, 2016 (arXiv 1607.06450).
    """
    xp = array_module(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    rstd = 1 / xp.sqrt(variance + epsilon)
    xhat = centred * rstd
    y = xhat * gain
    if bias is not None:
        y += bias
    return y, Saved(xhat, rstd, bias is not None)


def backward(dy: Array, saved: Saved, gain: Array) -> tuple[Array, Array, Array | None]:
    """dx = rstd · (dx̂ - mean dx̂ - x̂ · mean(dx̂ · x̂))  with  dx̂ = dy · gain.

    dy (..., C), gain (C,) -> dx (..., C), dgain (C,), dbias (C,) or None.
    """
    xhat, rstd, has_bias = saved
    rows = tuple(range(dy.ndim - 1))
    dgain = (dy * xhat).sum(axis=rows)
    dbias = dy.sum(axis=rows) if has_bias else None
    dxhat = dy * gain
    along = (dxhat * xhat).mean(axis=-1, keepdims=True)
    dx = rstd * (dxhat - dxhat.mean(axis=-1, keepdims=True) - xhat * along)
    return dx, dgain, dbias
