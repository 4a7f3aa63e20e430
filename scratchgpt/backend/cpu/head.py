"""Final norm, output projection and cross-entropy without a matrix of all logits: rows come and go in chunks."""

import math

import numpy as np

from scratchgpt.backend.cpu import norm
from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import Context, HeadParams

ROWS = 512
"""Rows of logits that exist at a time."""

SAFE = 60.0
"""Logits up to this need no shift, as in attention.py."""


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
        if not (logits.max() <= SAFE and logits.min() >= -SAFE):
            logits -= logits.max(axis=-1, keepdims=True)
        places = np.arange(rows.stop - start), answers[rows]
        right = logits[places]
        np.exp(logits, out=logits)
        sums = logits @ norm.ones(V, dtype.name)
        losses.append(float((np.log(sums) - right).sum()))
        logits *= (scale / sums)[:, None]
        logits[places] -= scale  # now the gradient with respect to the logits
        add_product(logits.T, normed[rows], grads.weight)
        np.matmul(logits, params.weight, out=dnormed[rows])
    norm.backward(dnormed, xhat, rstd, params.gain, grads.gain, grads.bias, workspace)
    return np.asarray(math.fsum(losses) * scale, dtype), dnormed.reshape(x.shape)
