"""The engine against `draws`: whatever else is in the batch, and whenever it came, a text is what it is alone."""

import threading
import time
from typing import Any

import numpy as np
import pytest

from scratchgpt.generation import Sampling, Stop, Text, draws, grow
from scratchgpt.generation.sampler import log_probabilities
from scratchgpt.model.gpt import GPT
from scratchgpt.serving.engine import BusyError, ClosedError, Engine, LateError
from scratchgpt.serving.job import Job, Wish
from scratchgpt.tokenizer import CharTokenizer
from tests.generation.test_kv_cache import make_model

VOCABULARY = CharTokenizer("abcdefghijk")
SAMPLINGS = [
    Sampling(temperature=0),
    Sampling(temperature=1.0, seed=3),
    Sampling(temperature=1.0, seed=4),
    Sampling(temperature=0.7, top_k=5, seed=5),
    Sampling(temperature=2.0, top_p=0.9, seed=6),
    Sampling(temperature=1.0, min_p=0.05, repetition_penalty=1.3, seed=7),
    Sampling(temperature=0, frequency_penalty=0.5),
]


def wish(prompt: list[int], n_tokens: int, sampling: Sampling = SAMPLINGS[0], **changes: Any) -> Wish:
    settings: dict[str, Any] = {"stop": Stop(), "seconds": 60} | changes
    return Wish(prompt=prompt, n_tokens=n_tokens, sampling=sampling, **settings)


def expected(model: GPT, wanted: Wish) -> str:
    """Return what `scratchgpt generate` would write."""
    text = Text(VOCABULARY, wanted.stop)
    for _ in grow([text], draws(model, wanted.prompt, wanted.n_tokens, wanted.sampling, samples=[wanted.number])):
        pass
    return text.shown


