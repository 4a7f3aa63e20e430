"""Activations with their bias. Kernels: ops/gelu.cu, ops/relu.cu."""

import math

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array

KERNELS = {"gelu_new": "gelu", "relu": "relu"}
"""By the names in ops.sublayers.ACTIVATIONS."""

THREADS = 256
"""Of a block; each has a pack."""


def forward(device: Device, name: str, hidden: Array, bias: Array | None) -> Array:
    """Return act(hidden + bias) (R, K). hidden (R, K), bias (K,)."""
    R, K = hidden.shape
    active, n = device.empty((R, K), hidden.dtype), _width(hidden)
    grid = math.ceil(R * K / (THREADS * n))
    device.launch(f"{KERNELS[name]}_forward", hidden.dtype, n, grid, THREADS, hidden, bias, active, R, K)
    return active


def backward(device: Device, name: str, dactive: Array, hidden: Array, bias: Array | None) -> None:
    """Turn dactive (R, K) into dhidden. hidden (R, K), bias (K,) as given to `forward`."""
    R, K = hidden.shape
    n = _width(hidden)
    grid = math.ceil(R * K / (THREADS * n))
    device.launch(f"{KERNELS[name]}_backward", hidden.dtype, n, grid, THREADS, dactive, hidden, bias, R, K)


def _width(hidden: Array) -> int:
    """Return how many neighbours of a row a thread can work on. Biases lie at multiples of n_embd, a quarter of K."""
    K = hidden.shape[1]
    return width(hidden.dtype, K, K // 4)
