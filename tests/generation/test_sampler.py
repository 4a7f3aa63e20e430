"""Sampling: each filter against a plain reference, the distribution against its exact probabilities."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.errors import DataError, UsageError
from scratchgpt.generation.sampler import Draw, Penalties, Sampling, choose, draws, generate, weights
from scratchgpt.model.gpt import GPT
from tests.world import make_trainer

LOGITS = np.array([0.5, 2.0, -1.0, 1.0, 0.0], np.float32)


def plain_probabilities(logits: list[float], sampling: Sampling) -> dict[int, float]:
    """Token -> probability, by the textbook's words."""
    p = [math.exp((logit - max(logits)) / sampling.temperature) for logit in logits]
    kept = {token: weight / sum(p) for token, weight in enumerate(p)}
    if sampling.top_k is not None:
        least = sorted(kept.values(), reverse=True)[: sampling.top_k][-1]
        kept = {token: weight for token, weight in kept.items() if weight >= least}
    if sampling.top_p not in {None, 1}:
        total, reached = sum(kept.values()), 0.0
        for weight in sorted(kept.values(), reverse=True):
            reached += weight / total
            least = weight
            if reached >= sampling.top_p:
                break
        kept = {token: weight for token, weight in kept.items() if weight >= least}
    if sampling.min_p is not None:
        kept = {token: weight for token, weight in kept.items() if weight >= sampling.min_p * max(kept.values())}
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


def assert_as_expected(logits: np.ndarray, sampling: Sampling) -> None:
    """Check the weights of logits (B, V)."""
    got = weights(logits, sampling)
    for row, w in zip(logits.astype(np.float64), got, strict=True):
        expected = plain_probabilities(row.tolist(), sampling)
        probabilities = w / w.sum()
        assert set(np.flatnonzero(w).tolist()) == {token for token, p in expected.items() if p > 0}
        assert max(abs(probabilities[token] - p) for token, p in expected.items()) <= 1e-12


@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 12)),
    ties=st.booleans(),
    temperature=st.sampled_from([0.1, 1.0, 3.0]),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.sampled_from([None, 0.0123, 0.3337, 0.6123, 0.9771, 1.0]),  # where no rounding decides
    min_p=st.none() | st.sampled_from([0.0, 0.013, 0.31, 1.0]),
)
def test_filters_do_what_a_plain_reference_does(
    *,
    seed: int,
    shape: tuple[int, int],
    ties: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> None:
    logits = np.random.default_rng(seed).normal(size=shape)
    if ties:
        logits = np.copysign(1, logits)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert_as_expected(logits, sampling)


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 3.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.5, "min_p": 0.2},
        {"temperature": 2.0, "top_k": 4, "top_p": 0.6, "min_p": 0.1},
    ],
)
def test_100_000_draws_pass_a_chi_square_test(how: dict[str, Any]) -> None:
    sampling, n = Sampling(**how), 100_000
    expected = plain_probabilities(LOGITS.tolist(), sampling)
    uniforms = np.random.default_rng(5).random(n)
    counts = np.bincount(choose(np.broadcast_to(LOGITS, (n, 5)), sampling, uniforms), minlength=5)
    assert set(np.flatnonzero(counts).tolist()) == expected.keys()
    statistic = sum((counts[token] - n * p) ** 2 / (n * p) for token, p in expected.items())
    assert statistic <= [0, 10.83, 13.82, 16.27, 18.47][len(expected) - 1]  # the 0.1 % points


