"""x += dropout(proj(attention(qkv(norm(x))))), and back, on buffers and in blocks that stay in the cache.

The mathematics is ops/sublayers.py's, in another order:

- Queries are scaled by 1/√D once, (T, D), instead of the scores, (T, T).
- A block of query rows meets only the keys up to its last row: half of the products above the diagonal never happen.
- The exponentials E are kept as they are; where their row sums z are divided by, that is done to rows of width D:
  y = (E v) / z. In the backward, with dy' = dy / z, the same trick gives dS = E · (dy' vᵀ - Σ dy' · y), because
  Σⱼ dAᵢⱼ Aᵢⱼ = Σ dyᵢ · yᵢ, with dropout or without.
- No row's maximum is subtracted unless the rows' sums show that an exponential has overflowed or a row has vanished.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scratchgpt.backend.cpu import norm
from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.workspace import Workspace
from scratchgpt.chance import Place
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import AttentionParams, Context, split_heads

CACHE_BYTES = 2**18
"""Scores computed at once: what stays in a core's cache."""

ROWS = 64
"""Query rows in a block, for sequences that are longer than two of them."""


class Saved(NamedTuple):
    """What the backward needs."""

    xhat: Array  # (B * T, C)
    rstd: Array  # (B * T,)
    normed: Array  # (B * T, C)
    qkv: Array  # (B, T, 3, H, D): queries already scaled
    exps: list[Array]  # for each block of R rows that ends before row S: (B, H, R, S)
    weights: list[Array]  # the same after dropout
    masks: list[Array]  # dropout's, empty without it
    sums: Array  # (B, H, T, 1): 1 / z
    heads: Array  # (B, T, C): y
    out_mask: Array | None


def _blocks(T: int) -> list[slice]:
    """Cut T query rows into blocks."""
    rows = ROWS if T > 2 * ROWS else T
    return [slice(start, min(start + rows, T)) for start in range(0, T, rows)]


def _groups(B: int, scores_per_sequence: int, itemsize: int) -> Iterator[slice]:
    """Cut B sequences into groups whose scores stay in the cache."""
    size = max(1, CACHE_BYTES // (scores_per_sequence * itemsize))
    return (slice(start, min(start + size, B)) for start in range(0, B, size))


def forward(x: Array, params: AttentionParams, context: Context, *, workspace: Workspace) -> Saved:
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
    qkv[:, :C] *= 1 / math.sqrt(C // H)

    parts = qkv.reshape(B, T, 3, H, C // H)
    q, k, v = (parts[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D)
    heads, sums = take("heads", B, T, C), take("sums", B, H, T, 1)
    y = split_heads(heads, H)
    mask = context.mask(Place.ATTENTION, (H, T, T), x)
    blocks = _blocks(T)
    exps = [take(f"exps {i}", B, H, rows.stop - rows.start, rows.stop) for i, rows in enumerate(blocks)]
    masks = [mask[:, :, rows, : rows.stop] for rows in blocks] if mask is not None else []
    weights = [take(f"weights {i}", *each.shape) for i, each in enumerate(exps)] if mask is not None else exps
    for i, rows in enumerate(blocks):
        for group in _groups(B, exps[i][0].size, x.itemsize):
            row_sums = _exponentials(q[group, :, rows], k[group, :, : rows.stop], exps[i][group])
            np.divide(1, row_sums[..., None], out=sums[group, :, rows])
            if masks:
                np.multiply(exps[i][group], masks[i][group], out=weights[i][group])
            block = y[group, :, rows]
            np.matmul(weights[i][group], v[group, :, : rows.stop], out=block)
            block *= sums[group, :, rows]

    out_mask = context.mask(Place.ATTENTION_OUTPUT, (T, C), x)
    add_output(x, heads, params.proj_weight, params.proj_bias, out_mask, workspace)
    return Saved(xhat, rstd, normed, parts, exps, weights, masks, sums, heads, out_mask)


@np.errstate(over="ignore", invalid="ignore")
def _exponentials(q: Array, k: Array, exps: Array) -> Array:
    """Fill exps (..., R, S) with exp(q kᵀ), 0 where a query may not look; return the sums of its rows (..., R).

    q (..., R, D), k (..., S, D): the queries are the last R of S positions.
    """
    R, S = exps.shape[-2:]
    triangle, may_look = exps[..., S - R :], _triangle(R, exps.dtype.name)
    np.matmul(q, k.swapaxes(-1, -2), out=exps)
    np.exp(exps, out=exps)
    triangle *= may_look
    sums = exps @ norm.ones(S, exps.dtype.name)
    if not norm.are_safe(sums):  # an exponential has overflowed, or a whole row has vanished: begin again, shifted
        np.matmul(q, k.swapaxes(-1, -2), out=exps)
        np.copyto(triangle, -np.inf, where=may_look == 0)
        exps -= exps.max(axis=-1, keepdims=True)
        np.exp(exps, out=exps)
        sums = exps.sum(axis=-1)
    return sums


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
    dx: Array, saved: Saved, params: AttentionParams, grads: AttentionParams, context: Context, *, workspace: Workspace
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

    q, k, v = (saved.qkv[:, :, i].swapaxes(1, 2) for i in range(3))
    dqkv = workspace.take("dqkv", (B * T, 3 * C), dtype)
    dparts = dqkv.reshape(B, T, 3, H, D)
    dq, dk, dv = (dparts[:, :, i].swapaxes(1, 2) for i in range(3))
    dy, y = split_heads(dheads.reshape(B, T, C), H), split_heads(saved.heads, H)
    blocks = _blocks(T)
    for i, rows in reversed(list(enumerate(blocks))):  # the last block meets all keys: it fills dk and dv
        is_first = i == len(blocks) - 1
        for group in _groups(B, saved.exps[i][0].size, dx.itemsize):
            exps, weights = saved.exps[i][group], saved.weights[i][group]
            shape = exps.shape
            dy_over_z = workspace.take("dy over z", (*shape[:-1], D), dtype)
            np.multiply(dy[group, :, rows], saved.sums[group, :, rows], out=dy_over_z)
            along = np.vecdot(dy_over_z, y[group, :, rows])
            dscores = workspace.take("dscores", shape, dtype)
            np.matmul(dy_over_z, v[group, :, : rows.stop].swapaxes(-1, -2), out=dscores)
            if saved.masks:
                dscores *= saved.masks[i][group]
            dscores -= along[..., None]
            dscores *= exps
            np.matmul(dscores, k[group, :, : rows.stop], out=dq[group, :, rows])
            for left, right, out in ((weights, dy_over_z, dv), (dscores, q[group, :, rows], dk)):
                target = out[group, :, : rows.stop]
                if is_first:
                    np.matmul(left.swapaxes(-1, -2), right, out=target)
                else:
                    target += left.swapaxes(-1, -2) @ right
    dqkv[:, :C] *= 1 / math.sqrt(D)

    add_product(saved.normed.T, dqkv, grads.qkv_weight)
    if grads.qkv_bias is not None:
        norm.add_column_sums(dqkv, grads.qkv_bias)
    dnormed = dheads
    np.matmul(dqkv, params.qkv_weight.T, out=dnormed)
    norm.backward(dnormed, saved.xhat, saved.rstd, params.gain, grads.gain, grads.bias, workspace)
    dx += dnormed.reshape(dx.shape)
