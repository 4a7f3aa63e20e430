"""Keys and values of sequences that come and go, each of its own length. Derivation: kv_cache.md."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scratchgpt.generation.kv_cache import KVCache, Layer
from scratchgpt.model.gpt import GPT
from scratchgpt.ops.array import Array

CHUNK = {"cpu": 64, "gpu": 256}
"""Positions of a prompt that are computed at once: about as much work as a step of 16 sequences of GPT-2's size."""

LARGEST_CHUNK = {"cpu": 256, "gpu": 1024}
"""Positions where no other sequence has to wait: a CPU multiplies matrices with as many rows a fifth faster."""


class RaggedCache:
    """Slots for up to N sequences, of which the first `n_used` are in use.

    A sequence grows in two ways: by chunks of a prompt (`extend`), and by a token of each sequence at once (`step`).
    All that is linear is computed for all sequences at once. Attention goes over as many positions as the longest has,
    and the weights of those that a sequence does not have are 0.
    """

    def __init__(self, model: GPT, n_slots: int) -> None:
        """Make room for N sequences of block_size tokens. What is not used takes no memory on a CPU."""
        config, xp, dtype = model.config, model.backend.xp, model.masters.embed.token_table.dtype
        C, H = config.n_embd, config.n_head
        # Zeros: what has weight 0 must be finite.
        self._memory = xp.zeros((config.n_layer, 2, n_slots, H, config.block_size, C // H), dtype)
        self.model = model
        self._steps: dict[int, _Step] = {}  # by the number of sequences
        self._chunks: dict[int, _Chunk] = {}  # by the number of positions
        self.n_used = 0
        self.lengths = np.zeros(n_slots, np.int64)
        kind = model.backend.name.partition(":")[0]
        self.chunk_size, self.largest_chunk_size = CHUNK[kind], LARGEST_CHUNK[kind]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return int(self._memory.nbytes)

    def next_chunk(self, slot: int, n: int, *, is_alone: bool = False) -> slice:
        """Return which positions to `extend` a sequence by next, on its way to n positions.

        The first chunk is what remains when all others are full.
        """
        start = int(self.lengths[slot])
        size = self.largest_chunk_size if is_alone else self.chunk_size
        return slice(start, start + (n - start - 1) % size + 1)

    def extend(self, slots: Sequence[int], tokens: npt.NDArray[np.int64], *, has_stream: bool = False) -> Array:
        """Append tokens (B, T), or (1, T) for all, to B sequences of the same length.

        Sequences that are not empty must be equal, and their tokens (1, T). With `has_stream`, return the residual
        stream (B, T, C), else nothing that has a meaning.
        """
        start, T = int(self.lengths[slots[0]]), tokens.shape[1]
        if start == 0:

            def keep(layer: int, *keys_values: Array) -> None:
                for kept, given in zip(self._memory[layer], keys_values, strict=True):
                    for number, slot in enumerate(slots):
                        kept[slot, :, :T] = given[number % len(given)]

            x = self.model.hidden(tokens, keep=keep, only_last=not has_stream)
        else:
            if T not in self._chunks:
                self._chunks[T] = _Chunk(self.model, T, self._memory)
            x = self._chunks[T].append(tokens[0], slots[0], start, has_stream=has_stream)[None]
            new = self._memory[:, :, :, :, start : start + T]
            for slot in slots[1:]:
                new[:, :, slot] = new[:, :, slots[0]]
        self.lengths[slots] = start + T
        return x

    def step(self, tokens: Sequence[int], *, idle: Sequence[int] = ()) -> Array:
        """Append a token to each of the `n_used` sequences, which must have room; return the logits (n_used, V).

        Sequences in idle slots stay as they are, whatever their tokens and logits are. The logits are a NumPy array, on
        a CPU one that the next call overwrites.
        """
        n = self.n_used
        if n not in self._steps:
            self._steps[n] = _Step(self.model, self._memory[:, :, :n])
        logits = self._steps[n].append(np.array(tokens, np.int64), self.lengths[:n])
        self.lengths[:n] += 1
        if idle:
            self.lengths[list(idle)] -= 1
        return logits

    def n_bytes(self, slot: int) -> int:
        """Return the bytes of a sequence's keys and values."""
        return int(self._memory[:, :, slot, :, : self.lengths[slot]].nbytes)

    def copy_of(self, slot: int) -> Array:
        """Return a sequence's keys and values (L, 2, H, n, D), for `restore`."""
        return self._memory[:, :, slot, :, : self.lengths[slot]].copy()

    def restore(self, slot: int, keys_values: Array) -> None:
        """Put a sequence into a slot, bit for bit as it was."""
        n = keys_values.shape[3]
        self._memory[:, :, slot, :, :n] = keys_values
        self.lengths[slot] = n

    def clear(self, slot: int) -> None:
        """Overwrite a sequence that may have numbers that are not finite: those would spoil later sequences."""
        self._memory[:, :, slot] = 0
        self.lengths[slot] = 0

    def release(self, slot: int) -> None:
        """Free a slot; the sequence in the last one moves there."""
        self.n_used -= 1
        last = self.n_used
        if slot != last:
            n = self.lengths[last]
            self._memory[:, :, slot, :, :n] = self._memory[:, :, last, :, :n]
            self.lengths[slot] = n


class _Step(KVCache):
    """The step for a certain number of sequences."""

    def __init__(self, model: GPT, memory: Array) -> None:
        _, _, B, H, T, D = memory.shape
        super().__init__(model, B, T, memory=memory)
        self._rows, self._positions = self._xp.arange(B), self._xp.arange(T)
        self._new_rows = self._qkv[:, H * D :].reshape(B, 2, H, D)

    def append(self, tokens: Array, lengths: npt.NDArray[np.int64]) -> Array:
        """Append tokens (B,) to sequences of these lengths (B,); return the logits (B, V)."""
        self.length = int(lengths.max())
        self._places = self._xp.asarray(lengths)
        is_beyond = self._positions[: self.length + 1] > self._places[:, None]
        self._mask_added = self._xp.where(is_beyond, -np.inf, 0).astype(self._qkv.dtype)[:, None, :, None]
        return self.step(tokens)

    def _position(self) -> Array:
        return self._places

    def _keep(self, layer: Layer) -> None:
        layer.keys_values[:, self._rows, :, self._places] = self._new_rows

    def _mask(self, scores: Array) -> None:
        scores += self._mask_added


class _Chunk(KVCache):
    """R positions of one sequence at once: the linear parts of a step for R sequences, with another attention."""

    def __init__(self, model: GPT, n_rows: int, memory: Array) -> None:
        _, _, _, H, T, D = memory.shape
        super().__init__(model, n_rows, T, memory=memory)
        R, xp = n_rows, self._xp
        self._queries = self._qkv[:, : H * D].reshape(R, H, D).swapaxes(0, 1)  # (H, R, D)
        self._new_keys_values = self._qkv[:, H * D :].reshape(R, 2, H, D).transpose(1, 2, 0, 3)
        self._results = xp.empty((H, R, D), self._qkv.dtype)
        self._head_results = self._heads.reshape(R, H, D).swapaxes(0, 1)
        rows = xp.arange(R)
        self._mask_added = xp.where(rows > rows[:, None], -np.inf, 0).astype(self._qkv.dtype)
        self._layers = [layer._replace(sums=layer.sums.reshape(H, R, 1)) for layer in self._layers]
        # On a CPU, the scores of one head stay in the cache of a core.
        self._head_groups = [slice(head, head + 1) for head in range(H)] if xp is np else [slice(H)]
        self._slot = 0

    def append(self, tokens: Array, slot: int, start: int, *, has_stream: bool) -> Array:
        """Append tokens (R,) to the sequence in a slot; return the residual stream (R, C) if it is asked for."""
        self._slot, self.length = slot, start
        moved = self._xp.asarray(tokens, dtype="int64")
        self._compute_safely(lambda: self._run_layers(moved, only_keys_values=not has_stream))
        return self._x

    def _position(self) -> slice:
        return slice(self.length, self.length + len(self._x))

    def _keep(self, layer: Layer) -> None:
        layer.keys_values[:, self._slot, :, self._position()] = self._new_keys_values

    def _attend(self, layer: Layer) -> None:
        """heads = softmax(q kᵀ / √D + causal) v: a query meets all earlier positions and its own."""
        xp, n = self._xp, self.length + len(self._x)
        self._queries *= self._scale
        for heads in self._head_groups:
            queries, sums, results = self._queries[heads], layer.sums[heads], self._results[heads]
            keys, values = layer.keys_values[:, self._slot, heads, :n]
            scores = self._scores[: math.prod(queries.shape[:2]) * n].reshape(*queries.shape[:2], n)
            xp.matmul(queries, keys.swapaxes(1, 2), out=scores)
            scores[:, :, self.length :] += self._mask_added
            if self._needs_maxima:
                scores -= scores.max(axis=2, keepdims=True)
            xp.exp(scores, out=scores)
            xp.matmul(scores, self._ones[:n], out=sums)
            xp.matmul(scores, values, out=results)
            xp.divide(results, sums, out=self._head_results[heads])
