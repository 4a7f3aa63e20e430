"""Text token by token: what earlier positions have computed is kept. Derivation: kv_cache.md."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.model.gpt import GPT
from scratchgpt.ops.array import Array
from scratchgpt.ops.gelu import CUBIC, SCALE

LARGEST_SUM, SMALLEST_SUM = 1e12, 1e-12
"""Between these, sums of exponentials are exact enough in float32, and no maximum need be subtracted first."""

TILE = 64
"""Tokens whose logits a CPU computes at once for several texts. OpenBLAS takes the head's matrix as it lies only if the
product is small; else it copies it first, to read it in another order, and takes twice as long (V = 50,257)."""


PART_BYTES = 2**18
"""Of activations on which a CPU works several times in a row: they stay in the cache of a core."""


class Projection(NamedTuple):
    """A norm and the linear map behind it: norm(x) W + b = x̂ · gain W + offset."""

    gain: Array  # (C,): times √C, by which the norm below has divided
    weight: Array  # (C, N)
    offset: Array | None  # (N,): what the norm's bias and the map's come to


class Output(NamedTuple):
    """The linear map at the end of a branch."""

    weight: Array  # (K, C): for a single text on a CPU a copy that lies by outputs (kv_cache.md)
    bias: Array | None  # (C,)


class Layer(NamedTuple):
    """What a step multiplies with, and where it keeps what it computes."""

    qkv: Projection
    proj: Output
    fc: Projection
    out: Output
    keys_values: Array  # (2, B, H, capacity, D)
    sums: Array  # (B, H, 1, 1): of exponentials


class KVCache:
    """The keys and values of B sequences of the same length, and the step that adds a token to each of them.

    A step is some forty calls a layer, all into buffers that were taken once: in a small model the calls take longer
    than the arithmetic, in a large one reading the weights does. The parameters must not change meanwhile.
    """

    def __init__(self, model: GPT, n_sequences: int, n_positions: int, *, memory: Array | None = None) -> None:
        """Make room for B sequences of up to `n_positions` tokens, or of block_size if that is less.

        `memory` (L, 2, B, H, T, D) is where they are kept, if not in a place of their own.
        """
        config, xp, dtype = model.config, model.backend.xp, model.masters.embed.token_table.dtype
        B, C, H, L = n_sequences, config.n_embd, config.n_head, config.n_layer
        T, D = min(n_positions, config.block_size), C // H
        self.capacity, self.length = T, 0
        self._model, self._xp = model, xp
        self._needs_maxima = False  # whether a step has shown that they have to be subtracted

        def empty(*shape: int) -> Array:
            return xp.empty(shape, dtype)

        self._x, self._normed, self._heads, self._branch = (empty(B, C) for _ in range(4))
        self._dots = empty(B)
        self._column = self._dots[:, None]
        self._is_one_row = xp is np and B == 1
        self._dot_rows = np.vecdot if xp is np else _dot_rows  # CuPy has no vecdot
        self._qkv, self._logits = empty(B, 3 * C), empty(B, config.vocab_size)
        self._hidden = empty(B, 4 * C)
        n_rows = max(1, PART_BYTES // self._hidden[0].nbytes) if xp is np else B
        scratch = empty(min(n_rows, B), 4 * C)
        parts = [self._hidden[start : start + n_rows] for start in range(0, B, n_rows)]
        self._gelu_parts = [(part, scratch[: len(part)]) for part in parts]
        self._scores, self._sums = empty(B * H * T), xp.ones((L, B, H, 1, 1), dtype)
        self._mean, self._ones = xp.full(C, 1 / C, dtype), xp.ones((T, 1), dtype)
        # Numbers as arrays (): NumPy takes half a microsecond to make one of a number.
        numbers = (config.norm_epsilon * C, 1 / math.sqrt(D), 1.0, -2 * SCALE, -2 * SCALE * CUBIC)
        self._epsilon, self._scale, self._one, self._linear, self._cubic = (xp.full((), x, dtype) for x in numbers)
        self._number = empty()
        # The same memory, seen as attention sees it.
        self._queries: Array = self._qkv[:, :C].reshape(B, H, D, 1)
        self._new_keys_values: Array = self._qkv[:, C:].reshape(B, 2, H, D).transpose(1, 0, 2, 3)
        self._results: Array = self._heads.reshape(B, H, 1, D)

        tree = model.masters
        cache = empty(L, 2, B, H, T, D) if memory is None else memory
        self._embed, head = tree.embed, tree.head
        by_outputs = _by_outputs if self._is_one_row else xp.asarray
        self._layers = [
            Layer(
                _projection(attention.gain, attention.bias, attention.qkv_weight, attention.qkv_bias),
                Output(by_outputs(attention.proj_weight), attention.proj_bias),
                _projection(mlp.gain, mlp.bias, mlp.fc_weight, mlp.fc_bias),
                Output(by_outputs(mlp.out_weight), mlp.out_bias),
                cache[layer],
                self._sums[layer],
            )
            for layer, (attention, mlp) in enumerate(tree.blocks)
        ]
        self._head = _projection(head.gain, head.bias, head.weight.T, head.logit_bias)
        self._head_parts = [(self._head.weight, self._logits)]
        if xp is np and B > 1:
            self._head_parts = _tiled(head.weight, self._logits)

    def prefill(self, tokens: npt.NDArray[np.int64]) -> Array:
        """Begin anew with tokens (B, T), or (1, T) for all; return the logits (B, V) of what follows.

        T is at most the capacity. The logits are a NumPy array, on a CPU one that the next call overwrites.
        """
        T = tokens.shape[1]

        def keep(layer: int, *keys_values: Array) -> None:
            for kept, given in zip(self._layers[layer].keys_values, keys_values, strict=True):
                kept[:, :, :T] = given

        x = self._model.hidden(tokens, keep=keep, only_last=True)
        self.length = T
        self._logits[...] = self._model.logits(x[:, -1])
        return self._model.backend.to_numpy(self._logits)

    def step(self, tokens: npt.NDArray[np.int64]) -> Array:
        """Append tokens (B,), for which there must be room; return the logits (B, V) as `prefill` does."""
        moved = self._xp.asarray(tokens, dtype="int64")
        self._compute_safely(lambda: self._compute(moved))
        self.length += 1
        return self._model.backend.to_numpy(self._logits)

    def only(self, rows: Sequence[int]) -> "KVCache":
        """Return a cache of some of the sequences, which goes on where this one is."""
        cache, n = KVCache(self._model, len(rows), self.capacity), self.length
        for kept, layer in zip(cache._layers, self._layers, strict=True):
            kept.keys_values[:, :, :, :n] = layer.keys_values[:, rows, :, :n]
        cache.length, cache._needs_maxima = n, self._needs_maxima
        return cache

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def _compute_safely(self, compute: Callable[[], None]) -> None:
        """Compute, and compute again with maxima subtracted if a sum of exponentials is not exact enough."""
        compute()
        if not (self._needs_maxima or (self._sums.max() < LARGEST_SUM and self._sums.min() > SMALLEST_SUM)):
            self._needs_maxima = True
            compute()  # again: everything is overwritten

    def _compute(self, tokens: Array) -> None:
        """Fill keys, values, sums and logits for tokens (B,) at position `length`."""
        self._run_layers(tokens)
        self._normalise(self._head.gain)
        for weight, logits in self._head_parts:
            self._xp.matmul(self._normed, weight, out=logits)
        if self._head.offset is not None:
            self._logits += self._head.offset

    def _run_layers(self, tokens: Array, *, only_keys_values: bool = False) -> None:
        """Fill keys, values, sums and the residual stream x; with `only_keys_values` the last layer has no more."""
        self._xp.add(self._embed.token_table[tokens], self._embed.position_table[self._position()], out=self._x)
        activate = {"gelu_new": self._gelu, "relu": self._relu}[self._model.config.activation]
        for layer in self._layers:
            self._project(layer.qkv, self._qkv)
            self._keep(layer)
            if only_keys_values and layer is self._layers[-1]:
                return
            self._attend(layer)
            self._add(self._heads, layer.proj)
            self._project(layer.fc, self._hidden)
            activate()
            self._add(self._hidden, layer.out)

    def _project(self, projection: Projection, out: Array) -> None:
        """out = norm(x) W + b. out (B, N)."""
        self._normalise(projection.gain)
        self._xp.matmul(self._normed, projection.weight, out=out)
        if projection.offset is not None:
            out += projection.offset

    def _normalise(self, gain: Array) -> None:
        """Fill `normed`. The norm divides by √(Σ (x - mean)² + ε C), which is √C times the deviation."""
        if self._is_one_row:
            self._normalise_row(gain)
            return
        xp, dots, column, normed = self._xp, self._dots, self._column, self._normed
        self._dot_rows(self._x, self._mean, out=dots)
        xp.subtract(self._x, column, out=normed)
        self._dot_rows(normed, normed, out=dots)
        dots += self._epsilon
        xp.sqrt(dots, out=dots)
        normed /= column
        normed *= gain

    def _normalise_row(self, gain: Array) -> None:
        """Do the same for a single row on a CPU, where numbers are quicker than arrays of one number."""
        x, normed = self._x[0], self._normed[0]
        number = self._number
        np.dot(x, self._mean, out=number)
        np.subtract(x, number, out=normed)
        np.dot(normed, normed, out=number)
        number[()] = 1 / math.sqrt(float(number) + self._model.config.norm_epsilon * len(gain))
        normed *= number
        normed *= gain

    def _position(self) -> int | slice | Array:
        """Return where the new tokens stand: one position for all."""
        return self.length

    def _keep(self, layer: Layer) -> None:
        """Keep the new keys and values."""
        layer.keys_values[:, :, :, self.length] = self._new_keys_values

    def _mask(self, scores: Array) -> None:
        """Set to -inf what a sequence has no keys for: nothing, as all are equally long. scores (B, H, n, 1)."""

    def _attend(self, layer: Layer) -> None:
        """heads = softmax(q kᵀ / √D) v over n positions, the last of which is the one that q, k and v are of."""
        xp, sums, results, n = self._xp, layer.sums, self._results, self.length + 1
        B, H = self._queries.shape[:2]
        keys, values = layer.keys_values[0, :, :, :n], layer.keys_values[1, :, :, :n]
        self._queries *= self._scale
        scores = self._scores[: B * H * n].reshape(B, H, n, 1)
        weights = scores.reshape(B, H, 1, n)
        xp.matmul(keys, self._queries, out=scores)
        self._mask(scores)
        if self._needs_maxima:
            scores -= scores.max(axis=2, keepdims=True)
        xp.exp(scores, out=scores)
        xp.matmul(weights, self._ones[:n], out=sums)
        xp.matmul(weights, values, out=results)
        results /= sums

    def _gelu(self) -> None:
        """hidden = gelu(hidden), in parts that stay in the cache."""
        for x, scratch in self._gelu_parts:
            self._gelu_part(x, scratch)

    def _gelu_part(self, x: Array, scratch: Array) -> None:
        """(1 + tanh u) / 2 is 1 / (1 + exp(-2u)). An infinite exponential gives the right 0."""
        xp = self._xp
        xp.multiply(x, x, out=scratch)
        scratch *= self._cubic
        scratch += self._linear
        scratch *= x
        xp.exp(scratch, out=scratch)
        scratch += self._one
        x /= scratch

    def _relu(self) -> None:
        """hidden = max(hidden, 0)."""
        self._xp.maximum(self._hidden, 0, out=self._hidden)

    def _add(self, rows: Array, output: Output) -> None:
        """x += rows W + b: the end of a branch."""
        self._xp.matmul(rows, output.weight, out=self._branch)
        self._x += self._branch
        if output.bias is not None:
            self._x += output.bias


def _projection(gain: Array, norm_bias: Array | None, weight: Array, bias: Array | None) -> Projection:
    """Return a norm and a linear map as one. The matrix is not copied."""
    offset = None if norm_bias is None else norm_bias @ weight
    if bias is not None:
        offset = bias if offset is None else offset + bias
    return Projection(gain * math.sqrt(len(gain)), weight, offset)


def _by_outputs(weight: Array) -> Array:
    """Return the matrix (K, N) as a copy that lies the other way: all K numbers of an output, then of the next."""
    return np.ascontiguousarray(weight.T).T


def _tiled(weight: Array, logits: Array) -> list[tuple[Array, Array]]:
    """Cut the head into products of TILE tokens, and the rest: parts of weight (V, C) and of logits (B, V)."""
    (V, C), B = weight.shape, len(logits)
    n, rest = V // TILE, V // TILE * TILE
    tiles = weight[:rest].reshape(n, TILE, C).swapaxes(1, 2), logits[:, :rest].reshape(B, n, TILE).swapaxes(0, 1)
    return [tiles, (weight[rest:].T, logits[:, rest:])]


def _dot_rows(a: Array, b: Array, out: Array) -> None:
    """out = Σ a · b along rows (B, C)."""
    out[...] = (a * b).sum(axis=-1)
