"""The engine against `draws`: whatever else is in the batch, and whenever it came, a text is what it is alone."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest

from scratchgpt.backend import select
from scratchgpt.config import ModelConfig, load_preset
from scratchgpt.generation import Sampling, Stop, Text, draws, grow
from scratchgpt.generation.cache import Cache
from scratchgpt.generation.decoder import Decoder
from scratchgpt.generation.sampler import likeliest, log_probabilities
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.serving import engine as serving
from scratchgpt.serving import schedule
from scratchgpt.serving.engine import BusyError, ClosedError, Engine, LateError
from scratchgpt.serving.job import Job, Wish
from scratchgpt.tokenizer import CharTokenizer
from tests.generation.growing import make_model

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


class _Watched(Decoder):
    """Records the pieces of work, which are small, and calls back before each."""

    made: ClassVar[list["_Watched"]] = []

    def __init__(self, model: GPT, n_slots: int) -> None:
        super().__init__(model, n_slots)
        self.cache = _WatchedCache(self.cache.memory, self._note)
        self.chunk_size = self.largest_chunk_size = 4
        self.pieces: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.made.append(self)

    def _note(self, piece: str) -> None:
        self.pieces.append(piece)
        self.before(piece)

    def extend(self, slots: Any, tokens: Any, n_last: int = 0) -> Any:
        assert tokens.size <= self.chunk_size
        self._note("chunk")
        return super().extend(slots, tokens, n_last)

    def step(self, tokens: Any, *, idle: Any = ()) -> Any:
        self._note("step")
        return super().step(tokens, idle=idle)


class _WatchedCache(Cache):
    """Notes what is kept and restored."""

    def __init__(self, memory: Any, note: Callable[[str], None]) -> None:
        super().__init__(memory)
        self._note = note

    def copy_of(self, slot: int) -> Any:
        self._note("keep")
        return super().copy_of(slot)

    def restore(self, slot: int, kept: Any) -> None:
        self._note("restore")
        super().restore(slot, kept)


@pytest.mark.parametrize("kept_bytes", [0, 3000, 2**26])
def test_texts_that_come_and_go_are_what_they_are_alone(monkeypatch: pytest.MonkeyPatch, kept_bytes: int) -> None:
    """With turns of two tokens, keys and values in memory of no suspended text, of some and of all."""
    monkeypatch.setattr(schedule, "QUANTUM", 2)
    monkeypatch.setattr(serving, "QUANTUM", 2)
    monkeypatch.setattr(serving, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(Cache, "nbytes", 0)
    monkeypatch.setattr(serving, "Decoder", _Watched)
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
    assert engine.running == engine.waiting == engine.n_kept_bytes == 0
    assert ("restore" in _Watched.made[-1].pieces) == (kept_bytes > 0)
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
    texts = [expected(model, wanted) for wanted in [*short, long]]  # now: two threads cannot compute with one model
    (other,) = reader.submit(long)
    bad = reader.submit(wish([1, 2, 3, 10, 1, 2], 5, SAMPLINGS[1]))
    reader.wait(bad)
    assert "no numbers" in str(bad[0].error)
    for wanted, text in zip(short, texts, strict=False):
        (job,) = reader.submit(wanted)
        reader.wait([job])
        assert job.take()[0] == text
    reader.wait([other])
    assert other.take()[0] == texts[-1]
    engine.close()


def run_with(engine: Engine, wishes: list[Wish]) -> list[Job]:
    """Have texts made and wait for them."""
    reader = _Reader(engine)
    jobs = reader.submit(*wishes)
    reader.wait(jobs)
    return jobs


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, n_places: int, **settings: Any) -> Iterator[tuple[Engine, _Watched]]:
    """Yield an engine whose pieces of work are small, and the record of them."""
    monkeypatch.setattr(serving, "Decoder", _Watched)
    monkeypatch.setattr(serving, "CHUNK_WORK", 1)
    engine = Engine(make_model("float64", block_size=64), VOCABULARY, n_places=n_places, n_waiting=300, **settings)
    yield engine, _Watched.made[-1]
    engine.close()


def test_a_long_prompt_lets_other_texts_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step comes after each chunk, and a text from a short prompt does not wait for a long one."""
    with watched(monkeypatch, 4) as (engine, cache):
        reader = _Reader(engine)
        others: list[Job] = []

        def submit(_: str) -> None:
            if not others:
                others.extend(reader.submit(wish([1, 2] * 30, 1)))
                others.extend(reader.submit(wish([1, 2, 3], 1)))

        cache.before = submit
        (endless,) = reader.submit(wish([1], 10**9))
        while len(others) < 2:
            time.sleep(0.001)
        long, short = others
        reader.wait([long])
        assert short.is_over
        engine.cancel([endless])
        assert cache.pieces[:33] == ["step", *["chunk", "step"] * 16]


