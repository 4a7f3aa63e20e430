"""AdamW and the sum of squares that clipping needs, over flat arrays. Kernels and their ladder: ops/adamw.cu."""

import math

import numpy as np

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.adamw import Hyperparameters, Moments
from scratchgpt.ops.array import Array

THREADS = 256
"""Of a block."""

MOST_BLOCKS = 1024
"""Of a sum: enough to fill any GPU. Were it asked how large it is, another GPU would add in another order."""


def sum_of_squares(device: Device, grads: Array) -> Array:
    """Σ g², inf or nan if any g is. grads (P,) -> ()."""
    n = width(grads.dtype)
    blocks = min(MOST_BLOCKS, math.ceil(grads.size / (THREADS * n)))
    partials, out = device.empty((blocks,), grads.dtype), device.empty((), grads.dtype)
    device.launch("sum_of_squares", grads.dtype, n, blocks, THREADS, grads, partials, np.uint64(grads.size))
    device.launch("sum_partials", grads.dtype, n, 1, THREADS, partials, out, blocks)
    return out


def update(
    device: Device,
    params: Array,
    grads: Array,
    moments: Moments,
    hyperparameters: Hyperparameters,
    *,
    n_decayed: int,
    scale: float,
    update_number: int,
    rounded: Array | None,
) -> None:
    """Multiply the gradients by `scale`, move the parameters by AdamW, zero the gradients.

    params, grads, moments (P,): the first `n_decayed` parameters decay, and `rounded` (n_decayed,), if there is one,
    becomes their copy in half precision.
    """
    rate, beta1, beta2, weight_decay, epsilon = hyperparameters
    # √(v / (1 - β₂ⁿ)) + ε is (√v + ε root) / root:
    root = math.sqrt(1 - beta2**update_number)
    n = width(params.dtype)
    device.launch(
        "adamw_update",
        params.dtype if rounded is None else rounded.dtype,
        n,
        math.ceil(params.size / (THREADS * n)),
        THREADS,
        params,
        grads,
        *moments,
        rounded,
        np.uint64(params.size),
        np.uint64(n_decayed),
        1 - rate * weight_decay,
        float(beta1),
        float(beta2),
        (1 - beta1) * scale,
        math.sqrt(1 - beta2) * scale,
        root * rate / (1 - beta1**update_number),
        epsilon * root,
    )