@given(seed=st.integers(0, 2**32), size=st.integers(1, 9), scale=st.sampled_from([0.0, 1.0, 1e4]))
def test_greedy_and_the_extremes_of_chance(seed: int, size: int, scale: float) -> None:
    logits = (np.random.default_rng(seed).normal(size=(2, size)) * scale).astype(np.float32)
    assert choose(logits, Sampling(temperature=0), [0.999] * 2).tolist() == logits.argmax(axis=-1).tolist()
    if scale:
        assert choose(logits, Sampling(temperature=1e-300), [0.5] * 2).tolist() == logits.argmax(axis=-1).tolist()
    for uniform in (0.0, np.nextafter(1.0, 0.0)):
        chosen = choose(logits, Sampling(temperature=1.0, top_p=0.5), [uniform] * 2)
        assert (np.take_along_axis(weights(logits, Sampling(temperature=1.0)), chosen[:, None], axis=1) > 0).all()


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_model_that_gives_no_numbers(number: float) -> None:
    logits = np.stack([LOGITS, LOGITS])
    logits[1, 2] = number
    with pytest.raises(DataError, match="has diverged"):
        choose(logits, Sampling(top_p=0.5), [0.5, 0.5])


def test_log_probabilities() -> None:
    drawn = Draw(np.array([1, 3]), np.stack([LOGITS, LOGITS - 700]), [0, 1])
    exact = [plain_probabilities(LOGITS.tolist(), Sampling(temperature=1.0))[token] for token in (1, 3)]
    assert np.abs(drawn.log_probabilities() - np.log(exact)).max() <= 1e-4


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-10},
        {"repetition_penalty": float("inf")},
        {"repetition_penalty": float("nan")},
        {"frequency_penalty": -1e10},
        {"frequency_penalty": float("nan")},
        {"presence_penalty": 1e10},
        {"presence_penalty": float("nan")},
        {"logit_bias": ((1, float("inf")),)},
        {"seed": -1},
    ],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Sampling(**wrong)


@pytest.fixture
def model(tmp_path: Path) -> GPT:
    return make_trainer(tmp_path, dropout=0.2).model


def test_the_same_seed_gives_the_same_text_and_samples_differ(model: GPT) -> None:
    def text(seed: int, sample: int) -> list[int]:
        return list(generate(model, [1, 2, 3], 30, Sampling(seed=seed, temperature=1.0), sample=sample))

    assert text(1, 0) == text(1, 0)
    assert len({tuple(text(seed, sample)) for seed in (1, 2) for sample in (0, 1)}) == 4


def test_what_else_is_in_the_batch_does_not_matter(model: GPT) -> None:
    sampling = Sampling(temperature=1.0, repetition_penalty=1.2, frequency_penalty=0.1)
    drawn = [draw.tokens for draw in draws(model, [1, 2, 3], 30, sampling, samples=[4, 0, 2])]
    for sample, tokens in zip([4, 0, 2], np.stack(drawn, axis=1), strict=True):
        assert tokens.tolist() == list(generate(model, [1, 2, 3], 30, sampling, sample=sample))


@pytest.mark.parametrize("n_tokens", [7, 30])
def test_texts_that_have_ended_are_left_out(model: GPT, n_tokens: int) -> None:
    """Each goes on as it would alone, before the context is full and after."""
    sampling = Sampling(temperature=1.0, repetition_penalty=1.2, frequency_penalty=0.1)
    lengths = {0: 5, 1: 30, 2: 1, 3: 5}  # of the texts, if they are allowed as many
    texts: dict[int, list[int]] = {place: [] for place in lengths}
    sizes = []
    for draw in draws(
        model,
        [1, 2, 3],
        n_tokens,
        sampling,
        samples=[4, 0, 2, 1],
        has_ended=lambda place: len(texts[place]) == lengths[place],
    ):
        assert draw.logits.shape == (len(draw.places), model.config.vocab_size)
        sizes.append(len(draw.places))
        for place, token in zip(draw.places, draw.tokens.tolist(), strict=True):
            texts[place].append(token)
    assert sizes == [4, 3, 3, 3, 3, *[1] * (n_tokens - 5)]
    for place, sample in enumerate([4, 0, 2, 1]):
        alone = list(generate(model, [1, 2, 3], min(n_tokens, lengths[place]), sampling, sample=sample))
        assert texts[place] == alone


