"""Keys and values of sequences that come and go, each of its own length. Derivation: kv_cache.md."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scratchgpt.generation.kv_cache import KVCache, Layer
from scratchgpt.model.gpt import GPT
from scratchgpt.ops.array import Array


class RaggedCache:
    """Places for up to N sequences, of which the first `n_used` are in use: a step adds a token to each of these.

    All that is linear is computed for all sequences at once. Attention goes over as many positions as the longest has,
    and the weights of those that a sequence does not have are 0.
    """

    def __init__(self, model: GPT, n_places: int) -> None:
        """Make room for N sequences of block_size tokens. What is not used takes no memory on a CPU."""
        config, xp, dtype = model.config, model.backend.xp, model.masters.embed.token_table.dtype
        C, H = config.n_embd, config.n_head
        # Zeros: what has weight 0 must be finite.
        self._memory = xp.zeros((config.n_layer, 2, n_places, H, config.block_size, C // H), dtype)
        self._model = model
        self._steps: dict[int, _Step] = {}  # by the number of sequences
        self.n_used = 0
        self.lengths = np.zeros(n_places, np.int64)
        self.logits = np.empty((n_places, config.vocab_size), dtype)  # (N, V): of what follows each sequence

    def prefill(self, places: Sequence[int], tokens: npt.NDArray[np.int64], *, only_last: bool = True) -> Array:
        """Begin anew in B places with tokens (B, T), or (1, T) for all; make the logits of what follows.

        Returns the residual stream (B, 1, C) behind them, or that of all positions (B, T, C).
        """
        T = tokens.shape[1]

        def keep(layer: int, *keys_values: Array) -> None:
            for kept, given in zip(self._memory[layer], keys_values, strict=True):
                kept[places, :, :T] = given

        x = self._model.hidden(tokens, keep=keep, only_last=only_last)
        self.logits[places] = self._model.backend.to_numpy(self._model.logits(x[:, -1]))
        self.lengths[places] = T
        return x

    def step(self, tokens: Sequence[int]) -> None:
        """Append a token (n_used,) to each sequence, and make its logits. One that is full loses its last token."""
        n = self.n_used
        if n not in self._steps:
            self._steps[n] = _Step(self._model, self._memory[:, :, :n])
        self.logits[:n] = self._steps[n].append(np.array(tokens, np.int64), self.lengths[:n])

    def release(self, place: int) -> None:
        """Give a place back; the sequence in the last one moves there."""
        self.n_used -= 1
        last = self.n_used
        if place != last:
            n = self.lengths[last]
            self._memory[:, :, place, :, :n] = self._memory[:, :, last, :, :n]
            self.lengths[place] = n
            self.logits[place] = self.logits[last]


class _Step(KVCache):
    """The step for a certain number of sequences."""

    def __init__(self, model: GPT, memory: Array) -> None:
        _, _, B, H, T, D = memory.shape
        super().__init__(model, B, T, memory=memory)
        self._rows, self._positions = self._xp.arange(B), self._xp.arange(T)
        self._new_rows = self._qkv[:, H * D :].reshape(B, 2, H, D)

    def append(self, tokens: Array, lengths: Array) -> Array:
        """Append tokens (B,) to sequences of these lengths (B,), which grow; return the logits (B, V)."""
        places = np.minimum(lengths, self.capacity - 1)
        self.length = int(places.max())
        self._places = self._xp.asarray(places)
        is_beyond = self._positions[: self.length + 1] > self._places[:, None]
        self._mask_added = self._xp.where(is_beyond, -np.inf, 0).astype(self._qkv.dtype)[:, None, :, None]
        logits = self.step(tokens)
        lengths[:] = places + 1
        return logits

    def _position(self) -> Array:
        return self._places

    def _keep(self, layer: Layer) -> None:
        layer.keys_values[:, self._rows, :, self._places] = self._new_rows

    def _mask(self, scores: Array) -> None:
        scores += self._mask_added
