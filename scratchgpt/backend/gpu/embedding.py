"""Token and position embedding. Kernels and their ladder: ops/embedding.cu."""

import math

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu import dropout, linear
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted

ADDERS = 256
"""Threads of a block that adds rows."""

CHUNK = 32
"""Sorted rows that a thread sums before it carries."""


def forward(device: Device, tokens: Array, token_table: Array, position_table: Array, mask: Mask) -> Array:
    """Return the residual stream x (B, T, C), with dropout.

    tokens (B, T) int64, all below V; token_table (V, C), position_table (P, C) with P >= T.
    """
    (B, T), C, dtype = tokens.shape, token_table.shape[1], token_table.dtype
    x = device.empty((B, T, C), np.promote_types(dtype, np.float32))
    grid = (dropout.blocks(T * C), B)
    arguments = (tokens, token_table, position_table, x, *mask, T, C)
    device.launch("embedding_forward", dtype, width(dtype, C), grid, dropout.THREADS, *arguments)
    return x


def backward(
    device: Device,
    dx: Array,
    tokens: Array,
    mask: Mask,
    dtoken_table: Wanted,
    dposition_table: Wanted,
    dtype: npt.DTypeLike,
) -> None:
    """Add to dtoken_table (V, C) and dposition_table (P, C) if they are wanted. dx (B, T, C), tokens (B, T).

    The tables were of `dtype` in the forward.
    """
    B, T, C = dx.shape
    dx = dropout.backward(device, dx, mask, dx.dtype)
    if dposition_table is not None:
        linear.add_column_sums(device, dx.reshape(B, T * C), dposition_table[:T].reshape(-1))
    if dtoken_table is not None:
        _add_rows(device, dx.reshape(B * T, C), tokens, dtoken_table, dtype)


def _add_rows(device: Device, rows: Array, tokens: Array, dtoken_table: Array, dtype: npt.DTypeLike) -> None:
    """Add each row (N, C) to the row of dtoken_table (V, C) that its token names; tokens (B, T), N of them."""
    C = rows.shape[1]
    order = device.xp.argsort(tokens.reshape(-1), kind="stable")
    n, stride = width(dtype, C), 1
    while True:
        chunks = math.ceil(len(rows) / CHUNK)
        carries = device.empty((chunks, C), rows.dtype)
        grid = math.ceil(chunks * C / (ADDERS * n))
        arguments = (rows, order, tokens, dtoken_table, carries, stride, len(rows), C)
        device.launch("embedding_add_rows", dtype, n, grid, ADDERS, *arguments)
        if chunks == 1:
            break
        rows, stride = carries, stride * CHUNK
