"""Token and position embedding on buffers."""

import dataclasses
from typing import NamedTuple

import numpy as np

from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.cpu.dropout import Masks
from scratchgpt.backend.cpu.exchange import Shapes, exchange, shared_shapes, vocabulary
from scratchgpt.backend.cpu.sums import add_column_sums
from scratchgpt.backend.team import Team
from scratchgpt.backend.workspace import Workspace
from scratchgpt.chance import Place
from scratchgpt.ops import sublayers
from scratchgpt.ops.array import Array
from scratchgpt.ops.cache import Positions
from scratchgpt.ops.table import EmbedParams, Step, Wanted

FEW = 512
"""Up to so many different tokens, the table's gradient is a product with a one-hot matrix; above, a segmented sum."""


class Saved(NamedTuple):
    """Values that the backward needs."""

    tokens: Array  # (B * T,)
    mask: Array | None  # (B, T, C)


def shapes(C: int, size: int) -> Shapes:
    """Return the arrays that the backward shares in a team of `size` workers."""
    return shared_shapes("embed", C, size)


@dataclasses.dataclass(frozen=True)
class Embed:
    """The sublayer, on these buffers. The workers of a `team` divide the vocabulary among them."""

    workspace: Workspace
    masks: Masks
    team: Team

    def forward(self, tokens: Array, params: EmbedParams[Array], step: Step) -> tuple[Array, Saved]:
        """tokens (B, T) -> x (B, T, C), a buffer of the workspace."""
        B, T = tokens.shape
        C = params.token_table.shape[1]
        x = self.workspace.take("x", (B, T, C), params.token_table.dtype)
        # "raise" would copy; ids are checked elsewhere.
        np.take(params.token_table, tokens, axis=0, out=x, mode="clip")
        x += params.position_table[:T]
        mask = self.masks.mask(step, 0, Place.EMBEDDING, (T, C), x)
        if mask is not None:
            x *= mask
        return x, Saved(tokens.reshape(-1), mask)

    def at(self, tokens: Array, positions: Positions, params: EmbedParams[Array]) -> Array:
        """tokens (B, T) at any positions -> x (B, T, C)."""
        return sublayers.Embed().at(tokens, positions, params)

    def backward(self, dx: Array, saved: Saved, grads: EmbedParams[Wanted], step: Step) -> None:  # noqa: ARG002
        """Add to the gradients of both tables. dx (B, T, C), which may be overwritten."""
        B, T, C = dx.shape
        if saved.mask is not None:
            dx *= saved.mask
        if grads.position_table is not None:
            add_column_sums(dx.reshape(B, T * C), grads.position_table[:T].reshape(-1))
        if grads.token_table is not None:
            part = vocabulary(len(grads.token_table), self.team)
            for chunk in exchange("embed", dx.reshape(-1, C), saved.tokens, self.team, self.workspace):
                owned = np.flatnonzero((chunk.ids >= part.start) & (chunk.ids < part.stop))
                _add_rows(chunk.rows[owned], chunk.ids[owned] - part.start, grads.token_table[part], self.workspace)


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
