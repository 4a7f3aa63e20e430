"""Flash attention: no array of T × T numbers anywhere. Kernels and their ladders: ops/attention.cu, attention_half.cu.

Half precision has kernels of its own, for tensor cores. Their lse is float32, and so is the bias that they are given.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.backend.gpu.heads import split
from scratchgpt.backend.gpu.kernels import TYPES, sources
from scratchgpt.ops.array import Array

THREADS = 128
LANES = 8
"""That share a row."""

ON_TENSOR_CORES = "attention_half"
"""The file of kernels that multiply on tensor cores."""


class Saved(NamedTuple):
    """Values that the backward needs."""

    qkv: Array  # (B, T, 3C): without its bias
    heads: Array  # (B, T, C): the result
    lse: Array  # (B, H, T): the logarithm of each row's sum of exponentials


def needs_tensor_cores(dtype: npt.DTypeLike) -> bool:
    """Return whether the kernels for a type run only where there are tensor cores."""
    return _file(dtype) == ON_TENSOR_CORES


def supports(dtype: npt.DTypeLike, D: int) -> bool:
    """Return whether there are kernels for heads of this size."""
    return D in sources()[_file(dtype)].variants.get(TYPES[np.dtype(dtype)], ())


def forward(device: Device, qkv: Array, bias: Array | None, H: int, mask: Mask) -> tuple[Array, Saved]:
    """heads = dropout(softmax(q kᵀ / √D + causal)) v, for each sequence and head.

    qkv (B, T, 3C), to which bias (3C,) is added -> heads (B, T, C).
    """
    B, T, D = _sizes(qkv, H)
    dtype = qkv.dtype
    heads = device.empty((B, T, H * D), dtype)
    lse = device.empty((B, H, T), np.promote_types(dtype, np.float32))
    owned, _ = _owned(dtype, D)
    grid = (math.ceil(T / owned), H, B)
    device.launch(f"{_file(dtype)}_forward", dtype, D, grid, THREADS, qkv, bias, heads, lse, T, H, *mask)
    return heads, Saved(qkv, heads, lse)


def keys_and_values(device: Device, saved: Saved, bias: Array | None, H: int) -> tuple[Array, Array]:
    """Return the keys and the values, each (B, H, T, D), with their bias (3C,)."""
    _, keys, values = split(device, saved.qkv, bias, 3, H)
    return keys, values


def backward(device: Device, dheads: Array, saved: Saved, bias: Array | None, H: int, mask: Mask) -> Array:
    """Return dqkv (B, T, 3C). dheads (B, T, C), bias and mask as in the forward."""
    qkv, heads, lse = saved
    B, T, D = _sizes(qkv, H)
    dtype, file = qkv.dtype, _file(qkv.dtype)
    delta, dqkv = device.empty(lse.shape, lse.dtype), device.empty(qkv.shape, dtype)
    blocks = math.ceil(B * T * H * LANES / THREADS)
    device.launch(f"{file}_delta", dtype, D, blocks, THREADS, dheads, heads, delta, B, T, H)
    _, owned = _owned(dtype, D)
    grid = (math.ceil(T / owned), H, B)
    for kernel in (f"{file}_keys", f"{file}_queries"):
        device.launch(kernel, dtype, D, grid, THREADS, qkv, bias, dheads, lse, delta, dqkv, T, H, *mask)
    return dqkv


def _file(dtype: npt.DTypeLike) -> str:
    """Return where the kernels for a type are."""
    return ON_TENSOR_CORES if TYPES[np.dtype(dtype)] in sources()[ON_TENSOR_CORES].variants else "attention"


def _sizes(qkv: Array, H: int) -> tuple[int, int, int]:
    """Return B, T and the size of a head, D."""
    B, T, columns = qkv.shape
    return B, T, columns // (3 * H)


def _owned(dtype: npt.DTypeLike, D: int) -> tuple[int, int]:
    """Return how many rows a block owns, as the kernels' file has it: in the forward, in the backward."""
    if needs_tensor_cores(dtype):
        return (128, 128) if D <= 64 else (64, 64)
    return 64 if np.dtype(dtype).itemsize == 4 and D <= 64 else 32, 32
