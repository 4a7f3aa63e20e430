"""Rows that pass all layers together: those of a step are of several sequences, those of a chunk of one.

Every part except attention treats rows independently.
"""

import abc
import math
from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np

from scratchgpt.backend.decoding import activations, norms
from scratchgpt.backend.decoding.weights import Output, Projection, Weights
from scratchgpt.config import ModelConfig
from scratchgpt.ops.array import Array, array_module
from scratchgpt.ops.cache import Positions, Span
from scratchgpt.ops.table import Params

LARGEST_SUM, SMALLEST_SUM = 1e12, 1e-12
"""Between these, sums of exponentials are exact enough in float32, and no maximum need be subtracted first."""


class Shared:
    """Weights, memory and buffers of rows of all sizes. Only one set of rows is computed at a time."""

    def __init__(self, params: Params, memory: Array, config: ModelConfig) -> None:
        """Use a memory (L, 2, N, H, room, D)."""
        self.config, self.weights, self.memory = config, Weights(params), memory
        self.xp, self.dtype = array_module(memory), memory.dtype
        self.ones = self.xp.ones((memory.shape[4], 1), memory.dtype)
        self.needs_maxima = False  # whether a sum of exponentials has shown that they have to be subtracted
        self._buffers: dict[str, Array] = {}

    def take(self, name: str, *shape: int) -> Array:
        """Return the buffer of this name; its content is undefined, and it grows when more is asked for than before."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = self.xp.empty(size, self.dtype)
        buffer: Array = self._buffers[name][:size].reshape(shape)
        return buffer


class Layer(NamedTuple):
    """The weights of a layer, and the buffers of its attention."""

    qkv: Projection
    proj: Output
    fc: Projection
    out: Output
    kept: Array  # (2, N, H, room, D): keys and values
    sums: Array  # of exponentials: one for each row and head


class Rows(abc.ABC):
    """The linear parts of R rows; how they attend is a subclass's."""

    def __init__(self, shared: Shared, n_rows: int, sums: Array) -> None:
        """Take buffers. `sums` (L, ...) are those of all layers."""
        config, weights, take = shared.config, shared.weights, shared.take
        R, qkv, fc = n_rows, weights.layers[0].qkv.weight, weights.layers[0].fc.weight
        C, K = fc.shape
        self._shared, self._xp, self._matmul, self._sums = shared, shared.xp, shared.xp.matmul, sums
        self._x, self._normed = take("x", R, C), take("normed", R, C)
        self._heads, self._branch = take("heads", R, C), take("branch", R, C)
        self._qkv, self._hidden = take("qkv", R, qkv.shape[1]), take("hidden", R, K)
        self._normalise = norms.NORMS[config.norm](self._x, self._normed, config.norm_epsilon)
        self._activate = activations.ACTIVATIONS[config.activation](self._hidden, take)
        self._scale = shared.xp.full((), 1 / math.sqrt(shared.memory.shape[-1]), shared.dtype)
        layers = weights.layers_for(R)
        self._layers = [Layer(*layer, *places) for layer, *places in zip(layers, shared.memory, sums, strict=True)]

    @abc.abstractmethod
    def _keep(self, kept: Array) -> None:
        """Put the new keys and values into a layer's memory (2, N, H, room, D)."""

    @abc.abstractmethod
    def _attend(self, kept: Array, sums: Array) -> None:
        """Fill `heads` (R, C) and the sums of exponentials."""

    @final
    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def _compute_safely(self, compute: Callable[[], None]) -> None:
        """Compute, and compute again with maxima subtracted if a sum of exponentials is not exact enough."""
        compute()
        shared, sums = self._shared, self._sums
        if not (shared.needs_maxima or (sums.max() < LARGEST_SUM and sums.min() > SMALLEST_SUM)):
            shared.needs_maxima = True
            compute()  # again: everything is overwritten

    @final
    def _run_layers(self, tokens: Array, positions: int | Positions, *, only_kept: bool = False) -> None:
        """Fill keys, values, sums and the residual stream x; with `only_kept` the last layer has no more."""
        embed, activate = self._shared.weights.embed, self._activate
        self._xp.add(embed.token_table[tokens], embed.position_table[positions], out=self._x)
        for layer in self._layers:
            self._project(layer.qkv, self._qkv)
            self._keep(layer.kept)
            if only_kept and layer is self._layers[-1]:
                return
            self._attend(layer.kept, layer.sums)
            self._add(self._heads, layer.proj)
            self._project(layer.fc, self._hidden)
            activate()
            self._add(self._hidden, layer.out)

    @final
    def _project(self, projection: Projection, out: Array) -> None:
        """out = norm(x) W + b. out (R, N)."""
        self._normalise(projection.gain)
        self._matmul(self._normed, projection.weight, out=out)
        if projection.offset is not None:
            out += projection.offset

    @final
    def _add(self, rows: Array, output: Output) -> None:
        """x += rows W + b: the end of a branch."""
        x, branch = self._x, self._branch
        self._matmul(rows, output.weight, out=branch)
        x += branch
        if output.bias is not None:
            x += output.bias