@pytest.mark.parametrize("piece", ["chunk", "step"])
def test_who_cancels_is_heard_before_the_next_piece(monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    with watched(monkeypatch, 1) as (engine, cache):
        jobs: list[Job] = []
        has_jobs = threading.Event()

        def cancel(what: str) -> None:
            assert has_jobs.wait(60)
            if what == piece:
                engine.cancel(jobs)

        cache.before = cancel
        jobs += engine.submit([wish([1, 2] * 30, 10)] * 5, lambda _: None)
        has_jobs.set()
        while engine.running or engine.waiting:
            time.sleep(0.001)
        assert cache.pieces == {"chunk": ["chunk"], "step": ["chunk"] * 15 + ["keep", "step"]}[piece]
        assert all(job.error is None for job in jobs)


@pytest.mark.parametrize("piece", ["chunk", "step"])
def test_closing_is_heard_before_the_next_piece(monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    with watched(monkeypatch, 1) as (engine, cache):
        closing = threading.Thread(target=engine.close)

        def close(what: str) -> None:
            if what == piece:
                closing.start()
                while not engine.is_closed:
                    time.sleep(0.001)

        cache.before = close
        reader = _Reader(engine)
        jobs = reader.submit(*[wish([1, 2] * 30, 10)] * 5)
        reader.wait(jobs)
        closing.join()
        assert cache.pieces[-1] == piece
        assert cache.pieces.count(piece) == 1
        assert all(isinstance(job.error, ClosedError) for job in jobs)


def hanging(engine: Any, cache: Any) -> tuple[Any, Any, threading.Event]:
    """Return a reader and its three jobs while their first piece waits for the event."""
    is_free, has_begun = threading.Event(), threading.Event()

    def hang(_: str) -> None:
        has_begun.set()
        assert is_free.wait(60)

    cache.before = hang
    reader = _Reader(engine)
    jobs = reader.submit(*[wish([1], 10)] * 3)
    assert has_begun.wait(60)
    return reader, jobs, is_free


def test_closing_does_not_wait_for_a_piece_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CLOSE_SECONDS", 0.05)
    with watched(monkeypatch, 1) as (engine, cache):
        reader, jobs, is_free = hanging(engine, cache)
        engine.close()
        assert [type(job.error) for job in jobs] == [ClosedError] * 3
        with pytest.raises(ClosedError):
            reader.submit(wish([1], 10))
        is_free.set()


def test_readers_of_texts_that_are_given_up_do_not_wait_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch, 1) as (engine, cache):
        reader, jobs, is_free = hanging(engine, cache)
        closing = threading.Thread(target=engine.close)
        closing.start()
        reader.wait(jobs)
        assert closing.is_alive()
        assert [type(job.error) for job in jobs] == [ClosedError] * 3
        is_free.set()
        closing.join()


def test_late_texts_deep_in_the_queue_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands before them, and while others go on."""
    with watched(monkeypatch, 1) as (engine, _):
        reader = _Reader(engine)
        endless = reader.submit(*[wish([1], 10**9)] * 50)
        late = reader.submit(wish([1], 10**9, seconds=0.1), wish([1], 10**9, seconds=0))
        reader.wait(late)
        assert all(isinstance(job.error, LateError) for job in late)
        assert not any(job.is_over for job in endless)
        engine.cancel(endless)


def test_prompts_with_log_probabilities_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n_rows = 0
    scored = log_probabilities

    def counted(logits: Any) -> Any:
        nonlocal n_rows
        n_rows += len(logits)
        return scored(logits)

    monkeypatch.setattr(serving, "log_probabilities", counted)
    with watched(monkeypatch, 3) as (engine, _):
        prompt = [1, 5, 2, 9, 3, 3, 4, 8, 1, 2, 3]
        jobs = run_with(engine, [wish(prompt, 0, n_top=2, has_echo=True, n_before=11)] * 100)
        assert n_rows == len(prompt) - 1
        first = jobs[0].take()
        assert len(first[1]) == len(prompt)
        assert all(job.take() == first for job in jobs[1:])


def test_a_prompt_that_is_computed_again_keeps_its_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text was suspended in the middle, its keys and values were not kept, and then it is alone."""
    monkeypatch.setattr(serving, "KEPT_BYTES", 0)
    monkeypatch.setattr(Cache, "nbytes", 0)
    with watched(monkeypatch, 2) as (engine, cache):
        reader = _Reader(engine)
        others: list[Job] = []
        prompt = [1 + number % 10 for number in range(45)]

        def submit(_: str) -> None:
            if cache.pieces.count("chunk") == 6 and not others:
                others.extend(reader.submit(wish([1], 6)))

        cache.before, cache.largest_chunk_size = submit, 16
        jobs = reader.submit(wish([1], 10), wish(prompt, 3, n_top=0, has_echo=True, n_before=45))
        reader.wait(jobs)
        assert others[0].is_over
        assert cache.pieces.count("chunk") == 6 + 11, "it was computed again"
        assert [entry.offset for entry in jobs[1].take()[1]] == list(range(48))


def test_a_prompt_is_computed_once_for_all_texts_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if they begin one after the other; others have the same prompt for themselves."""
    with watched(monkeypatch, 2) as (engine, cache):
        wanted = [wish([1, 2, 3, 4, 5, 6], 3, SAMPLINGS[2], number=number) for number in range(9)]
        model = cache.model
        for _ in range(2):
            cache.pieces.clear()
            jobs = run_with(engine, wanted)
            assert cache.pieces.count("chunk") == 2
            assert [job.take()[0] for job in jobs] == [expected(model, one) for one in wanted]
        assert not engine.n_kept_bytes


@pytest.mark.parametrize(("n_texts", "n_requests"), [(128, 1), (1, 17), (1, 100), (30, 4)])
def test_a_short_request_does_not_wait_for_long_ones(
    monkeypatch: pytest.MonkeyPatch, n_texts: int, n_requests: int
) -> None:
    """It waits for one turn of each request that waits already, 16 at a time: counted in steps."""
    with watched(monkeypatch, 16) as (engine, cache):
        cache.chunk_size = 64
        reader = _Reader(engine)
        steps: list[int] = []
        are_there, is_over = threading.Event(), threading.Event()

        def tell(job: Job) -> None:
            if job.is_over:
                steps.append(engine.n_steps)
                is_over.set()

        def submit(_: str) -> None:
            if are_there.is_set() and engine.n_steps >= 50 and not steps:
                steps.append(engine.n_steps)
                engine.submit([wish([1, 2, 3, 4, 5], 5)], tell)

        cache.before = submit
        long = [job for _ in range(n_requests) for job in reader.submit(*[wish([1, 2, 3], 10**9)] * n_texts)]
        are_there.set()
        assert is_over.wait(60)
        n_rounds = math.ceil(max(0, n_requests + 1 - 16) / 16)
        assert steps[1] - steps[0] <= 7 + n_rounds * (schedule.QUANTUM + 1)
        assert not any(job.is_over for job in long)
        engine.cancel(long)


def test_a_short_request_does_not_wait_for_minutes() -> None:
    """With the smallest preset's model: the long ones have hardly begun when it ends."""
    config = ModelConfig(**(load_preset("shakespeare-cpu").model | {"vocab_size": VOCABULARY.vocab_size}))
    engine = Engine(GPT(config, select("cpu"), Layout(config).initial(1)), VOCABULARY, n_places=16, n_waiting=256)
    reader = _Reader(engine)
    long = reader.submit(*[wish([1, 2, 3] * 20, 4096, SAMPLINGS[1])] * 128)
    while not engine.n_steps:
        time.sleep(0.001)
    reader.wait(reader.submit(wish([1, 2, 3], 5)))
    assert engine.n_steps <= 1000  # of 8 times 4,096, which take minutes
    engine.cancel(long)
    engine.close()


def test_the_likeliest_are_those_that_sorting_finds() -> None:
    random = np.random.default_rng(0)
    for scores in (random.normal(size=300), random.integers(0, 4, 300).astype(float), np.zeros(300)):
        for n in (0, 1, 5, 20, 299, 300, 301):
            assert likeliest(scores, n) == np.argsort(-scores, kind="stable")[:n].tolist()
