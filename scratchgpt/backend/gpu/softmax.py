"""Causal softmax with dropout, of attention's scores. Kernels and their ladder: ops/softmax.cu."""

import math
from typing import Any

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array

MOST_ROWS = 8
"""Of a block. They are fewer where their random bytes would not fit into its shared memory."""

SHARED_BYTES = 48 * 1024
"""Of shared memory that each block may have on any GPU: no rows can be longer, with dropout."""


def forward(device: Device, scores: Array, mask: Mask) -> Array:
    """Turn scores into probabilities, in place, and return the weights: these after dropout, or themselves.

    scores (B, H, T, T): row t sees columns 0..t. What is behind them does not matter, and becomes 0.
    """
    weights = device.empty(scores.shape, scores.dtype) if mask.threshold else None
    _launch(device, "softmax_forward", mask, scores, weights)
    return scores if weights is None else weights


def dropped(device: Device, probabilities: Array, mask: Mask) -> Array:
    """Return the weights (B, H, T, T) once more: to compute them is cheaper than to keep them."""
    if not mask.threshold:
        return probabilities
    weights = device.empty(probabilities.shape, probabilities.dtype)
    _launch(device, "softmax_dropped", mask, probabilities, weights)
    return weights


def backward(device: Device, dweights: Array, probabilities: Array, mask: Mask) -> None:
    """Turn dweights into dscores, in place. Both arrays (B, H, T, T)."""
    _launch(device, "softmax_backward", mask, dweights, probabilities)


def _launch(device: Device, kernel: str, mask: Mask, array: Array, *arrays: Any) -> None:
    B, H, T, _ = array.shape
    rows, shared_bytes = MOST_ROWS, 0
    if mask.threshold:
        rows = max(1, min(MOST_ROWS, (SHARED_BYTES - 62) // T))
        shared_bytes = 32 * math.ceil((31 + rows * T) / 32)
    device.launch(
        kernel,
        array.dtype,
        width(array.dtype, T),
        (math.ceil(H * T / rows), B),
        32 * rows,
        array,
        *arrays,
        H,
        T,
        *mask,
        shared_bytes=shared_bytes,
    )
