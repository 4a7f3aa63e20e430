"""Sequences that come and go against each of them alone: the same logits at every position."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.ops.array import Array
from tests.generation.growing import World, all_at_once, assert_close, make_model


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("changes", [{}, {"bias": False}, {"activation": "relu", "tie_word_embeddings": False}])
@pytest.mark.parametrize("seed", range(3))
def test_sequences_that_come_and_go_are_computed_as_if_alone(seed: int, changes: dict[str, Any], dtype: str) -> None:
    model = make_model(dtype, **changes)
    world, random = World(model, 4), np.random.default_rng(seed)
    kept: list[tuple[list[int], Array]] = []
    for _ in range(60):
        room = 4 - len(world.texts)
        if room and random.random() < 0.4:
            world.add(int(random.integers(1, room + 1)), random.integers(0, 11, random.integers(1, 9)).tolist())
        elif room and kept and random.random() < 0.5:
            text, copy = kept.pop()
            world.texts.append(text)
            world.cache.n_used += 1
            world.cache.restore(len(world.texts) - 1, copy)
        if world.texts and random.random() < 0.4:
            slot = int(random.integers(len(world.texts)))
            kept.append((world.texts[slot], world.cache.copy_of(slot)))
            world.release(slot)
        while any(len(text) == 9 for text in world.texts):
            world.release(next(slot for slot, text in enumerate(world.texts) if len(text) == 9))
        if world.texts:
            tokens = random.integers(0, 11, len(world.texts)).tolist()
            world.step([token if random.random() < 0.8 else None for token in tokens])
    assert kept


@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 39),
    n_before=st.integers(1, 39),
    size=st.integers(1, 9),
    bias=st.booleans(),
    activation=st.sampled_from(["gelu_new", "relu"]),
)
def test_a_prompt_in_chunks_is_the_prompt_at_once(
    *, seed: int, n: int, n_before: int, size: int, bias: bool, activation: str
) -> None:
    """Ragged lengths, any remainder, chunks of both sizes, several sequences of one prompt, others in between."""
    model = make_model(block_size=40, bias=bias, activation=activation)
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 11, n + 1).tolist()
    expected = all_at_once(model, np.array([tokens]))[0]
    world = World(model, 3, chunk_size=size)
    world.add(1, random.integers(0, 11, n_before).tolist())
    world.texts += [tokens[:n], tokens[:n]]
    world.cache.n_used = 3
    n_first = int(random.integers(n + 1))  # of these, nobody else waits
    while (start := world.cache.lengths[1]) < n:
        chunk = world.decoder.next_chunk(1, n, is_alone=start < n_first)
        assert chunk.start == start
        assert 0 < chunk.stop - start <= size * (2 if start < n_first else 1)
        x = world.decoder.extend([1, 2], np.array([tokens[chunk]]), chunk.stop - chunk.start)
        assert_close(model.logits(x)[0], expected[chunk], 1e-10)
        world.step([5 if len(world.texts[0]) < 39 else None, None, None])
    world.step([None, tokens[n], tokens[n]])


def test_the_first_chunk_is_what_remains() -> None:
    world = World(make_model(block_size=40), 1)
    world.add(1, [1])
    for n, is_alone, sizes in [
        (1, False, [1]),
        (4, False, [4]),
        (5, False, [1, 4]),
        (12, False, [4, 4, 4]),
        (15, False, [3, 4, 4, 4]),
        (15, True, [7, 8]),
        (33, True, [1, 8, 8, 8, 8]),
    ]:
        world.texts, world.cache.lengths[0] = [list(range(10)) * 4], 0
        assert [chunk.stop - chunk.start for chunk in world.complete([0], n, is_alone=is_alone)] == sizes


def test_several_prompts_of_one_length_at_once() -> None:
    world = World(make_model(), 2)
    world.texts, world.cache.n_used = [[5, 6, 7], [8, 6, 7]], 2
    world.decoder.extend([0, 1], np.array(world.texts))
    world.step([1, 2])


def test_a_restored_sequence_has_its_bits() -> None:
    world = World(make_model("float32"), 2)
    world.add(1, [1, 2, 3])
    kept = world.cache.copy_of(0)
    first = world.decoder.step([4])[0].copy()
    world.release(0)
    world.add(1, [7, 8, 9, 5, 6])
    world.release(0)
    world.cache.n_used = 1
    world.cache.restore(0, kept)
    assert np.array_equal(world.decoder.step([4])[0], first)


@pytest.mark.parametrize("chunk_size", [2, 4])
def test_scores_that_would_overflow(chunk_size: int) -> None:
    model = make_model("float32", n_layer=1)
    weight = model.layout.views(model.params)["transformer.h.0.attn.c_attn.weight"]
    weight[:, :24] *= 100
    world = World(model, 3, chunk_size=chunk_size)
    world.add(2, [1, 2, 3, 7])
    world.add(1, [5])
    for token in range(5):
        world.step([token, 10 - token, token], 1e-3)
