"""Sequences that come and go against each of them alone: the same logits at every position."""

from typing import Any

import numpy as np
import pytest

from scratchgpt.generation.ragged_cache import RaggedCache
from scratchgpt.model.gpt import GPT
from scratchgpt.ops.array import Array
from tests.generation.test_kv_cache import TOLERANCE, all_at_once, make_model


class _World:
    """A ragged cache and, beside it, the tokens of each sequence in it."""

    def __init__(self, model: GPT, n_places: int) -> None:
        self.model, self.cache = model, RaggedCache(model, n_places)
        self.texts: list[list[int]] = []

    def add(self, n_texts: int, tokens: list[int]) -> Array:
        places = range(len(self.texts), len(self.texts) + n_texts)
        self.texts += [list(tokens) for _ in places]
        self.cache.n_used += n_texts
        return self.cache.prefill(list(places), np.array([tokens]))

    def step(self, tokens: list[int]) -> None:
        self.cache.step(tokens)
        for text, token in zip(self.texts, tokens, strict=True):
            text.append(token)

    def release(self, place: int) -> None:
        self.cache.release(place)
        last = self.texts.pop()
        if place < len(self.texts):
            self.texts[place] = last

    def check(self, tolerance: float) -> None:
        for text, logits in zip(self.texts, self.cache.logits, strict=False):
            expected = all_at_once(self.model, np.array([text]))[0, -1]
            assert np.abs(logits - expected).max() <= tolerance * max(1, np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("changes", [{}, {"bias": False}, {"activation": "relu", "tie_word_embeddings": False}])
@pytest.mark.parametrize("seed", range(3))
def test_sequences_that_come_and_go_are_computed_as_if_alone(seed: int, changes: dict[str, Any], dtype: str) -> None:
    model = make_model(dtype, **changes)
    world, random = _World(model, 4), np.random.default_rng(seed)
    for _ in range(40):
        room = 4 - len(world.texts)
        if room and random.random() < 0.4:
            world.add(int(random.integers(1, room + 1)), random.integers(0, 11, random.integers(1, 10)).tolist())
        if world.texts and random.random() < 0.3:
            world.release(int(random.integers(len(world.texts))))
        while any(len(text) == 9 for text in world.texts):
            world.release(next(place for place, text in enumerate(world.texts) if len(text) == 9))
        if world.texts:
            world.step(random.integers(0, 11, len(world.texts)).tolist())
        world.check(TOLERANCE[dtype])


def test_a_full_sequence_loses_its_last_token_and_the_others_nothing() -> None:
    world = _World(make_model(), 2)
    world.add(1, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    world.add(1, [3, 1])
    world.cache.step([0, 4])
    world.texts = [[1, 2, 3, 4, 5, 6, 7, 8, 0], [3, 1, 4]]
    world.check(1e-9)
    world.cache.prefill([0, 1], np.array([[5, 6, 7], [8, 6, 7]]))
    world.texts = [[5, 6, 7], [8, 6, 7]]
    world.check(1e-9)


def test_scores_that_would_overflow() -> None:
    model = make_model("float32", n_layer=1)
    weight = model.layout.views(model.params)["transformer.h.0.attn.c_attn.weight"]
    weight[:, :24] *= 100
    world = _World(model, 3)
    world.add(2, [1, 2, 3])
    world.add(1, [5])
    for token in range(5):
        world.step([token, 10 - token, token])
        world.check(1e-3)