class _Reader:
    """One who waits for jobs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.news = threading.Event()

    def submit(self, *wishes: Wish) -> list[Job]:
        return self.engine.submit(wishes, lambda _: self.news.set())

    def wait(self, jobs: list[Job]) -> None:
        end = time.monotonic() + 60
        while not all(job.is_over for job in jobs):
            assert self.news.wait(end - time.monotonic())
            self.news.clear()


def test_texts_that_come_and_go_are_what_they_are_alone() -> None:
    model = make_model("float64")
    random = np.random.default_rng(0)
    engine = Engine(model, VOCABULARY, n_places=4, n_waiting=1000)
    reader = _Reader(engine)
    jobs: list[Job] = []
    cancelled: list[Job] = []
    for number in range(120):
        prompt = random.integers(0, 11, random.integers(1, 20)).tolist()
        wanted = wish(
            prompt,
            int(random.integers(1, 40)),
            SAMPLINGS[number % len(SAMPLINGS)],
            number=int(random.integers(3)),
            stop=Stop(("ab", "kkk")) if number % 3 == 0 else Stop(),
        )
        jobs += reader.submit(*[wanted] * int(random.integers(1, 3)))
        if number % 5 == 0:
            cancelled.append(jobs.pop())
            engine.cancel(cancelled[-1:])
        if number % 10 == 0:
            time.sleep(0.01)
    reader.wait(jobs)
    for job in jobs:
        assert job.error is None
        assert job.take()[0] == expected(model, job.wish)
        assert job.n_made == job.wish.n_tokens or job.end == "stop"
    assert engine.running == engine.waiting == 0
    engine.close()


def test_how_likely_tokens_were() -> None:
    model = make_model("float64", block_size=64)
    engine = Engine(model, VOCABULARY, n_places=4, n_waiting=1000)
    reader = _Reader(engine)
    prompt = [1, 5, 2, 9]
    jobs = reader.submit(
        wish(prompt, 12, SAMPLINGS[1], n_top=3, has_echo=True, n_before=4),
        wish(prompt, 0, n_top=0, has_echo=True, n_before=4),
    )
    jobs += reader.submit(wish(prompt, 12, SAMPLINGS[1], n_top=0, n_before=4))
    reader.wait(jobs)
    text, likely = jobs[0].take()
    whole = VOCABULARY.decode(prompt) + text
    ids = VOCABULARY.encode(whole).tolist()
    scores = log_probabilities(model.logits(model.hidden(np.array([ids])))[0])
    assert [entry.token for entry in likely] == list(whole)
    assert [entry.offset for entry in likely] == list(range(16))
    assert likely[0][2:] == (None, None)
    for position, entry in enumerate(likely[1:]):
        assert entry.log_probability is not None
        assert abs(entry.log_probability - scores[position, ids[position + 1]]) <= 1e-9
        best = np.sort(scores[position])[::-1][:3]
        assert entry.top is not None
        assert len(entry.top) in {3, 4}
        assert entry.top[entry.token] == entry.log_probability
        assert np.abs(np.array(list(entry.top.values())[:3]) - best).max() <= 1e-9
    assert [entry[:2] for entry in jobs[1].take()[1]] == [entry[:2] for entry in likely[:4]]
    assert jobs[1].end == "length"
    assert [entry[:2] for entry in jobs[2].take()[1]] == [entry[:2] for entry in likely[4:]]
    engine.close()


def test_nothing_is_said_of_tokens_after_the_end() -> None:
    model = make_model("float64")
    engine = Engine(model, VOCABULARY, n_places=1, n_waiting=10)
    reader = _Reader(engine)
    whole = expected(model, wish([1], 20, SAMPLINGS[1]))
    (job,) = reader.submit(wish([1], 20, SAMPLINGS[1], stop=Stop((whole[8:10],)), n_top=0))
    reader.wait([job])
    text, likely = job.take()
    assert text == whole[: whole.index(whole[8:10])]
    assert "".join(entry.token for entry in likely) == text
    engine.close()


def test_limits() -> None:
    engine = Engine(make_model("float64"), VOCABULARY, n_places=1, n_waiting=3)
    reader = _Reader(engine)
    endless = wish([1], 10**9)
    (first,) = reader.submit(endless)
    while not engine.running:
        time.sleep(0.001)
    second = reader.submit(endless, wish([1], 5, seconds=0))
    third = reader.submit(endless)
    with pytest.raises(BusyError, match="texts wait already; try again later"):
        reader.submit(endless)
    reader.wait(second[1:])
    assert isinstance(second[1].error, LateError)
    engine.cancel([first])
    engine.cancel(second[:1])
    engine.cancel(third)
    while engine.waiting or engine.running:
        time.sleep(0.001)
    (late,) = reader.submit(wish([1], 10**9, seconds=0.05))
    reader.wait([late])
    assert isinstance(late.error, LateError)
    assert late.n_made > 0
    last = reader.submit(endless, endless)
    engine.close()
    assert all(isinstance(job.error, ClosedError) for job in last)
    with pytest.raises(ClosedError):
        reader.submit(endless)


def test_a_request_leaves_room_for_others() -> None:
    """One that is alone may fill the queue; one that is not takes half of the room at most."""
    engine = Engine(make_model("float64"), VOCABULARY, n_places=4, n_waiting=12)
    reader = _Reader(engine)
    endless = wish([1], 10**9)
    with pytest.raises(BusyError, match="0 texts wait already, and a request may add 16 more now; try again later"):
        reader.submit(*[endless] * 17)
    first = reader.submit(endless, endless)
    for most in (7, 4, 2, 1):
        with pytest.raises(BusyError, match=f"texts wait already, and a request may add {most} more now"):
            reader.submit(*[endless] * (most + 1))
        reader.submit(*[endless] * most)
    engine.cancel(first)
    engine.close()


def test_who_finds_a_place_does_not_wait() -> None:
    engine = Engine(make_model("float64"), VOCABULARY, n_places=2, n_waiting=1)
    reader = _Reader(engine)
    with pytest.raises(BusyError):
        reader.submit(*[wish([1], 5)] * 4)
    jobs = reader.submit(*[wish([1], 5)] * 3)
    reader.wait(jobs)
    assert [job.end for job in jobs] == ["length"] * 3
    engine.close()


def test_a_failure_ends_its_own_texts() -> None:
    """A token whose row is damaged: neither other texts nor later ones in the same slot are touched."""
    model = make_model("float64", tie_word_embeddings=False, block_size=64)
    model.layout.views(model.params)["transformer.wte.weight"][10] = np.nan
    engine = Engine(model, VOCABULARY, n_places=2, n_waiting=10)
    reader = _Reader(engine)
    without_it = Sampling(temperature=1.0, logit_bias=((10, -1e6),))
    long = wish([1, 2, 3, 4, 5] * 5, 200, without_it)
    short = [wish([1, token], 20, without_it) for token in range(1, 6)]
    (other,) = reader.submit(long)
    bad = reader.submit(wish([1, 2, 3, 10, 1, 2], 5, SAMPLINGS[1]))
    reader.wait(bad)
    assert "no numbers" in str(bad[0].error)
    for wanted in short:
        (job,) = reader.submit(wanted)
        reader.wait([job])
        assert job.take()[0] == expected(model, wanted)
    reader.wait([other])
    assert other.take()[0] == expected(model, long)
    engine.close()
