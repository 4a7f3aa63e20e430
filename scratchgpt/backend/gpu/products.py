"""Attention by products of matrices, with softmax and dropout between them.

It keeps the probabilities of all pairs of positions, and reads and writes them several times; the products themselves
run at cuBLAS's speed, for any size of heads and any type.
"""

import math
from typing import NamedTuple

from scratchgpt.backend.gpu import heads, softmax
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.ops.array import Array


class Saved(NamedTuple):
    """Values that the backward needs."""

    parts: Array  # (3, B, H, T, D): queries, keys and values
    probabilities: Array  # (B, H, T, T): before dropout


def forward(device: Device, qkv: Array, bias: Array | None, H: int, mask: Mask) -> tuple[Array, Saved]:
    """y = dropout(softmax(q kᵀ / √D + causal)) v. qkv (B, T, 3C), to which bias (3C,) is added -> y (B, T, C)."""
    parts = heads.split(device, qkv, bias, 3, H)
    _, B, H, T, D = parts.shape
    q, k, v = parts.reshape(3, B * H, T, D)
    scores = device.empty((B, H, T, T), qkv.dtype)
    # Divided before they are rounded: in half precision, they might overflow.
    device.matmul(q, k.swapaxes(-1, -2), scores.reshape(B * H, T, T), factor=1 / math.sqrt(D))
    weights = softmax.forward(device, scores, mask)
    y = device.empty((1, B, H, T, D), qkv.dtype)
    device.matmul(weights.reshape(B * H, T, T), v, y.reshape(B * H, T, D))
    return heads.join(device, y), Saved(parts, scores)


def keys_and_values(
    device: Device,  # noqa: ARG001 - there is nothing left to compute
    saved: Saved,
    bias: Array | None,  # noqa: ARG001 - it has been added to what is saved
    H: int,  # noqa: ARG001
) -> tuple[Array, Array]:
    """Return the keys and the values, each (B, H, T, D)."""
    _, keys, values = saved.parts
    return keys, values


def backward(
    device: Device,
    dy: Array,
    saved: Saved,
    bias: Array | None,  # noqa: ARG001 - it has been added to what is saved
    H: int,
    mask: Mask,
) -> Array:
    """dy (B, T, C) -> dqkv (B, T, 3C). The other arguments are those of the forward."""
    parts, probabilities = saved
    _, B, H, T, D = parts.shape
    q, k, v = parts.reshape(3, B * H, T, D)
    dparts = device.empty(parts.shape, parts.dtype)
    dq, dk, dv = dparts.reshape(3, B * H, T, D)
    dheads = heads.split(device, dy, None, 1, H).reshape(B * H, T, D)

    weights = softmax.dropped(device, probabilities, mask).reshape(B * H, T, T)
    device.matmul(weights.swapaxes(-1, -2), dheads, dv)
    dscores = device.empty(probabilities.shape, probabilities.dtype)
    flat = dscores.reshape(B * H, T, T)
    device.matmul(dheads, v.swapaxes(-1, -2), flat)
    softmax.backward(device, dscores, probabilities, mask)
    device.matmul(flat, k, dq, factor=1 / math.sqrt(D))
    device.matmul(flat.swapaxes(-1, -2), q, dk, factor=1 / math.sqrt(D))
    return heads.join(device, dparts)
