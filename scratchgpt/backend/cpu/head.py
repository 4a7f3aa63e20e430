"""Final norm, output projection and cross-entropy without a matrix of all logits.

Rows come and go in chunks. Each lane of a team computes the logits of its part of the vocabulary, for everybody's rows:
with E = exp(logits), z its row sums over all parts, Y the ones at the right tokens and w the weights of the losses, the
gradient with respect to the logits is (E - Y z) · w · scale / z, row by row. The factor is given to the rows of width C
on either side of the products, so that the logits are touched only once. No row's maximum is subtracted unless a sum
shows that it must be.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.cpu.exchange import ROWS, Chunk, Shapes, exchange, shared_shapes, vocabulary
from scratchgpt.backend.cpu.norm import Norm
from scratchgpt.backend.cpu.sums import are_safe, ones
from scratchgpt.backend.team import Team
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops import cross_entropy, sublayers
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import HeadParams, Step, Wanted

NARROW, TILE = 96, 2056
"""Up to so many channels, the weight's gradient is computed transposed, in tiles of so many tokens (see below)."""


def shapes(C: int, size: int) -> Shapes:
    """Return the arrays that the head shares in a team of `size` workers."""
    return shared_shapes("head", C, size) | {
        "sums": (np.float32, (size, ROWS)),
        "maxima": (np.float32, (size, ROWS)),
        "right": (np.float32, (ROWS,)),
        "row weights": (np.float32, (ROWS,)),
        "dnormed": (np.float32, (size, ROWS, C)),
    }


@dataclasses.dataclass(frozen=True)
class Head:
    """The sublayer, on these buffers. The workers of a `team` divide the vocabulary among them."""

    reference: sublayers.Head
    norm: Norm[Any]
    workspace: Workspace
    block_bytes: int
    team: Team

    def logits(self, x: Array, params: HeadParams[Array]) -> Array:
        """Residual stream (..., C) -> logits (..., V)."""
        return self.reference.logits(x, params)

    def loss(
        self, x: Array, targets: Array, params: HeadParams[Array], grads: HeadParams[Wanted], step: Step
    ) -> tuple[Array, Array]:
        """Return the loss () and its gradient with respect to x (B, T, C), as the reference; targets (B, T)."""
        B, T, C = x.shape
        N, dtype = B * T, x.dtype
        workspace, team = self.workspace, self.team
        take = workspace.taker("head", dtype=dtype)
        normed, norm_saved = self.norm.forward(x.reshape(N, C), params.gain, params.bias, take)
        dnormed = take("dnormed", N, C)
        part = vocabulary(len(params.weight), team)
        weight = params.weight[part]
        bias = None if params.logit_bias is None else params.logit_bias[part]
        parts = team.shared("dnormed", (team.size, ROWS, C), dtype)
        all_weights = team.shared("row weights", (ROWS,), dtype)
        ids, own_weights = cross_entropy.weigh(targets, step.weights, dtype)
        scale = 1 / step.n_targets
        losses = []
        for chunk in exchange("head", normed, ids, team, workspace):
            n = len(chunk.rows)
            weights = all_weights[:n]
            weights[chunk.own] = own_weights[chunk.source]  # the others' are there after the next barrier
            exps = workspace.take("logits", (n, len(weight)), dtype)
            sums, chunk_losses = _exponentials(chunk, weight, bias, exps, part.start, team, self.block_bytes)
            losses.append(float((weights * chunk_losses)[chunk.own].sum()))
            factors = (weights * (step.loss_scale * scale) / sums)[:, None]
            np.matmul(exps, weight, out=parts[team.rank, :n])
            if grads.logit_bias is not None:
                grads.logit_bias[part] += factors[:, 0] @ exps
            if grads.weight is not None:
                chunk.rows[...] *= factors
                _add_transposed_product(exps, chunk.rows, grads.weight[part], workspace)
            team.barrier()
            own = dnormed[chunk.source]
            np.sum(parts[:, chunk.own], axis=0, out=own)
            own *= factors[chunk.own]
        self.norm.backward(dnormed, norm_saved, params.gain, grads.gain, grads.bias, workspace)
        return np.asarray(math.fsum(losses) * scale, dtype), dnormed.reshape(x.shape)


@np.errstate(over="ignore", invalid="ignore")
def _exponentials(
    chunk: Chunk, weight: Array, bias: Array | None, exps: Array, first: int, team: Team, block_bytes: int
) -> tuple[Array, Array]:
    """Fill exps (n, v) with E - Y z of the v tokens from `first` on; return z and losses (n,).

    These tokens' weight is (v, C), their bias (v,).

    Sums of all lanes decide whether maxima are needed, so all lanes decide the same.
    """
    n, v = exps.shape
    dtype = exps.dtype
    rows = np.flatnonzero((chunk.ids >= first) & (chunk.ids < first + v))
    places = rows, chunk.ids[rows] - first
    all_sums = team.shared("sums", (team.size, ROWS), dtype)
    all_maxima = team.shared("maxima", (team.size, ROWS), dtype)
    right = team.shared("right", (ROWS,), dtype)
    block = max(1, 2 * block_bytes // (v * exps.itemsize))
    column = ones(v, dtype.name)

    def multiply() -> None:
        np.matmul(chunk.rows, weight.T, out=exps)
        if bias is not None:
            np.add(exps, bias, out=exps)

    def exponentiate() -> Array:
        for start in range(0, n, block):
            part = exps[start : start + block]
            np.exp(part, out=part)
            np.matmul(part, column, out=all_sums[team.rank, start : min(start + block, n)])
        team.barrier()
        return all_sums[:, :n].sum(axis=0)

    multiply()
    right[rows] = exps[places]
    sums = exponentiate()
    shift = np.zeros(n, dtype)
    if not are_safe(sums):
        multiply()
        exps.max(axis=-1, out=all_maxima[team.rank, :n])
        team.barrier()
        shift = all_maxima[:, :n].max(axis=0)
        exps -= shift[:, None]
        sums = exponentiate()
    exps[places] -= sums[rows]
    return sums, np.log(sums) + (shift - right[:n])


def _add_transposed_product(exps: Array, rows: Array, out: Array, workspace: Workspace) -> None:
    """out += expsᵀ rows. exps (n, v), rows (n, C), out (v, C).

    Where C is small, OpenBLAS makes the transposed product of (v, C) at 70 instead of 55 GFLOP/s, which gives 5% of a
    step of gpt-nano. TILE is not a power of two: adding a transposed tile would meet the same few lines of the cache.
    """
    if out.shape[1] > NARROW:
        add_product(exps.T, rows, out)
        return
    for start in range(0, len(out), TILE):
        tile = out[start : start + TILE]
        product = workspace.take("head tile", tile.shape[::-1], out.dtype)
        np.matmul(rows.T, exps[:, start : start + TILE], out=product)
        tile += product.T
