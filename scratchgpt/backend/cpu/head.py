"""Final norm, output projection and cross-entropy without a matrix of all logits.

Rows come and go in chunks that suit the products, and what is done to single logits is done in smaller blocks that stay
in the cache. No row's maximum is subtracted unless a sum of exponentials shows that it must be.
"""

import math

import numpy as np

from scratchgpt.backend.cpu import norm
from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import Context, HeadParams

ROWS = 256
"""Rows of logits that exist at a time."""

BLOCK_BYTES = 2**19
"""Logits that are turned into gradients at a time: what stays in a core's cache."""


def head_loss(
    x: Array, targets: Array, params: HeadParams, grads: HeadParams, context: Context, *, workspace: Workspace
) -> tuple[Array, Array]:
    """Return the loss () and its gradient with respect to x (B, T, C), as the reference; targets (B, T)."""
    B, T, C = x.shape
    N, V = B * T, len(params.weight)
    dtype = x.dtype
    xhat, rstd = workspace.take("head xhat", (N, C), dtype), workspace.take("head rstd", (N,), dtype)
    normed, dnormed = workspace.take("head normed", (N, C), dtype), workspace.take("head dnormed", (N, C), dtype)
    norm.forward(x.reshape(N, C), params.gain, params.bias, xhat, rstd, normed)
    answers = targets.reshape(-1)
    scale = 1 / context.n_targets
    losses = []
    for start in range(0, N, ROWS):
        rows = slice(start, min(start + ROWS, N))
        logits = workspace.take("logits", (rows.stop - start, V), dtype)
        np.matmul(normed[rows], params.weight.T, out=logits)
        n_rows = max(1, BLOCK_BYTES // (V * logits.itemsize))
        for first in range(0, len(logits), n_rows):
            block = logits[first : first + n_rows]
            here = slice(start + first, start + first + len(block))
            losses.append(_gradient(block, answers[here], normed[here], params.weight, scale))
        add_product(logits.T, normed[rows], grads.weight)
        np.matmul(logits, params.weight, out=dnormed[rows])
    norm.backward(dnormed, xhat, rstd, params.gain, grads.gain, grads.bias, workspace)
    return np.asarray(math.fsum(losses) * scale, dtype), dnormed.reshape(x.shape)


@np.errstate(over="ignore", invalid="ignore")
def _gradient(logits: Array, targets: Array, normed: Array, weight: Array, scale: float) -> float:
    """Turn logits (R, V) into the loss's gradient with respect to them, in place; return the sum of the losses."""
    places = np.arange(len(logits)), targets
    right = logits[places]
    np.exp(logits, out=logits)
    sums = logits @ norm.ones(logits.shape[1], logits.dtype.name)
    if not norm.are_safe(sums):  # an exponential has overflowed, or a whole row has vanished: begin again, shifted
        np.matmul(normed, weight.T, out=logits)
        logits -= logits.max(axis=-1, keepdims=True)
        right = logits[places]
        np.exp(logits, out=logits)
        sums = logits.sum(axis=-1)
    loss = float((np.log(sums) - right).sum())
    logits *= (scale / sums)[:, None]
    logits[places] -= scale
    return loss
