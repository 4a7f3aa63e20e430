"""Activations with their bias. Kernels: ops/gelu.cu, ops/relu.cu."""

import math

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array

KERNELS = {"gelu_new": "gelu", "relu": "relu"}
"""By the names in ops.sublayers.ACTIVATIONS."""

THREADS = 256
"""Of a block; each has a pack."""


def forward(device: Device, name: str, hidden: Array, bias: Array | None, C: int) -> Array:
    """Return act(hidden + bias) (R, K). hidden (R, K), bias (K,).

    The bias is a view of the flat parameters, which begins at a sum of multiples of K and of the model's C channels.
    """
    R, K = hidden.shape
    active, n = device.empty((R, K), hidden.dtype), width(hidden.dtype, K, C)
    grid = math.ceil(R * K / (THREADS * n))
    device.launch(f"{KERNELS[name]}_forward", hidden.dtype, n, grid, THREADS, hidden, bias, active, R, K)
    return active


def backward(device: Device, name: str, dactive: Array, hidden: Array, bias: Array | None, C: int) -> None:
    """Turn dactive (R, K) into dhidden. hidden (R, K), bias (K,) and C as given to `forward`."""
    R, K = hidden.shape
    n = width(hidden.dtype, K, C)
    grid = math.ceil(R * K / (THREADS * n))
    device.launch(f"{KERNELS[name]}_backward", hidden.dtype, n, grid, THREADS, dactive, hidden, bias, R, K)
