"""Token and position embedding. Derivation: embedding.md."""

from typing import NamedTuple

from scratchgpt.ops.array import Array, array_module


class Saved(NamedTuple):
    """Values that the backward needs."""

    tokens: Array  # (B, T)
    n_tokens: int  # V: rows of the token table
    n_positions: int  # P: rows of the position table


def forward(tokens: Array, token_table: Array, position_table: Array) -> tuple[Array, Saved]:
    """x[b, t] = token_table[tokens[b, t]] + position_table[t].

    tokens (B, T) whole numbers below V, token_table (V, C), position_table (P, C) with P >= T -> x (B, T, C).
    """
    x = token_table[tokens] + position_table[: tokens.shape[1]]
    return x, Saved(tokens, token_table.shape[0], position_table.shape[0])


def backward(dx: Array, saved: Saved) -> tuple[Array, Array]:
    """Each row of a table gets the sum of dx over the places that used it.

    dx (B, T, C) -> dtoken_table (V, C), dposition_table (P, C).
    """
    xp = array_module(dx)
    T, C = dx.shape[1:]
    dposition_table = xp.zeros((saved.n_positions, C), dx.dtype)
    dposition_table[:T] = dx.sum(axis=0)
    # Sorted by token, the rows to be summed lie together: one segmented sum, the same at every run.
    tokens = saved.tokens.reshape(-1)
    order = xp.argsort(tokens, kind="stable")
    used, starts = xp.unique(tokens[order], return_index=True)
    dtoken_table = xp.zeros((saved.n_tokens, C), dx.dtype)
    dtoken_table[used] = xp.add.reduceat(dx.reshape(-1, C)[order], starts, axis=0)
    return dtoken_table, dposition_table
