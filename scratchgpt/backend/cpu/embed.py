"""Token and position embedding on buffers."""

from typing import NamedTuple

import numpy as np

from scratchgpt.backend.cpu import norm
from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.cpu.dropout import Masks
from scratchgpt.backend.cpu.exchange import Shapes, exchange, shared_shapes, vocabulary
from scratchgpt.backend.team import Team
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


def forward(
    tokens: Array, params: EmbedParams, context: Context, *, workspace: Workspace, masks: Masks
) -> tuple[Array, Saved]:
    """tokens (B, T) -> x (B, T, C), a buffer of the workspace."""
    B, T = tokens.shape
    C = params.token_table.shape[1]
    x = workspace.take("x", (B, T, C), params.token_table.dtype)
    np.take(params.token_table, tokens, axis=0, out=x, mode="clip")  # "raise" would copy; ids are checked elsewhere
    x += params.position_table[:T]
    mask = masks.mask(context, Place.EMBEDDING, (T, C), x)
    if mask is not None:
        x *= mask
    return x, Saved(tokens.reshape(-1), mask)


def shapes(C: int, size: int) -> Shapes:
    """Return the arrays that `backward` needs to share in a team of `size` lanes."""
    return shared_shapes("embed", C, size)


def backward(dx: Array, saved: Saved, grads: EmbedParams, *, workspace: Workspace, team: Team) -> None:
    """Add to both tables' gradients. dx (B, T, C), which may be overwritten."""
    B, T, C = dx.shape
    if saved.mask is not None:
        dx *= saved.mask
    norm.add_column_sums(dx.reshape(B, T * C), grads.position_table[:T].reshape(-1))
    part = vocabulary(len(grads.token_table), team)
    for chunk in exchange("embed", dx.reshape(-1, C), saved.tokens, team, workspace):
        owned = np.flatnonzero((chunk.ids >= part.start) & (chunk.ids < part.stop))
        _add_rows(chunk.rows[owned], chunk.ids[owned] - part.start, grads.token_table[part], workspace)


def _add_rows(rows: Array, ids: Array, table: Array, workspace: Workspace) -> None:
    """Add each row (n, C) to the row of the table (V, C) that its id (n,) names; several may name the same."""
    n, V = len(rows), len(table)
    if V <= FEW:
        chosen = workspace.take("one-hot", (n, V), rows.dtype)
        chosen.fill(0)
        chosen[np.arange(n), ids] = 1
        add_product(chosen.T, rows, table)
    elif n:
        order = np.argsort(ids, kind="stable")
        ordered = workspace.take("ordered", rows.shape, rows.dtype)
        np.take(rows, order, axis=0, out=ordered, mode="clip")
        used, starts = np.unique(ids[order], return_index=True)
        table[used] += np.add.reduceat(ordered, starts, axis=0)
