"""Softmax over the last axis. Derivation: softmax.md."""

from scratchgpt.ops.array import Array, array_module


def forward(x: Array) -> tuple[Array, Array]:
    """yᵢ = exp xᵢ / Σⱼ exp xⱼ, computed from x - max x so that nothing overflows.

    x (..., N) -> y (..., N), saved y. An entry may be -inf (probability 0) if its row has a finite one.
    """
    xp = array_module(x)
    exps = xp.exp(x - x.max(axis=-1, keepdims=True))
    y = exps / exps.sum(axis=-1, keepdims=True)
    return y, y


def backward(dy: Array, saved: Array) -> Array:
    """dx = y · (dy - Σⱼ dyⱼ yⱼ).

    dy (..., N), saved (..., N) -> dx (..., N).
    """
    y = saved
    weighted = dy * y
    return weighted - y * weighted.sum(axis=-1, keepdims=True)
