"""AdamW in blocks that stay in the cache, clipping and the zeroing of gradients along the way."""

import math

import numpy as np

from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array


def update(
    params: Array,
    grads: Array,
    moments: adamw.Moments,
    hyperparameters: adamw.Hyperparameters,
    *,
    n_decayed: int,
    norm: float,
    clip: float,
    update_number: int,
    loss_scale: float = 1.0,
    workspace: Workspace,
    block_bytes: int,
) -> None:
    """Do what the reference does: divide, clip, AdamW, zero the gradients."""
    if not norm < math.inf:
        grads.fill(0)
        return
    scale = adamw.clip_scale(norm, clip) / loss_scale
    rate, beta1, beta2, weight_decay, epsilon = hyperparameters
    # √(v / (1 - β₂ⁿ)) + ε is (√v + ε root) / root:
    root = math.sqrt(1 - beta2**update_number)
    step = root * rate / (1 - beta1**update_number)
    block = block_bytes // params.itemsize
    for start in range(0, params.size, block):
        # A part lies on one side of the border between what decays and what does not.
        stop = min(start + block, params.size)
        for part in (slice(start, min(stop, n_decayed)), slice(max(start, n_decayed), stop)):
            if part.start >= part.stop:
                continue
            p, g, m, v = (array[part] for array in (params, grads, *moments))
            scratch = workspace.take("update", p.shape, p.dtype)
            m *= beta1
            np.multiply(g, (1 - beta1) * scale, out=scratch)
            m += scratch
            v *= beta2
            np.multiply(g, math.sqrt(1 - beta2) * scale, out=scratch)  # before it is squared: g² might overflow
            scratch *= scratch
            v += scratch
            np.sqrt(v, out=scratch)
            scratch += epsilon * root
            np.divide(m, scratch, out=scratch)
            scratch *= step
            if part.stop <= n_decayed:
                p *= 1 - rate * weight_decay
            p -= scratch
            g.fill(0)
