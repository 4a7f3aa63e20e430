"""Token by token against all at once: the same logits at every position, whatever the model."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.backend import reference
from scratchgpt.config import ModelConfig
from scratchgpt.generation import kv_cache
from scratchgpt.generation.kv_cache import TILE, KVCache
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from tests.backends import on_cpu

SIZES: dict[str, Any] = {"vocab_size": 11, "block_size": 9, "n_layer": 2, "n_head": 3, "n_embd": 12}
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


def make_model(dtype: str = "float64", *, scale: float = 0.3, **changes: Any) -> GPT:
    """Return a model of random numbers, biases and gains too, whose buffers hold NaN when they are taken."""
    layout = Layout(ModelConfig(**(SIZES | changes)))
    params = np.random.default_rng(1).normal(size=layout.size, scale=scale).astype(dtype)
    return GPT(layout.config, on_cpu(), params)


def all_at_once(model: GPT, tokens: Array) -> Array:
    """Return the logits (B, T, V) of the reference."""
    slow = GPT(model.config, reference(), model.params)
    return slow.logits(slow.hidden(tokens))


def assert_same(model: GPT, tokens: Array, n_prompt: int, tolerance: float) -> None:
    """Check prefill and steps at each position of tokens (B, T)."""
    expected = all_at_once(model, tokens)
    B, T = tokens.shape
    cache = KVCache(model, B, T)
    logits = cache.prefill(tokens[:, :n_prompt])
    for position in range(n_prompt, T + 1):
        assert np.abs(logits - expected[:, position - 1]).max() <= tolerance * max(1, np.abs(expected).max())
        if position < T:
            logits = cache.step(tokens[:, position])


@given(
    seed=st.integers(0, 2**32),
    B=st.integers(1, 5),
    T=st.integers(1, 9),
    data=st.data(),
    dtype=st.sampled_from(["float64", "float32"]),
    bias=st.booleans(),
    tied=st.booleans(),
    head_bias=st.booleans(),
    activation=st.sampled_from(["gelu_new", "relu"]),
    norm_epsilon=st.sampled_from([1e-5, 0.1]),
)
def test_steps_give_the_logits_of_the_uncached_model(
    *, seed: int, B: int, T: int, data: st.DataObject, dtype: str, tied: bool, **kind: Any
) -> None:
    model = make_model(dtype, tie_word_embeddings=tied, **kind)
    tokens = np.random.default_rng(seed).integers(0, 11, (B, T))
    assert_same(model, tokens, data.draw(st.integers(1, T)), TOLERANCE[dtype])


@pytest.mark.parametrize(("T", "n_prompt"), [(70, 1), (70, 33), (65, 64)])
def test_across_the_blocks_of_the_prefill(T: int, n_prompt: int) -> None:
    model = make_model(block_size=T, n_head=1, vocab_size=700)
    assert_same(model, np.random.default_rng(T).integers(0, 700, (3, T)), n_prompt, 1e-9)


@pytest.mark.parametrize(("n_rows", "B"), [(1, 3), (2, 3), (2, 4), (3, 5), (4, 5), (0.5, 2)])
def test_the_activations_of_several_rows_at_once(n_rows: float, B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    monkeypatch.setattr(kv_cache, "PART_BYTES", int(n_rows * 4 * model.config.n_embd * 8))
    assert_same(model, np.random.default_rng(B).integers(0, 11, (B, 9)), 3, 1e-9)


@pytest.mark.parametrize("V", [TILE - 1, TILE, TILE + 1, 3 * TILE + 2])
def test_tokens_in_tiles(V: int) -> None:
    assert_same(make_model(vocab_size=V), np.random.default_rng(V).integers(0, V, (2, 5)), 3, 1e-9)


@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_would_overflow(size: float, sign: int) -> None:
    """In float32, where e**89 is infinite. Sequences of like tokens have scores that are all large, or all small."""
    model = make_model("float32", n_layer=1)
    views = model.layout.views(model.params)
    weight = views["transformer.h.0.attn.c_attn.weight"]
    weight[:, 12:24] = sign * weight[:, :12]
    weight[:, :24] *= size**0.5
    tokens = np.array([[3] * 9, [7] * 9])
    views["transformer.wpe.weight"][...] = 0
    assert_same(model, tokens, 2, 1e-3)


def test_a_prompt_for_all_and_beginning_anew() -> None:
    model = make_model()
    tokens = np.random.default_rng(0).integers(0, 11, (3, 9))
    expected = all_at_once(model, tokens)
    cache = KVCache(model, 3, 9)
    cache.prefill(tokens)
    tokens[:, :4] = tokens[0, :4]
    expected = all_at_once(model, tokens)
    logits = cache.prefill(tokens[:1, :4])
    assert np.abs(logits - expected[:, 3]).max() <= 1e-9
    assert np.abs(cache.step(tokens[:, 4]) - expected[:, 4]).max() <= 1e-9


@pytest.mark.parametrize("rows", [[0, 2, 3], [1], [3, 0]])
def test_some_of_the_sequences_go_on(rows: list[int]) -> None:
    model = make_model(scale=1.0)
    tokens = np.random.default_rng(2).integers(0, 11, (4, 9))
    expected = all_at_once(model, tokens)[rows]
    cache = KVCache(model, 4, 9)
    cache.prefill(tokens[:, :3])
    cache.step(tokens[:, 3])
    cache = cache.only(rows)
    assert (cache.length, cache.capacity) == (4, 9)
    for position in range(4, 9):
        assert np.abs(cache.step(tokens[rows, position]) - expected[:, position]).max() <= 1e-9 * np.abs(expected).max()


def test_a_cache_has_room_for_what_the_model_sees() -> None:
    assert [KVCache(make_model(), 2, n_positions).capacity for n_positions in (4, 9, 99)] == [4, 9, 9]


@pytest.mark.parametrize("B", [1, 3])
def test_little_is_copied_and_nothing_stays(B: int) -> None:
    """A model of 5.9 MB: all that a cache needs is a part of it, and it goes when the cache does.

    A single text's has two matrices of each layer, here of 1.5 MB together.
    """
    model = make_model("float32", n_embd=192, vocab_size=3000, block_size=16)
    tokens = np.zeros((B, 3), np.int64)
    model.hidden(tokens)  # takes the workspace's buffers
    tracemalloc.start()
    try:
        cache = KVCache(model, B, 16)
        cache.prefill(tokens)
        cache.step(tokens[:, 0])
        assert tracemalloc.get_traced_memory()[1] < model.params.nbytes / (2 if B == 1 else 4)
        del cache
        assert tracemalloc.get_traced_memory()[0] < model.params.nbytes / 40
    finally:
        tracemalloc.stop()
