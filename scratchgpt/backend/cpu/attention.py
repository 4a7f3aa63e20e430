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

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from scratchgpt.backend.cpu.branch import add_gradients, add_output, output_gradient
from scratchgpt.backend.cpu.dropout import Masks, scale
from scratchgpt.backend.cpu.norm import Norm
from scratchgpt.backend.cpu.sums import are_safe, ones
from scratchgpt.backend.workspace import Workspace
from scratchgpt.chance import Place
from scratchgpt.ops import sublayers
from scratchgpt.ops.array import Array
from scratchgpt.ops.attention import split_heads
from scratchgpt.ops.cache import LayerCache
from scratchgpt.ops.table import AttentionParams, Step, Wanted

ROWS = 32
"""Query rows in a block."""


class Saved(NamedTuple):
    """Values that the backward needs."""

    norm: Any  # the norm's record
    normed: Array  # (B * T, C)
    qkv: Array  # (B, T, 3, H, D)
    weights: list[Array]  # for each block of R rows that ends before row S: (B, H, R, S)
    dropped: list[Array]  # the same, 0 where dropout has struck: not scaled up, as y and its gradient are instead
    kept: Array | None  # where it has not: (B, H, T, T)
    heads: Array  # (B, T, C): y
    out_mask: Array | None


@dataclasses.dataclass(frozen=True)
class Attention:
    """The sublayer, on these buffers."""

    reference: sublayers.Attention
    norm: Norm[Any]
    workspace: Workspace
    masks: Masks
    block_bytes: int

    def forward(self, x: Array, params: AttentionParams[Array], step: Step, layer: int) -> Saved:
        """Update x (B, T, C) in place."""
        B, T, C = x.shape
        H, workspace = self.reference.n_head, self.workspace
        take = workspace.taker("attention", layer, dtype=x.dtype)
        normed, norm_saved = self.norm.forward(x.reshape(-1, C), params.gain, params.bias, take)
        qkv = take("qkv", B * T, params.qkv_weight.shape[1])
        np.matmul(normed, params.qkv_weight, out=qkv)
        if params.qkv_bias is not None:
            qkv += params.qkv_bias

        parts = qkv.reshape(B, T, 3, H, C // H)
        q, k, v = (parts[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D)
        heads = take("heads", B, T, C)
        y = split_heads(heads, H)
        kept = self.masks.kept(step, layer, Place.ATTENTION, (H, T, T))
        blocks = _blocks(T)
        weights = [take(f"weights {i}", B, H, rows.stop - rows.start, rows.stop) for i, rows in enumerate(blocks)]
        dropped = weights if kept is None else [take(f"dropped {i}", *each.shape) for i, each in enumerate(weights)]
        for group in _groups(B, weights[-1].strides[0], self.block_bytes):
            keys = _transposed(k[group], "keys", workspace)
            for i, rows in enumerate(blocks):
                _attend(q[group, :, rows], keys[..., : rows.stop], weights[i][group])
                if kept is not None:
                    np.multiply(weights[i][group], kept[group, :, rows, : rows.stop], out=dropped[i][group])
                np.matmul(dropped[i][group], v[group, :, : rows.stop], out=y[group, :, rows])
        if kept is not None:
            heads *= scale(step)

        out_mask = self.masks.mask(step, layer, Place.ATTENTION_OUTPUT, (T, C), x)
        add_output(x, heads, params.proj_weight, params.proj_bias, out_mask, workspace)
        return Saved(norm_saved, normed, parts, weights, dropped, kept, heads, out_mask)

    def extend(self, x: Array, params: AttentionParams[Array], cache: LayerCache) -> None:
        """Update x (B, T, C), the cache's span, in place, and keep its keys and values."""
        if cache.span.n_kept:
            self.reference.extend(x, params, cache)
            return
        saved = self.forward(x, params, Step(), 0)
        cache.keep(saved.qkv[:, :, 1].swapaxes(1, 2), saved.qkv[:, :, 2].swapaxes(1, 2))

    def backward(
        self,
        dx: Array,
        saved: Saved,
        params: AttentionParams[Array],
        grads: AttentionParams[Wanted],
        step: Step,
        layer: int,  # noqa: ARG002 - the masks are saved
    ) -> None:
        """Add to `grads` and turn dx (B, T, C) into the gradient with respect to the sublayer's input, in place."""
        B, T, C = dx.shape
        workspace, dtype = self.workspace, dx.dtype
        dout = output_gradient(dx, saved.out_mask, workspace)
        add_gradients(saved.heads.reshape(-1, C), dout, grads.proj_weight, grads.proj_bias)
        dheads = workspace.take("dheads", (B * T, C), dtype)
        np.matmul(dout, params.proj_weight.T, out=dheads)
        if saved.kept is not None:
            dheads *= scale(step)
        dqkv = workspace.take("dqkv", saved.qkv.shape, dtype)
        self._backward(dheads.reshape(B, T, C), saved, dqkv, 1.0 if saved.kept is None else scale(step))
        rows = dqkv.reshape(B * T, params.qkv_weight.shape[1])
        add_gradients(saved.normed, rows, grads.qkv_weight, grads.qkv_bias)
        dnormed = dheads
        np.matmul(rows, params.qkv_weight.T, out=dnormed)
        self.norm.backward(dnormed, saved.norm, params.gain, grads.gain, grads.bias, workspace)
        dx += dnormed.reshape(dx.shape)

    def _backward(self, dheads: Array, saved: Saved, dqkv: Array, dropout_scale: float) -> None:
        """Fill dqkv (B, T, 3, H, D) from the gradient of the heads (B, T, C), times what dropout scales them by."""
        B, T, _, H, D = dqkv.shape
        workspace, dtype = self.workspace, dqkv.dtype
        along_scale = 1 / math.sqrt(D) / dropout_scale
        q, k, v = (saved.qkv[:, :, i].swapaxes(1, 2) for i in range(3))
        dq, dk, dv = (dqkv[:, :, i].swapaxes(1, 2) for i in range(3))
        dy, y = split_heads(dheads, H), split_heads(saved.heads, H)
        blocks = _blocks(T)
        for group in _groups(B, saved.weights[-1].strides[0], self.block_bytes):
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
    sums = weights @ ones(S, weights.dtype.name)
    if not are_safe(sums):  # an exponential has overflowed, or a whole row has vanished: begin again, shifted
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
