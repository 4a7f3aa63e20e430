"""Sampling: each filter against a plain reference, the distribution against its exact probabilities."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.errors import UsageError
from scratchgpt.generation.sampler import Sampling, choose, generate
from scratchgpt.model.gpt import GPT
from tests.world import make_trainer

LOGITS = np.array([0.5, 2.0, -1.0, 1.0, 0.0], np.float32)


def plain_probabilities(logits: np.ndarray, sampling: Sampling) -> dict[int, float]:
    """Token -> probability, by the textbook's words."""
    weights = np.exp(logits.astype(np.float64) / sampling.temperature)
    ranked = sorted(enumerate(weights / weights.sum()), key=lambda pair: -pair[1])
    if sampling.top_k is not None:
        ranked = ranked[: sampling.top_k]
    total = sum(p for _, p in ranked)
    kept, reached = {}, 0.0
    for token, p in ranked:
        if sampling.top_p is not None and reached >= sampling.top_p:
            break
        kept[token] = p / total
        reached += p / total
    return {token: p / sum(kept.values()) for token, p in kept.items()}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5),
        Sampling(temperature=3.0, top_k=3),
        Sampling(temperature=1.0, top_p=0.8),
        Sampling(temperature=2.0, top_k=4, top_p=0.6),
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.0, top_p=1e-9),
        Sampling(temperature=1.0, top_k=99, top_p=1.0),
    ],
)
def test_draws_follow_the_exact_distribution(sampling: Sampling) -> None:
    expected = plain_probabilities(LOGITS, sampling)
    n = 20_000
    drawn = [choose(LOGITS, sampling, (i + 0.5) / n) for i in range(n)]  # an even comb instead of chance
    shares = {token: drawn.count(token) / n for token in set(drawn)}
    assert shares.keys() == expected.keys()
    assert max(abs(shares[token] - expected[token]) for token in expected) <= 2 / n


def test_random_draws_pass_a_chi_square_test() -> None:
    rng = np.random.default_rng(5)
    sampling = Sampling(temperature=1.0)
    expected = plain_probabilities(LOGITS, sampling)
    n = 20_000
    counts = np.bincount([choose(LOGITS, sampling, u) for u in rng.random(n)], minlength=5)
    statistic = sum((counts[token] - n * p) ** 2 / (n * p) for token, p in expected.items())
    assert statistic <= 18.47  # the 0.1 % point at 4 degrees of freedom


@given(seed=st.integers(0, 2**32), size=st.integers(1, 9), scale=st.sampled_from([0.0, 1.0, 1e4]))
def test_greedy_and_the_extremes_of_chance(seed: int, size: int, scale: float) -> None:
    logits = (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)
    assert choose(logits, Sampling(temperature=0), 0.999) == logits.argmax()
    assert choose(logits, Sampling(temperature=1e-6, top_k=1), 0.5) == logits.argmax()
    for uniform in (0.0, np.nextafter(1.0, 0.0)):
        assert 0 <= choose(logits, Sampling(temperature=1.0), uniform) < size


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: Path) -> GPT:
    return make_trainer(tmp_path, dropout=0.2).model


def test_the_same_seed_gives_the_same_text_and_samples_differ(model: GPT) -> None:
    def text(seed: int, sample: int) -> list[int]:
        return list(generate(model, [1, 2, 3], 30, Sampling(seed=seed, temperature=1.0), sample=sample))

    assert text(1, 0) == text(1, 0)
    assert len({tuple(text(seed, sample)) for seed in (1, 2) for sample in (0, 1)}) == 4


def test_the_model_sees_the_last_block_size_tokens(model: GPT) -> None:
    """Beyond block_size, a greedy text is what feeding the model by hand gives."""
    tokens = [3, 1, 4, 1, 5]
    made = list(generate(model, tokens, 20, Sampling(temperature=0)))
    for expected in made:
        x = model.hidden(np.array([tokens[-8:]]))
        assert int(model.logits(x)[0, -1].argmax()) == expected
        tokens.append(expected)


def test_text_comes_as_it_is_made(model: GPT) -> None:
    endless = generate(model, [0], 10**9, Sampling())
    assert len(list(itertools.islice(endless, 3))) == 3


def test_an_empty_prompt(model: GPT) -> None:
    with pytest.raises(UsageError, match="empty"):
        next(generate(model, [], 5, Sampling()))