@final
class StepRows(Rows):
    """A token of each of the first B sequences."""

    def __init__(self, shared: Shared, n_sequences: int) -> None:
        """Take buffers for B sequences."""
        xp, B = shared.xp, n_sequences
        L, _, _, H, room, D = shared.memory.shape
        super().__init__(shared, B, xp.ones((L, B, H, 1, 1), shared.dtype))
        C = H * D
        self._layers = [layer._replace(kept=layer.kept[:, :B]) for layer in self._layers]
        self._rows = xp.arange(B)
        self._logits = shared.take("logits", B, shared.weights.head.weight.shape[1])
        self._head_parts = shared.weights.head_parts(self._logits)
        self._scores = shared.take("scores", B * H * room)
        # The same memory, seen as attention sees it.
        self._queries: Array = self._qkv[:, :C].reshape(B, H, D, 1)
        self._new_by_row: Array = self._qkv[:, C:].reshape(B, 2, H, D)
        self._new_by_kind: Array = self._new_by_row.transpose(1, 0, 2, 3)
        self._results: Array = self._heads.reshape(B, H, 1, D)

    def step(self, tokens: Array, span: Span) -> Array:
        """Append tokens (B,); return the logits (B, V)."""
        self._n_met, self._mask = span.n_met, span.mask(self._x)
        everything = slice(None)
        if isinstance(span.positions, slice):
            place = span.positions.start
            self._new, self._index = self._new_by_kind, (everything, everything, everything, place)
        else:
            place = span.positions[:, 0]
            self._new, self._index = self._new_by_row, (everything, self._rows, everything, place)
        self._compute_safely(lambda: self._compute(tokens, place))
        return self._logits

    def _compute(self, tokens: Array, place: int | Array) -> None:
        """Fill keys, values, sums and logits."""
        self._run_layers(tokens, place)
        head = self._shared.weights.head
        self._normalise(head.gain)
        for weight, logits in self._head_parts:
            self._xp.matmul(self._normed, weight, out=logits)
        if head.offset is not None:
            self._logits += head.offset

    def _keep(self, kept: Array) -> None:
        kept[self._index] = self._new

    def _attend(self, kept: Array, sums: Array) -> None:
        """heads = softmax(q kᵀ / √D + mask) v."""
        xp, shared, results, n = self._xp, self._shared, self._results, self._n_met
        B, H = self._queries.shape[:2]
        keys, values = kept[0, :, :, :n], kept[1, :, :, :n]
        self._queries *= self._scale
        scores = self._scores[: B * H * n].reshape(B, H, n, 1)
        weights = scores.reshape(B, H, 1, n)
        xp.matmul(keys, self._queries, out=scores)
        if self._mask is not None:
            weights += self._mask
        if shared.needs_maxima:
            scores -= scores.max(axis=2, keepdims=True)
        xp.exp(scores, out=scores)
        xp.matmul(weights, shared.ones[:n], out=sums)
        xp.matmul(weights, values, out=results)
        results /= sums


@final
class Chunk(Rows):
    """R positions of one sequence."""

    def __init__(self, shared: Shared, n_rows: int) -> None:
        """Take buffers for R positions."""
        xp, R = shared.xp, n_rows
        L, _, _, H, room, D = shared.memory.shape
        super().__init__(shared, R, xp.ones((L, H, R, 1), shared.dtype))
        C = H * D
        self._queries: Array = self._qkv[:, :C].reshape(R, H, D).swapaxes(0, 1)  # (H, R, D)
        self._new: Array = self._qkv[:, C:].reshape(R, 2, H, D).transpose(1, 2, 0, 3)[:, None]
        self._results = shared.take("results", H, R, D)
        self._head_results: Array = self._heads.reshape(R, H, D).swapaxes(0, 1)
        # On a CPU, the scores of one head stay in the cache of a core.
        self._head_groups = [slice(head, head + 1) for head in range(H)] if xp is np else [slice(H)]
        self._scores = shared.take("scores", (1 if xp is np else H) * R * room)

    def extend(self, tokens: Array, span: Span, n_last: int) -> Array:
        """Append tokens (R,); return the residual stream (n_last, C) of the last positions."""
        mask = span.mask(self._x)
        self._span, self._mask = span, None if mask is None else mask[0, :, :, span.n_kept :]
        self._compute_safely(lambda: self._run_layers(tokens, span.positions, only_kept=not n_last))
        return self._x[len(self._x) - n_last :]

    def _keep(self, kept: Array) -> None:
        kept[:, self._span.slots, :, self._span.positions] = self._new

    def _attend(self, kept: Array, sums: Array) -> None:
        """heads = softmax(q kᵀ / √D + causal) v: a query meets all earlier positions and its own."""
        xp, shared, n_kept, n = self._xp, self._shared, self._span.n_kept, self._span.n_met
        all_keys, all_values = kept[:, self._span.slots][:, 0]
        self._queries *= self._scale
        for heads in self._head_groups:
            queries, own_sums, results = self._queries[heads], sums[heads], self._results[heads]
            keys, values = all_keys[heads, :n], all_values[heads, :n]
            scores = self._scores[: math.prod(queries.shape[:2]) * n].reshape(*queries.shape[:2], n)
            xp.matmul(queries, keys.swapaxes(1, 2), out=scores)
            if self._mask is not None:
                scores[:, :, n_kept:] += self._mask
            if shared.needs_maxima:
                scores -= scores.max(axis=2, keepdims=True)
            xp.exp(scores, out=scores)
            xp.matmul(scores, shared.ones[:n], out=own_sums)
            xp.matmul(scores, values, out=results)
            xp.divide(results, own_sums, out=self._head_results[heads])
