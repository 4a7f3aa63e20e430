"""AdamW in blocks that stay in the cache, the scaling and the zeroing of gradients along the way."""

import math

import numpy as np

from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops.adamw import Moments, Settings
from scratchgpt.ops.optimizer import State, Update


def by_adamw(
    state: State, span: slice, settings: Settings, update: Update, *, workspace: Workspace, block_bytes: int
) -> None:
    """Move the parameters of `span` as the reference does."""
    beta1, beta2, weight_decay, epsilon = settings
    # √(v / (1 - β₂ⁿ)) + ε is (√v + ε root) / root:
    root = math.sqrt(1 - beta2**update.number)
    step = root * update.learning_rate / (1 - beta1**update.number)
    arrays = state.params, state.grads, *(state.slots[name] for name in Moments._fields)
    block = block_bytes // state.params.itemsize
    for start in range(span.start, span.stop, block):
        part = slice(start, min(start + block, span.stop))
        p, g, m, v = (array[part] for array in arrays)
        scratch = workspace.take("update", p.shape, p.dtype)
        m *= beta1
        np.multiply(g, (1 - beta1) * update.scale, out=scratch)
        m += scratch
        v *= beta2
        np.multiply(g, math.sqrt(1 - beta2) * update.scale, out=scratch)  # before it is squared: g² might overflow
        scratch *= scratch
        v += scratch
        np.sqrt(v, out=scratch)
        scratch += epsilon * root
        np.divide(m, scratch, out=scratch)
        scratch *= step
        if weight_decay:
            p *= 1 - update.learning_rate * weight_decay
        p -= scratch
        g.fill(0)
