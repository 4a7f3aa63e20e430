"""Token by token against all at once: the same logits at every position, whatever the model."""

import dataclasses
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scratchgpt.config
from scratchgpt.backend import Backend, cpu, reference
from scratchgpt.backend.decoding import activations
from scratchgpt.backend.decoding.weights import TILE
from scratchgpt.backend.workspace import Workspace
from scratchgpt.config import ModelConfig, load_preset, preset_names
from scratchgpt.generation import Sampling, Stop, generate
from scratchgpt.generation.decoder import Decoder, seen
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops import sublayers
from scratchgpt.ops.array import Array
from scratchgpt.serving.engine import Engine
from scratchgpt.serving.job import Wish
from scratchgpt.tokenizer import CharTokenizer
from tests.backends import by_sublayers, on_cpu
from tests.generation.growing import (
    SIZES,
    TOLERANCE,
    all_at_once,
    assert_close,
    assert_random_growth,
    make_model,
)

BACKENDS: dict[str, Callable[[], Backend]] = {
    "reference": reference,
    "cpu": on_cpu,
    "cpu by sublayers": lambda: by_sublayers(on_cpu()),
}
KINDS = {
    "bias": st.booleans(),
    "tie_word_embeddings": st.booleans(),
    "head_bias": st.booleans(),
    "norm_epsilon": st.sampled_from([1e-5, 0.1]),
    **{
        field.name: st.sampled_from(field.metadata["choices"])
        for field in dataclasses.fields(ModelConfig)
        if field.metadata["choices"]
    },
}
"""Of architectures. A choice that the fast decoding does not know, and does not refuse either, fails here."""


def assert_same(model: GPT, tokens: Array, n_prompt: int, tolerance: float) -> None:
    """Check a beginning and steps at each position of tokens (B, T)."""
    expected = all_at_once(model, tokens)
    B, T = tokens.shape
    decoder = Decoder(model, B, T)
    decoder.cache.n_used = B
    logits = model.logits(decoder.extend(range(B), tokens[:, :n_prompt], 1)[:, 0])
    for position in range(n_prompt, T + 1):
        assert_close(logits, expected[:, position - 1], tolerance)
        if position < T:
            logits = decoder.step(tokens[:, position])


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 2**32), n_slots=st.integers(1, 4), kind=st.fixed_dictionaries(KINDS))
def test_any_growth_gives_the_logits_of_all_positions_at_once(
    backend: str, seed: int, n_slots: int, kind: dict[str, Any]
) -> None:
    assert_random_growth(make_model(backend=BACKENDS[backend](), **kind), seed, n_slots=n_slots)


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_has_a_fast_decoding_that_equals_its_sublayers(preset: str) -> None:
    sizes = SIZES | {"vocab_size": 30, "block_size": 40}
    config = ModelConfig(**(load_preset(preset).model | sizes | {"dropout": 0.0}))
    params = np.random.default_rng(0).normal(size=Layout(config).size, scale=0.3)
    tokens = np.random.default_rng(1).integers(0, 30, (3, 40))
    made: list[list[Array]] = []
    for backend in (on_cpu(), by_sublayers(on_cpu())):
        model = GPT(config, backend, params)
        assert (model.table.decoding is None) == bool(made)
        decoder = Decoder(model, 3)
        decoder.cache.n_used = 3
        decoder.extend([1], tokens[1:2, :7])
        decoder.extend([2], tokens[2:, :20])
        x = decoder.extend([2], tokens[2:, 20:35], 15).copy()
        logits = [decoder.step(tokens[[0, 1, 2], [n, 7 + n, 35 + n]]).copy() for n in range(5)]
        made.append([x, *logits])
    for fast, plain in zip(*made, strict=True):
        assert_close(fast, plain, 1e-10)


@given(
    seed=st.integers(0, 2**32),
    B=st.integers(1, 5),
    T=st.integers(1, 9),
    data=st.data(),
    dtype=st.sampled_from(["float64", "float32"]),
    kind=st.fixed_dictionaries(KINDS),
)
def test_steps_of_equally_long_sequences(
    *, seed: int, B: int, T: int, data: st.DataObject, dtype: str, kind: dict[str, Any]
) -> None:
    model = make_model(dtype, **kind)
    tokens = np.random.default_rng(seed).integers(0, 11, (B, T))
    assert_same(model, tokens, data.draw(st.integers(1, T)), TOLERANCE[dtype])


