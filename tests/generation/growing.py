"""Shared by the tests of growing sequences: models, their true logits, and a record of sequences."""

from typing import Any

import numpy as np

from scratchgpt.backend import Backend, reference
from scratchgpt.config import ModelConfig
from scratchgpt.generation.decoder import Decoder
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from tests.backends import on_cpu

SIZES: dict[str, Any] = {"vocab_size": 11, "block_size": 9, "n_layer": 2, "n_head": 3, "n_embd": 12}
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


def make_model(dtype: str = "float64", *, scale: float = 0.3, backend: Backend | None = None, **changes: Any) -> GPT:
    """Return a model of random numbers, biases and gains too, whose buffers hold NaN when they are taken."""
    layout = Layout(ModelConfig(**(SIZES | changes)))
    params = np.random.default_rng(1).normal(size=layout.size, scale=scale).astype(dtype)
    return GPT(layout.config, backend or on_cpu(), params)


def all_at_once(model: GPT, tokens: Array) -> Array:
    """Return the logits (B, T, V) of the reference."""
    slow = GPT(model.config, reference(), model.params)
    return slow.logits(slow.hidden(tokens))


def assert_close(got: Array, expected: Array, tolerance: float) -> None:
    """Check in parts of the largest number expected."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max(initial=0) <= tolerance * max(1, np.abs(expected).max(initial=0))


class World:
    """A decoder, and the tokens of each sequence in it."""

    def __init__(self, model: GPT, n_slots: int, *, chunk_size: int = 4) -> None:
        """Begin without sequences."""
        self.model, self.decoder = model, Decoder(model, n_slots)
        self.decoder.chunk_size, self.decoder.largest_chunk_size = chunk_size, 2 * chunk_size
        self.cache = self.decoder.cache
        self.texts: list[list[int]] = []
        self.tolerance = TOLERANCE[str(model.params.dtype)]

    def add(self, n_texts: int, tokens: list[int]) -> None:
        """Give free slots to equal sequences."""
        slots = list(range(len(self.texts), len(self.texts) + n_texts))
        self.texts += [list(tokens) for _ in slots]
        self.cache.n_used += n_texts
        for slot in slots:
            self.cache.lengths[slot] = 0
        self.complete(slots, len(tokens))

    def complete(self, slots: list[int], n: int, *, is_alone: bool = False) -> list[slice]:
        """Extend equal sequences to n tokens; return the chunks."""
        chunks = []
        while self.cache.lengths[slots[0]] < n:
            chunk = self.decoder.next_chunk(slots[0], n, is_alone=is_alone)
            self.decoder.extend(slots, np.array([self.texts[slots[0]][chunk]]))
            assert [self.cache.lengths[slot] for slot in slots] == [chunk.stop] * len(slots)
            chunks.append(chunk)
        return chunks

    def extend(self, slots: list[int], tokens: Array, n_last: int) -> None:
        """Append tokens (B, T) to B sequences, and check the logits of the last positions."""
        x = self.decoder.extend(slots, tokens, n_last)
        assert x.shape == (len(tokens), n_last, self.model.config.n_embd)
        logits = self.model.logits(x)
        for row, slot, new in zip(logits, slots, tokens.tolist(), strict=True):
            self.texts[slot] += new
            expected = all_at_once(self.model, np.array([self.texts[slot]]))[0]
            assert_close(row, expected[len(expected) - n_last :], self.tolerance)

    def step(self, tokens: list[int | None], tolerance: float | None = None) -> None:
        """Append a token to each sequence, none where it is None, and check the logits."""
        idle = [slot for slot, token in enumerate(tokens) if token is None]
        logits = self.decoder.step([token or 0 for token in tokens], idle=idle)
        for text, token, row in zip(self.texts, tokens, logits, strict=True):
            if token is not None:
                text.append(token)
                assert_close(row, all_at_once(self.model, np.array([text]))[0, -1], tolerance or self.tolerance)
        assert self.cache.lengths[: len(self.texts)] == [len(text) for text in self.texts] or idle

    def release(self, slot: int) -> None:
        """Free a slot."""
        self.cache.release(slot)
        last = self.texts.pop()
        if slot < len(self.texts):
            self.texts[slot] = last


def assert_random_growth(model: GPT, seed: int, *, n_slots: int = 4, n_pieces: int = 8) -> None:
    """Grow sequences by random pieces: any lengths, chunks of one and of several, steps with idle slots."""
    world, random, room = World(model, n_slots), np.random.default_rng(seed), model.config.block_size
    world.texts, world.cache.n_used = [[] for _ in range(n_slots)], n_slots
    for _ in range(n_pieces):
        n_free = [room - len(text) for text in world.texts]
        open_slots = [slot for slot, n in enumerate(n_free) if n]
        if not open_slots:
            return
        if random.random() < 0.5:
            slots = random.permutation(open_slots)[: random.integers(1, len(open_slots) + 1)].tolist()
            T = int(random.integers(1, min(n_free[slot] for slot in slots) + 1))
            tokens = random.integers(0, model.config.vocab_size, (len(slots), T))
            world.extend(slots, tokens, int(random.integers(0, T + 1)))
        elif len(open_slots) == n_slots:
            drawn = random.integers(0, model.config.vocab_size, n_slots).tolist()
            world.step([token if random.random() < 0.7 else None for token in drawn])
