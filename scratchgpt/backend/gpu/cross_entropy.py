"""Cross-entropy and its gradient. The kernel and its ladder: ops/cross_entropy.cu."""

import numpy as np

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array

MOST_THREADS = 256
"""Of a block, which is a row's."""


def forward_backward(
    device: Device, logits: Array, V: int, targets: Array, scale: float, weights: Array | None = None
) -> Array:
    """Return the losses (R,), in nats and weighed, and turn the logits into weight · scale · (softmax - onehot).

    logits (R, S), of which the first V columns count: S is V rounded up to a multiple of 8, and the others become 0.
    targets (R,), int64, below V; those of -1 have the weight 0. weights (R,), of the losses' type; None: all are 1.
    """
    R, S = logits.shape
    n = width(logits.dtype)
    losses = device.empty((R,), np.promote_types(logits.dtype, np.float32))
    warps = -(-S // (32 * n))
    threads = min(MOST_THREADS, 32 * warps)
    device.launch("cross_entropy", logits.dtype, n, R, threads, logits, targets, weights, losses, float(scale), V, S)
    return losses