@pytest.mark.parametrize(("T", "n_prompt"), [(70, 1), (70, 33), (65, 64)])
def test_across_the_blocks_of_the_prefill(T: int, n_prompt: int) -> None:
    model = make_model(block_size=T, n_head=1, vocab_size=700)
    assert_same(model, np.random.default_rng(T).integers(0, 700, (3, T)), n_prompt, 1e-9)


@pytest.mark.parametrize(("n_rows", "B"), [(1, 3), (2, 3), (2, 4), (3, 5), (4, 5), (0.5, 2)])
def test_the_activations_of_several_rows_at_once(n_rows: float, B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    monkeypatch.setattr(activations, "PART_BYTES", int(n_rows * 4 * model.config.n_embd * 8))
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prompt_for_all_and_beginning_anew(backend: str) -> None:
    model = make_model(backend=BACKENDS[backend]())
    tokens = np.random.default_rng(0).integers(0, 11, (3, 9))
    decoder = Decoder(model, 3)
    decoder.cache.n_used = 3
    decoder.extend(range(3), tokens)
    tokens[:, :6] = tokens[0, :6]
    expected = all_at_once(model, tokens)
    decoder.cache.lengths[:] = [0] * 3
    decoder.extend(range(3), tokens[:1, :4])
    logits = model.logits(decoder.extend(range(3), tokens[:1, 4:6], 1))
    assert_close(logits, expected[:1, 5:6], 1e-10)
    assert_close(decoder.step(tokens[:, 6]), expected[:, 6], 1e-10)


@pytest.mark.parametrize("rows", [[0, 2, 3], [1], [3]])
def test_some_of_the_sequences_go_on(rows: list[int]) -> None:
    model = make_model(scale=1.0)
    tokens = np.random.default_rng(2).integers(0, 11, (4, 9))
    expected = all_at_once(model, tokens)[rows]
    decoder = Decoder(model, 4)
    decoder.cache.n_used = 4
    decoder.extend(range(4), tokens[:, :3])
    decoder.step(tokens[:, 3])
    decoder.cache.only(rows)
    for position in range(4, 9):
        assert_close(decoder.step(tokens[rows, position]), expected[:, position], 1e-10)


def test_there_is_room_for_what_the_model_sees() -> None:
    model = make_model()
    assert [Decoder(model, 2, n_positions).cache.memory.shape[4] for n_positions in (4, 9, 99, None)] == [4, 9, 9, 9]


def test_a_full_context_goes_on_from_its_last_half() -> None:
    assert seen([1, 2, 3, 4], 4) == [1, 2, 3, 4]
    assert seen([1, 2, 3, 4, 5], 4) == [4, 5]
    assert seen([1, 2, 3, 4, 5, 6], 5) == [5, 6]
    assert seen([1, 2], 1) == [2]


class _Square:
    """An activation that only this test knows."""

    @staticmethod
    def forward(x: Array) -> tuple[Array, Array]:
        return x * x, x


def _square(x: Array, slope: Array, workspace: Workspace) -> None:  # noqa: ARG001 - it needs no buffer
    np.multiply(x, 2, out=slope)
    np.multiply(x, x, out=x)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_an_architecture_without_a_fast_decoding(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new choice is a line in the registries of the tables: it generates and is served by the sublayers."""
    monkeypatch.setitem(sublayers.ACTIVATIONS, "square", _Square)
    monkeypatch.setitem(cpu.ACTIVATIONS, "square", _square)
    monkeypatch.setattr(scratchgpt.config, "_checked", lambda _, value: value)
    model = make_model(backend=BACKENDS[backend](), activation="square")
    assert model.table.decoding is None
    assert_random_growth(model, 0)
    vocabulary, greedy = CharTokenizer("abcdefghijk"), Sampling(temperature=0)
    written = list(generate(model, [1, 2, 3], 20, greedy))
    engine, is_over = Engine(model, vocabulary, n_places=2, n_waiting=8), threading.Event()
    wish = Wish(prompt=[1, 2, 3], n_tokens=20, sampling=greedy, stop=Stop(), seconds=60)
    (job,) = engine.submit([wish], lambda job: is_over.set() if job.is_over else None)
    assert is_over.wait(60)
    engine.close()
    assert job.tokens == written


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
        decoder = Decoder(model, B, 16)
        decoder.cache.n_used = B
        decoder.extend(range(B), tokens)
        decoder.step(tokens[:, 0])
        assert tracemalloc.get_traced_memory()[1] < model.params.nbytes / (2 if B == 1 else 4)
        del decoder
        assert tracemalloc.get_traced_memory()[0] < model.params.nbytes / 40
    finally:
        tracemalloc.stop()
