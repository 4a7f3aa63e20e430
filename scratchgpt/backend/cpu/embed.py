"""Token and position embedding on buffers."""

from typing import NamedTuple

import numpy as np

from scratchgpt.backend.cpu import norm
from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.workspace import Workspace
from scratchgpt.chance import Place
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import Context, EmbedParams

FEW = 512
"""Up to so many different tokens, the table's gradient is a product with a one-hot matrix; above, a segmented sum."""


class Saved(NamedTuple):
    """What the backward needs."""

    tokens: Array  # (B * T,)
    mask: Array | None  # (B, T, C)


def forward(tokens: Array, params: EmbedParams, context: Context, *, workspace: Workspace) -> tuple[Array, Saved]:
    """tokens (B, T) -> x (B, T, C), a buffer of the workspace."""
    B, T = tokens.shape
    C = params.token_table.shape[1]
    x = workspace.take("x", (B, T, C), params.token_table.dtype)
    np.take(params.token_table, tokens, axis=0, out=x, mode="clip")  # "raise" would copy; ids are checked elsewhere
    x += params.position_table[:T]
    mask = context.mask(Place.EMBEDDING, (T, C), x)
    if mask is not None:
        x *= mask
    return x, Saved(tokens.reshape(-1), mask)


def backward(dx: Array, saved: Saved, grads: EmbedParams, *, workspace: Workspace) -> None:
    """Add to both tables' gradients. dx (B, T, C), which may be overwritten."""
    B, T, C = dx.shape
    V = len(grads.token_table)
    if saved.mask is not None:
        dx *= saved.mask
    norm.add_column_sums(dx.reshape(B, T * C), grads.position_table[:T].reshape(-1))
    rows = dx.reshape(-1, C)
    if V <= FEW:
        chosen = workspace.take("one-hot", (len(rows), V), dx.dtype)
        chosen.fill(0)
        chosen[np.arange(len(rows)), saved.tokens] = 1
        add_product(chosen.T, rows, grads.token_table)
    else:
        order = np.argsort(saved.tokens, kind="stable")
        ordered = workspace.take("ordered", rows.shape, dx.dtype)
        np.take(rows, order, axis=0, out=ordered, mode="clip")
        used, starts = np.unique(saved.tokens[order], return_index=True)
        grads.token_table[used] += np.add.reduceat(ordered, starts, axis=0)
