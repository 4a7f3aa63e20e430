"""Causal multi-head attention between given queries, keys and values. Derivation: attention.md."""

import math
from typing import NamedTuple

from scratchgpt.ops import dropout, softmax
from scratchgpt.ops.array import Array, array_module


class Saved(NamedTuple):
    """Values that the backward needs."""

    q: Array  # (B, H, T, D)
    k: Array  # (B, H, T, D)
    v: Array  # (B, H, T, D)
    probabilities: Array  # (B, H, T, T): softmax's result, 0 above the diagonal
    weights: Array  # (B, H, T, T): the probabilities after dropout
    mask: Array | None  # (B, H, T, T): dropout's


def forward(q: Array, k: Array, v: Array, mask: Array | None = None) -> tuple[Array, Saved]:
    """y = dropout(softmax(q kᵀ / √D + causal)) v, for each sequence and head.

    q, k, v (B, H, T, D), mask (B, H, T, T) or None -> y (B, H, T, D). Position t sees positions 0..t.
    Vaswani et al.: Attention Is All You Need, 2017 (arXiv 1706.03762).
    """
    xp = array_module(q)
    T, D = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(D))
    visible = xp.tril(xp.ones((T, T), dtype=bool))
    probabilities, _ = softmax.forward(xp.where(visible, scores, -math.inf))
    weights, _ = dropout.forward(probabilities, mask)
    return weights @ v, Saved(q, k, v, probabilities, weights, mask)


def backward(dy: Array, saved: Saved) -> tuple[Array, Array, Array]:
    """dv = Aᵀ dy;  dA = dy vᵀ through dropout and softmax gives dS;  dq = dS k / √D,  dk = dSᵀ q / √D.

    dy (B, H, T, D) -> dq, dk, dv, each (B, H, T, D). What is above the diagonal needs no mask here:
    its probability is 0, and softmax's backward multiplies by it.
    """
    q, k, v, probabilities, weights, mask = saved
    dv = weights.swapaxes(-1, -2) @ dy
    dprobabilities = dropout.backward(dy @ v.swapaxes(-1, -2), mask)
    dscores = softmax.backward(dprobabilities, probabilities) * (1 / math.sqrt(q.shape[-1]))
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv


def between(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """y = softmax(q kᵀ / √D + mask) v, for queries that meet keys of other positions, too.

    q (B, H, T, D), k, v (B, H, n, D), mask (B or 1, 1, T, n) or None -> y (B, H, T, D).
    """
    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]))
    weights, _ = softmax.forward(scores if mask is None else scores + mask)
    y: Array = weights @ v
    return y


def split_heads(x: Array, n_head: int) -> Array:
    """(B, T, C) -> (B, H, T, D): a view."""
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """(B, H, T, D) -> (B, T, C): the inverse of `split_heads`."""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * D)
