"""The two ends of a branch: a linear map with a bias and dropout, added to the residual stream, and back."""

import numpy as np

from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.cpu.sums import add_column_sums
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted


def add_output(
    x: Array, rows: Array, weight: Array, bias: Array | None, mask: Array | None, workspace: Workspace
) -> None:
    """x += dropout(rows weight + bias): the end of a branch. rows (..., K), x (B, T, C)."""
    flat, inputs = x.reshape(-1, x.shape[-1]), rows.reshape(-1, rows.shape[-1])
    if mask is None:
        add_product(inputs, weight, flat)
        if bias is not None:
            flat += bias
        return
    out = workspace.take("output", flat.shape, x.dtype)
    np.matmul(inputs, weight, out=out)
    if bias is not None:
        out += bias
    out *= mask.reshape(out.shape)
    flat += out


def output_gradient(dx: Array, mask: Array | None, workspace: Workspace) -> Array:
    """Return the gradient with respect to a branch's output: dx (B, T, C) through dropout -> (B * T, C)."""
    flat = dx.reshape(-1, dx.shape[-1])
    if mask is None:
        return flat
    out = workspace.take("output", flat.shape, dx.dtype)
    return np.multiply(flat, mask.reshape(flat.shape), out=out)


def add_gradients(x: Array, dy: Array, dweight: Wanted, dbias: Wanted) -> None:
    """Add to the gradients of a linear map that are wanted. x (R, K), dy (R, N), dweight (K, N), dbias (N,)."""
    if dweight is not None:
        add_product(x.T, dy, dweight)
    if dbias is not None:
        add_column_sums(dy, dbias)
