"""Token by token on the stand-in for CuPy: the logits of the reference on a CPU."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scratchgpt.backend import Backend, reference, select
from scratchgpt.config import ModelConfig
from scratchgpt.generation import Stop
from scratchgpt.generation.decoder import Decoder
from scratchgpt.generation.sampler import Sampling, draws
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.serving.engine import Engine
from scratchgpt.serving.job import Wish
from scratchgpt.tokenizer import CharTokenizer
from tests.backends import by_sublayers, emulated
from tests.cuda.checks import needs_emulator
from tests.cuda.device import Emulated
from tests.generation.growing import assert_random_growth, make_model

pytestmark = [needs_emulator, pytest.mark.usefixtures("cupy")]

TOLERANCES = {"fp32": 1e-5, "tf32": 1e-2, "fp16": 1e-2}


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(
    "changes",
    [
        {"n_head": 1},  # flash attention
        {"n_head": 2, "bias": False, "tie_word_embeddings": False},  # by products
        {"n_head": 1, "activation": "relu", "bias": False, "head_bias": True},
    ],
)
def test_steps_give_the_logits_of_the_uncached_model(changes: dict[str, Any], precision: str) -> None:
    config = ModelConfig(vocab_size=70, block_size=7, n_layer=2, n_embd=16, **changes)
    params = np.random.default_rng(1).normal(size=Layout(config).size, scale=0.2).astype(np.float32)
    slow = GPT(config, reference(), params)
    tokens = np.random.default_rng(2).integers(0, 70, (2, 7))
    expected = slow.logits(slow.hidden(tokens))
    tolerance = TOLERANCES[precision] * np.abs(expected).max()
    backend = select("gpu:0", precision=precision)
    for either in (backend, by_sublayers(backend)):
        model = GPT(config, either, params)
        decoder = Decoder(model, 2, 7)
        decoder.cache.n_used = 2
        x = decoder.extend(range(2), tokens[:, :3], 1)
        assert np.abs(backend.to_numpy(model.logits(x))[:, 0] - expected[:, 2]).max() <= tolerance
        for position in range(3, 7):
            assert np.abs(decoder.step(tokens[:, position]) - expected[:, position]).max() <= tolerance


@pytest.mark.parametrize("in_use", [lambda backend: backend, by_sublayers], ids=["fast", "by sublayers"])
@pytest.mark.parametrize("changes", [{"n_head": 1}, {"n_head": 2, "activation": "relu"}])
def test_sequences_in_chunks_suspended_and_restored(
    changes: dict[str, Any], in_use: Callable[[Backend], Backend]
) -> None:
    config = ModelConfig(vocab_size=70, block_size=12, n_layer=2, n_embd=16, **changes)
    params = np.random.default_rng(1).normal(size=Layout(config).size, scale=0.2).astype(np.float32)
    slow = GPT(config, reference(), params)
    tokens = np.random.default_rng(2).integers(0, 70, (2, 12))
    expected = slow.logits(slow.hidden(tokens))
    tolerance = 1e-5 * np.abs(expected).max()
    decoder = Decoder(GPT(config, in_use(select("gpu:0")), params), 3)
    cache, model = decoder.cache, decoder.model
    assert (decoder.chunk_size, decoder.largest_chunk_size) == (256, 1024)
    decoder.chunk_size, cache.n_used = 3, 3
    while cache.lengths[0] < 8:
        chunk = decoder.next_chunk(0, 8)
        x = decoder.extend([0, 1], tokens[:1, chunk], chunk.stop - chunk.start)
        logits = model.backend.to_numpy(model.logits(x))
        assert np.abs(logits - expected[:1, chunk]).max() <= tolerance
    decoder.extend([2], tokens[1:, :4])
    kept = cache.copy_of(1)
    assert kept.nbytes == cache.n_bytes(1)
    cache.release(1)
    assert np.abs(decoder.step(tokens[[0, 1], [8, 4]].tolist()) - expected[[0, 1], [8, 4]]).max() <= tolerance
    cache.n_used = 3
    cache.restore(2, kept)
    logits = decoder.step([int(tokens[0, 9]), 0, int(tokens[0, 8])], idle=[1])
    assert np.abs(logits[[0, 2]] - expected[0, [9, 8]]).max() <= tolerance
    cache.clear(1)
    assert cache.lengths == [10, 0, 9]
    x = decoder.extend([1, 0], np.stack([tokens[1, :1], tokens[0, 10:11]]), 1)
    logits = model.backend.to_numpy(model.logits(x))[:, 0]
    assert np.abs(logits - expected[[1, 0], [0, 10]]).max() <= tolerance


@pytest.mark.parametrize("changes", [{}, {"bias": False, "activation": "relu", "n_head": 1, "n_embd": 16}])
def test_any_growth_on_the_emulator(changes: dict[str, Any]) -> None:
    """In float64: the launches of a beginning, and what goes on from it by sublayers or fast."""
    for seed, backend in enumerate((emulated(Emulated(), "fp64"), by_sublayers(emulated(Emulated(), "fp64")))):
        assert_random_growth(make_model(backend=backend, **changes), seed)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("n_head", [1, 2])
def test_a_server_computes_on_the_gpu_that_was_chosen(
    number: int, n_head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread is another than the one that has selected the GPU."""
    monkeypatch.setenv("STANDIN_DEVICES", "3")
    vocabulary = CharTokenizer("abcdefghijk")
    config = ModelConfig(vocab_size=11, block_size=8, n_layer=2, n_embd=16, n_head=n_head)
    params = np.random.default_rng(1).normal(size=Layout(config).size).astype(np.float32)

    def served(device: str) -> tuple[list[int], Exception | None]:
        engine = Engine(GPT(config, select(device), params), vocabulary, n_places=2, n_waiting=8)
        is_over = threading.Event()
        wish = Wish(prompt=[1, 2, 3], n_tokens=12, sampling=Sampling(temperature=0), stop=Stop(), seconds=1e9)
        (job,) = engine.submit([wish], lambda job: is_over.set() if job.is_over else None)
        assert is_over.wait(60)
        engine.close()
        return list(job.tokens), job.error

    tokens, error = served(f"gpu:{number}")
    assert error is None
    assert (tokens, error) == served("cpu")


def test_scores_that_would_overflow_and_a_full_context() -> None:
    config = ModelConfig(vocab_size=7, block_size=4, n_layer=1, n_head=1, n_embd=16)
    params = Layout(config).initial(0)
    views = Layout(config).views(params)
    views["transformer.h.0.attn.c_attn.weight"] *= 3000
    model = GPT(config, select("gpu:0"), params)
    how = Sampling(temperature=0)
    made = [draw.tokens.tolist() for draw in draws(model, [1, 2], 12, how, samples=(0, 1))]
    on_cpu = GPT(config, select("cpu"), params)
    assert made == [draw.tokens.tolist() for draw in draws(on_cpu, [1, 2], 12, how, samples=(0, 1))]