def test_no_draws_when_all_texts_have_ended(model: GPT) -> None:
    drawn = draws(model, [1], 30, Sampling(), samples=[0, 1], has_ended=lambda _: True)
    assert [draw.places for draw in drawn] == [range(2)]


@pytest.mark.parametrize("n_prompt", [1, 5, 8, 11])
def test_where_the_context_is_full_its_last_half_is_what_the_model_sees(model: GPT, n_prompt: int) -> None:
    """A greedy text is what feeding the model by hand gives."""
    tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5][:n_prompt]
    made = list(generate(model, tokens, 30, Sampling(temperature=0)))
    seen = tokens[-8:]
    for expected in made:
        x = model.hidden(np.array([seen]))
        assert int(model.logits(x)[0, -1].argmax()) == expected
        seen = [*seen, expected]
        if len(seen) > 8:
            seen = seen[-4:]


def test_penalties_are_for_what_the_text_has(model: GPT) -> None:
    """Of tokens that are forbidden once the text has them, none comes twice."""
    made = list(generate(model, [1, 2, 3], 20, Sampling(temperature=0, frequency_penalty=1e6)))
    assert len({1, 2, 3, *made}) == 23
    rare = list(generate(model, [1], 40, Sampling(temperature=0, repetition_penalty=1e9)))
    often = list(generate(model, [1], 40, Sampling(temperature=0)))
    assert len(set(rare)) > len(set(often))


def test_penalties_without_measure(model: GPT) -> None:
    for penalty in (1e-9, 1e9):
        sampling = Sampling(temperature=0.5, repetition_penalty=penalty, frequency_penalty=1e9, top_p=0.9)
        assert len(set(generate(model, [1], 10, sampling))) == 10


def test_penalties_by_hand() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 9)).astype(np.float32)
    text, bias = [1, 2, 2, 5], {2: 1.5, 7: -100.0}
    sampling = Sampling(
        repetition_penalty=1.7, frequency_penalty=0.3, presence_penalty=0.8, logit_bias=tuple(bias.items())
    )
    found = Penalties(sampling, text, logits.shape).applied(logits)
    for row, token in np.ndindex(logits.shape):
        expected = float(logits[row, token]) + bias.get(token, 0)
        if token in text:
            expected = (expected / 1.7 if expected > 0 else expected * 1.7) - 0.8
        assert abs(found[row, token] - (expected - 0.3 * text.count(token))) <= 1e-12


def test_penalties_that_are_off_change_no_bit() -> None:
    """Texts with the older two penalties are those that they were before there were the others."""
    logits, text = np.random.default_rng(0).normal(0, 3, (2, 9)).astype(np.float32), [1, 2, 2, 5]
    sampling = Sampling(repetition_penalty=1.7, frequency_penalty=0.3)
    wide, counts = logits.astype(np.float64), np.bincount(text, minlength=9)
    before = np.where(counts > 0, np.where(wide > 0, wide / 1.7, wide * 1.7), wide) - 0.3 * counts
    assert np.array_equal(Penalties(sampling, text, logits.shape).applied(logits), before)


def test_a_bias_forbids_and_forces_tokens(model: GPT) -> None:
    free = list(generate(model, [1], 20, Sampling(temperature=1)))
    banned = tuple((token, -100.0) for token in set(free))
    assert not set(free) & set(generate(model, [1], 20, Sampling(temperature=1, logit_bias=banned)))
    assert set(generate(model, [1], 20, Sampling(temperature=1, logit_bias=((7, 100.0),)))) == {7}
    once = list(generate(model, [1], 20, Sampling(temperature=0, presence_penalty=1e6)))
    assert len({1, *once}) == 21


def test_text_comes_as_it_is_made(model: GPT) -> None:
    endless = generate(model, [0], 10**9, Sampling())
    assert len(list(itertools.islice(endless, 3))) == 3


def test_an_empty_prompt(model: GPT) -> None:
    with pytest.raises(UsageError, match="empty"):
        next(generate(model, [], 5, Sampling()))
