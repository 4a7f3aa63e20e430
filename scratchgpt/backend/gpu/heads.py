"""Between rows, as linear maps know them, and heads, as attention does. Kernels and their ladder: ops/heads.cu."""

import math

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array

ROWS = 4
"""Of a block."""


def split(device: Device, rows: Array, bias: Array | None, n_parts: int, H: int) -> Array:
    """Return the rows, and the bias added to each: rows (B, T, K · C), bias (K · C,) -> (K, B, H, T, D).

    K is 3 for queries, keys and values side by side, and 1 for what has one part alone.
    """
    B, T, columns = rows.shape
    D = columns // (n_parts * H)
    parts = device.empty((n_parts, B, H, T, D), rows.dtype)
    device.launch(
        "split_heads",
        rows.dtype,
        width(rows.dtype, D),
        math.ceil(B * T / ROWS),
        32 * ROWS,
        rows,
        bias,
        parts,
        B * T,
        n_parts,
        H,
        T,
        D,
    )
    return parts


def join(device: Device, parts: Array) -> Array:
    """Undo `split`: parts (K, B, H, T, D) -> (B, T, K · C)."""
    K, B, H, T, D = parts.shape
    rows = device.empty((B, T, K * H * D), parts.dtype)
    n = width(parts.dtype, D)
    device.launch("join_heads", parts.dtype, n, math.ceil(B * T / ROWS), 32 * ROWS, parts, rows, B * T, K, H, T, D)
    return rows
