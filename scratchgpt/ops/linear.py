"""Linear map with optional bias. Derivation: linear.md."""

from typing import NamedTuple

from scratchgpt.ops.array import Array


class Saved(NamedTuple):
    """Values that the backward needs."""

    x: Array  # (..., K)
    has_bias: bool


def forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Saved]:
    """y = x W + b.

    x (..., K), weight (K, N), bias (N,) or None -> y (..., N).
    """
    y = x @ weight
    if bias is not None:
        y += bias
    return y, Saved(x, bias is not None)


def backward(dy: Array, saved: Saved, weight: Array) -> tuple[Array, Array, Array | None]:
    """dx = dy Wᵀ,  dW = xᵀ dy,  db = Σ dy, the products running over all rows.

    dy (..., N), weight (K, N) -> dx (..., K), dweight (K, N), dbias (N,) or None.
    """
    rows = dy.reshape(-1, dy.shape[-1])  # (R, N)
    dx = dy @ weight.T
    dweight = saved.x.reshape(-1, saved.x.shape[-1]).T @ rows
    dbias = rows.sum(axis=0) if saved.has_bias else None
    return dx, dweight, dbias
