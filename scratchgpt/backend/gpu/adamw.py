"""AdamW and the sum of squares that clipping needs, over flat arrays. Kernels and their ladder: ops/adamw.cu."""

import math

import numpy as np

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.adamw import Moments, Settings
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import State, Update

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


def norm(grads: Array, *, device: Device) -> float:
    """√Σ g². grads (P,)."""
    return math.sqrt(float(sum_of_squares(device, grads)))


def by_adamw(state: State, span: slice, settings: Settings, update: Update, *, device: Device) -> None:
    """Move the parameters of `span` as the reference does."""
    params, rounded = state.params, state.rounded
    beta1, beta2, weight_decay, epsilon = settings
    # √(v / (1 - β₂ⁿ)) + ε is (√v + ε root) / root:
    root = math.sqrt(1 - beta2**update.number)
    n = width(params.dtype)
    n_packs = math.ceil(span.stop / n) - span.start // n  # that the range lies in
    device.launch(
        "adamw_update",
        params.dtype if rounded is None else rounded.dtype,
        n,
        math.ceil(n_packs / THREADS),
        THREADS,
        params,
        state.grads,
        *(state.slots[name] for name in Moments._fields),
        rounded,
        np.uint64(span.start),
        np.uint64(span.stop),
        np.uint64(0 if rounded is None else rounded.size),
        1 - update.learning_rate * weight_decay,
        float(beta1),
        float(beta2),
        (1 - beta1) * update.scale,
        math.sqrt(1 - beta2) * update.scale,
        root * update.learning_rate / (1 - beta1**update.number),
        epsilon * root,
    )
