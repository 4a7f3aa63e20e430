"""Sequences that grow, for any architecture: what earlier positions have computed is kept. Derivation: cache.md."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from scratchgpt.generation.cache import Cache
from scratchgpt.model.gpt import GPT
from scratchgpt.ops.array import Array
from scratchgpt.ops.cache import LayerCache, Span
from scratchgpt.ops.table import Decoding, Params, Step, Table

CHUNK = {"cpu": 64, "gpu": 256}
"""Positions of a prompt that are computed at once: about as much work as a step of 16 sequences of GPT-2's size."""

LARGEST_CHUNK = {"cpu": 256, "gpu": 1024}
"""Positions where no other sequence has to wait: a CPU multiplies matrices with as many rows a fifth faster."""

Token = TypeVar("Token")


def seen(tokens: list[Token], block_size: int) -> list[Token]:
    """Return the tokens that a model sees of a sequence: its last half if it has more than block_size."""
    return tokens if len(tokens) <= block_size else tokens[-max(1, block_size // 2) :]


class Decoder:
    """A model and the cache of the sequences that it extends.

    A sequence grows in two ways: by chunks of a prompt (`extend`), and by a token of each sequence at once (`step`).
    A step computes all that is linear for all sequences at once. Attention goes over as many positions as the longest
    has, and the weights of those that a sequence does not have are 0. The parameters must not change meanwhile.
    """

    def __init__(self, model: GPT, n_slots: int, n_positions: int | None = None) -> None:
        """Make room for N sequences of `n_positions` tokens, or of block_size if that is less.

        Room that is not used takes no memory on a CPU.
        """
        config, backend, table = model.config, model.backend, model.table
        room = min(n_positions or config.block_size, config.block_size)
        shape = (config.n_layer, 2, n_slots, config.n_head, room, config.head_size)
        self.model, self.cache = model, Cache(backend.xp.zeros(shape, model.masters.embed.token_table.dtype))
        kind = backend.name.partition(":")[0]
        self.chunk_size, self.largest_chunk_size = CHUNK[kind], LARGEST_CHUNK[kind]
        # In half precision, the first chunk uses the rounded matrices; later chunks and steps use the masters.
        self._from_start: Decoding = _Sublayers(model.tree, self.cache.memory, table)
        self._further = (table.decoding or partial(_Sublayers, table=table))(model.masters, self.cache.memory)

    def next_chunk(self, slot: int, n: int, *, is_alone: bool = False) -> slice:
        """Return which positions to `extend` a sequence by next, on its way to n positions.

        The first chunk is what remains when all others are full.
        """
        start = self.cache.lengths[slot]
        size = self.largest_chunk_size if is_alone else self.chunk_size
        return slice(start, start + (n - start - 1) % size + 1)

    def extend(self, slots: Sequence[int], tokens: npt.NDArray[np.int64], n_last: int = 0) -> Array:
        """Append tokens (B, T) to B sequences, or (1, T) to any number of equal ones.

        Return the residual stream (B or 1, n_last, C) of the last positions, which the next call may overwrite.
        """
        cache, (n, T) = self.cache, tokens.shape
        span = cache.span(slots[:n], T)
        arithmetic = self._further if span.n_kept and n == 1 else self._from_start
        x = arithmetic.extend(self._moved(tokens), span, n_last)
        cache.grow(slots[:n], T)
        cache.duplicate(slots[0], slots[n:], span.n_kept)
        return x

    def step(self, tokens: npt.ArrayLike, *, idle: Sequence[int] = ()) -> Array:
        """Append a token to each of the `n_used` sequences, which must have room; return the logits (n_used, V).

        Sequences in idle slots stay as they are, whatever their tokens and logits are. The logits are a NumPy array, on
        a CPU one that the next call may overwrite.
        """
        cache = self.cache
        slots = range(cache.n_used)
        logits = self._further.step(self._moved(tokens), cache.span(slots, 1))
        cache.grow(slots, 1)
        cache.grow(idle, -1)
        return self.model.backend.to_numpy(logits)

    def _moved(self, tokens: npt.ArrayLike) -> Array:
        moved: Array = self.model.backend.xp.asarray(np.asarray(tokens, np.int64))
        return moved


class _Sublayers(NamedTuple):
    """The table's sublayers, one after the other: right for any architecture."""

    params: Params
    memory: Array  # (L, 2, N, H, room, D)
    table: Table

    def extend(self, tokens: Array, span: Span, n_last: int) -> Array:
        """tokens (B, T) -> x (B, n_last, C): the last MLP is spared the other positions."""
        params, table = self.params, self.table
        x = table.embed.at(tokens, span.positions, params.embed)
        for block, (keys, values) in zip(params.blocks, self.memory, strict=True):
            table.attention.extend(x, block.attention, LayerCache(keys, values, span))
            if block is params.blocks[-1]:
                x = x[:, x.shape[1] - n_last :].copy()
            if x.size:
                table.mlp.forward(x, block.mlp, Step(), 0)  # without a backward, all layers may share buffers
        return x

    def step(self, tokens: Array, span: Span) -> Array:
        """tokens (B,) -> logits (B, V)."""
        return self.table.head.logits(self.extend(tokens[:, None], span, 1)[:, 0], self.params.head)
