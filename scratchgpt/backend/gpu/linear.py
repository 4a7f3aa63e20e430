"""Linear maps: products by cuBLAS, sums of columns by our own kernels."""

import math

import numpy.typing as npt

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted

CHUNK = 64
"""Rows that a block sums before anything is written: small enough for many blocks, large enough for few sums."""


def forward(device: Device, x: Array, weight: Array) -> Array:
    """y = x W, without a bias: whoever reads y adds that. x (R, K), weight (K, N) -> y (R, N)."""
    y = device.empty((len(x), weight.shape[1]), x.dtype)
    device.matmul(x, weight, y)
    return y


def backward(device: Device, dy: Array, x: Array, weight: Array, dweight: Wanted, dbias: Wanted) -> Array:
    """Return dx (R, K); add to dweight (K, N) and dbias (N,) if they are wanted.

    dy (R, N), x (R, K), weight (K, N).
    """
    if dweight is not None:
        device.matmul(x.T, dy, dweight, add=True)
    if dbias is not None:
        add_column_sums(device, dy, dbias)
    dx = device.empty(x.shape, x.dtype)
    device.matmul(dy, weight.T, dx)
    return dx


def add_column_sums(device: Device, rows: Array, out: Array) -> None:
    """out += Σ rows. rows (R, C), out (C,)."""
    R, C = rows.shape
    n = width(rows.dtype, C)
    chunks = math.ceil(R / CHUNK)
    partials = device.empty((chunks, C), out.dtype)
    device.launch(
        "column_partials", rows.dtype, n, (math.ceil(C / (32 * n)), chunks), (32, 8), rows, partials, CHUNK, R, C
    )
    add_partials(device, partials, out, rows.dtype)


def add_partials(device: Device, partials: Array, out: Array, dtype: npt.DTypeLike) -> None:
    """out += Σ partials. partials (chunks, C), out (C,)."""
    chunks, C = partials.shape
    device.launch("add_partials", dtype, 1, math.ceil(C / 32), (32, 8), partials, out, chunks, C)
