"""Flash attention: no array of T × T numbers anywhere. Kernels and their ladder: ops/attention.cu."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.backend.gpu.kernels import SOURCES, TYPES
from scratchgpt.ops.array import Array

THREADS = 128
LANES = 8
"""That share a row."""

BACKWARD_OWNED = 32
"""Rows that a block of the backward owns."""


class Saved(NamedTuple):
    """What the backward needs."""

    qkv: Array  # (B, T, 3C): without its bias
    heads: Array  # (B, T, C): the result
    lse: Array  # (B, H, T): the logarithm of each row's sum of exponentials


def supports(dtype: npt.DTypeLike, D: int) -> bool:
    """Return whether there are kernels for heads of this size."""
    return D in SOURCES["attention"].variants.get(TYPES[np.dtype(dtype)], ())


def forward(device: Device, qkv: Array, bias: Array | None, n_head: int, mask: Mask) -> tuple[Array, Saved]:
    """heads = dropout(softmax(q kᵀ / √D + causal)) v, for each sequence and head.

    qkv (B, T, 3C), bias (3C,), to be added to it -> heads (B, T, C).
    """
    B, T, C, D = _sizes(qkv, n_head)
    heads = device.empty((B, T, C), qkv.dtype)
    lse = device.empty((B, n_head, T), qkv.dtype)
    grid = (math.ceil(T / _forward_owned(qkv.dtype, D)), n_head, B)
    device.launch("attention_forward", qkv.dtype, D, grid, THREADS, qkv, bias, heads, lse, T, n_head, *mask)
    return heads, Saved(qkv, heads, lse)


def backward(device: Device, dheads: Array, saved: Saved, bias: Array | None, n_head: int, mask: Mask) -> Array:
    """Return dqkv (B, T, 3C). dheads (B, T, C), bias and mask as in the forward."""
    qkv, heads, lse = saved
    B, T, C, D = _sizes(qkv, n_head)
    dtype = qkv.dtype
    delta, dqkv = device.empty(lse.shape, lse.dtype), device.empty((B, T, 3 * C), dtype)
    grid: tuple[int, ...] = (math.ceil(B * T * n_head * LANES / THREADS),)
    device.launch("attention_delta", dtype, D, grid, THREADS, dheads, heads, delta, B, T, n_head)
    grid = (math.ceil(T / BACKWARD_OWNED), n_head, B)
    for kernel in ("attention_backward_keys", "attention_backward_queries"):
        device.launch(kernel, dtype, D, grid, THREADS, qkv, bias, dheads, lse, delta, dqkv, T, n_head, *mask)
    return dqkv


def _sizes(qkv: Array, n_head: int) -> tuple[int, int, int, int]:
    """Return B, T, C, D."""
    B, T, width = qkv.shape
    return B, T, width // 3, width // 3 // n_head


def _forward_owned(dtype: npt.DTypeLike, D: int) -> int:
    """Return how many rows a block of the forward owns: FORWARD_OWNED in ops/attention.cu."""
    return 64 if np.dtype(dtype).itemsize == 4 and D <= 64 else 32
