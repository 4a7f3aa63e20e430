"""x += dropout(proj(attention(qkv(norm(x))))), and back, on buffers and in blocks that stay in the cache.

The mathematics is ops/sublayers.py's, in another order:

- A block of query rows meets only the keys up to its last row: most of what is above the diagonal never happens. That
  is 10% of a step of rust512.
- Keys and values are copied transposed before they are multiplied with (3% of rust512): a product that reads rows runs
  at 105 GFLOP/s, one that reads columns at 65. The copies take 1/√D along, so that nothing else need be scaled.
- No row's maximum is subtracted unless the rows' sums show that an exponential has overflowed or a row has vanished. In
  attention and head together, that is 14% of a step of gpt-nano.
- The backward takes Σⱼ dAᵢⱼ Aᵢⱼ from Σ dyᵢ · yᵢ, which is the same, with dropout or without, and a shorter sum.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scratchgpt.backend.cpu import norm
from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.cpu.dropout import Masks, scale
from scratchgpt.backend.workspace import Workspace
from scratchgpt.chance import Place
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import AttentionParams, Context, split_heads

ROWS = 32
"""Query rows in a block."""


class Saved(NamedTuple):
    """What the backward needs."""

    xhat: Array  # (B * T, C)
    rstd: Array  # (B * T,)
    normed: Array  # (B * T, C)
    qkv: Array  # (B, T, 3, H, D)
    weights: list[Array]  # for each block of R rows that ends before row S: (B, H, R, S)
    dropped: list[Array]  # the same, 0 where dropout has struck: not scaled up, as y and its gradient are instead
    kept: Array | None  # where it has not: (B, H, T, T)
    heads: Array  # (B, T, C): y
    out_mask: Array | None


def _blocks(T: int) -> list[slice]:
    """Cut T query rows into blocks."""
    return [slice(start, min(start + ROWS, T)) for start in range(0, T, ROWS)]


def _groups(B: int, bytes_per_sequence: int, block_bytes: int) -> Iterator[slice]:
    """Cut B sequences into groups that stay in the cache."""
    size = max(1, block_bytes // bytes_per_sequence)
    return (slice(start, min(start + size, B)) for start in range(0, B, size))


def _transposed(rows: Array, name: str, workspace: Workspace) -> Array:
    """(B, H, T, D) -> (B, H, D, T), divided by √D."""
    B, H, T, D = rows.shape
    out = workspace.take(name, (B, H, D, T), rows.dtype)
    return np.multiply(rows.swapaxes(-1, -2), 1 / math.sqrt(D), out=out)


def forward(
    x: Array, params: AttentionParams, context: Context, *, workspace: Workspace, block_bytes: int, masks: Masks
) -> Saved:
    """Update x (B, T, C) in place."""
    B, T, C = x.shape
    H = context.n_head
    layer, dtype = context.layer, x.dtype

    def take(name: str, *shape: int) -> Array:
        return workspace.take((name, layer), shape, dtype)

    xhat, rstd, normed = take("xhat", B * T, C), take("rstd", B * T), take("normed", B * T, C)
    norm.forward(x.reshape(-1, C), params.gain, params.bias, xhat, rstd, normed)
    qkv = take("qkv", B * T, 3 * C)
    np.matmul(normed, params.qkv_weight, out=qkv)
    if params.qkv_bias is not None:
        qkv += params.qkv_bias

    parts = qkv.reshape(B, T, 3, H, C // H)
    q, k, v = (parts[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D)
    heads = take("heads", B, T, C)
    y = split_heads(heads, H)
    kept = masks.kept(context, Place.ATTENTION, (H, T, T))
    blocks = _blocks(T)
    weights = [take(f"weights {i}", B, H, rows.stop - rows.start, rows.stop) for i, rows in enumerate(blocks)]
    dropped = weights if kept is None else [take(f"dropped {i}", *each.shape) for i, each in enumerate(weights)]
    for group in _groups(B, weights[-1].strides[0], block_bytes):
        keys = _transposed(k[group], "keys", workspace)
        for i, rows in enumerate(blocks):
            _attend(q[group, :, rows], keys[..., : rows.stop], weights[i][group])
            if kept is not None:
                np.multiply(weights[i][group], kept[group, :, rows, : rows.stop], out=dropped[i][group])
            np.matmul(dropped[i][group], v[group, :, : rows.stop], out=y[group, :, rows])
    if kept is not None:
        heads *= scale(context)

    out_mask = masks.mask(context, Place.ATTENTION_OUTPUT, (T, C), x)
    add_output(x, heads, params.proj_weight, params.proj_bias, out_mask, workspace)
    return Saved(xhat, rstd, normed, parts, weights, dropped, kept, heads, out_mask)


def keys_values(saved: Saved, _params: AttentionParams, _context: Context) -> tuple[Array, Array]:
    """Return the keys and the values, each (B, H, T, D): views of a buffer that the next layer may overwrite."""
    return saved.qkv[:, :, 1].swapaxes(1, 2), saved.qkv[:, :, 2].swapaxes(1, 2)


@np.errstate(over="ignore", invalid="ignore")
def _attend(q: Array, keys: Array, weights: Array) -> None:
    """Fill weights (..., R, S) with softmax(q keys), 0 where a query may not look.

    q (..., R, D), keys (..., D, S): the queries are the last R of S positions.
    """
    R, S = weights.shape[-2:]
    triangle, may_look = weights[..., S - R :], _triangle(R, weights.dtype.name)
    np.matmul(q, keys, out=weights)
    np.exp(weights, out=weights)
    triangle *= may_look
    sums = weights @ norm.ones(S, weights.dtype.name)
    if not norm.are_safe(sums):  # an exponential has overflowed, or a whole row has vanished: begin again, shifted
        np.matmul(q, keys, out=weights)
        np.copyto(triangle, -np.inf, where=may_look == 0)
        weights -= weights.max(axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        sums = weights.sum(axis=-1)
    weights *= (1 / sums)[..., None]


@functools.cache
def _triangle(n: int, dtype: str) -> Array:
    """Return (n, n): 1 on and below the diagonal, 0 above."""
    return np.tri(n, dtype=dtype)


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


def backward(
    dx: Array,
    saved: Saved,
    params: AttentionParams,
    grads: AttentionParams,
    context: Context,
    *,
    workspace: Workspace,
    block_bytes: int,
) -> None:
    """Add to `grads` and turn dx (B, T, C) into the gradient with respect to the sublayer's input, in place."""
    B, T, C = dx.shape
    H, D = context.n_head, C // context.n_head
    dtype = dx.dtype
    dout = output_gradient(dx, saved.out_mask, workspace)
    heads = saved.heads.reshape(-1, C)
    add_product(heads.T, dout, grads.proj_weight)
    if grads.proj_bias is not None:
        norm.add_column_sums(dout, grads.proj_bias)
    dheads = workspace.take("dheads", (B * T, C), dtype)
    np.matmul(dout, params.proj_weight.T, out=dheads)
    along_scale = 1 / math.sqrt(D)
    if saved.kept is not None:
        dheads *= scale(context)
        along_scale /= scale(context)

    q, k, v = (saved.qkv[:, :, i].swapaxes(1, 2) for i in range(3))
    dqkv = workspace.take("dqkv", (B * T, 3 * C), dtype)
    dparts = dqkv.reshape(B, T, 3, H, D)
    dq, dk, dv = (dparts[:, :, i].swapaxes(1, 2) for i in range(3))
    dy, y = split_heads(dheads.reshape(B, T, C), H), split_heads(saved.heads, H)
    blocks = _blocks(T)
    for group in _groups(B, saved.weights[-1].strides[0], block_bytes):
        values = _transposed(v[group], "values", workspace)
        for i, rows in reversed(list(enumerate(blocks))):  # the last block meets all keys: it fills dk and dv
            weights, dropped = saved.weights[i][group], saved.dropped[i][group]
            block_dy = dy[group, :, rows]
            along = np.vecdot(block_dy, y[group, :, rows])
            along *= along_scale
            dscores = workspace.take("dscores", weights.shape, dtype)
            np.matmul(block_dy, values[..., : rows.stop], out=dscores)
            if saved.kept is not None:
                dscores *= saved.kept[group, :, rows, : rows.stop]
            dscores -= along[..., None]
            dscores *= weights
            np.matmul(dscores, k[group, :, : rows.stop], out=dq[group, :, rows])
            for left, right, out in ((dropped, block_dy, dv), (dscores, q[group, :, rows], dk)):
                target = out[group, :, : rows.stop]
                if i == len(blocks) - 1:
                    np.matmul(left.swapaxes(-1, -2), right, out=target)
                else:
                    part = workspace.take("part", target.shape, dtype)
                    target += np.matmul(left.swapaxes(-1, -2), right, out=part)

    add_product(saved.normed.T, dqkv, grads.qkv_weight)
    if grads.qkv_bias is not None:
        norm.add_column_sums(dqkv, grads.qkv_bias)
    dnormed = dheads
    np.matmul(dqkv, params.qkv_weight.T, out=dnormed)
    norm.backward(dnormed, saved.xhat, saved.rstd, params.gain, grads.gain, grads.bias, workspace)
    dx += dnormed.reshape(dx.shape)
