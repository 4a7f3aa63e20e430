"""The trainer: it learns, it evaluates what it says, and a resumed run is the undisturbed one to the very bit."""

import dataclasses
import errno
import itertools
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt.errors import TrainingError, UsageError
from scratchgpt.training import checkpoint
from scratchgpt.training.events import Ended, Evaluated, Evaluating, Event, Noted, Saved, StepDone
from scratchgpt.training.locate import locate
from scratchgpt.training.trainer import Trainer
from tests.world import make_dataset, make_documents, make_snapshot, make_trainer


def losses(events: list[Event]) -> list[tuple[int, float, float]]:
    return [(event.step, event.loss, event.grad_norm) for event in events if isinstance(event, StepDone)]


def assert_same_state(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch": 2},
        {"dropout": 0.0, "grad_clip": 0.01},
        {"order": "sequential", "micro_batch": 2},
        {"within_documents": True},
        {"order": "sequential", "within_documents": True},
        {"norm": "rmsnorm", "n_inner": 20},
    ],
)
def test_twenty_steps_are_ten_resumed_and_ten(changes: dict[str, Any], tmp_path: Path) -> None:
    dataset = make_documents(tmp_path)
    whole = Trainer(make_snapshot(dataset, **changes), dataset, tmp_path / "whole" / "run")
    expected = losses(list(whole.events()))

    first = Trainer(make_snapshot(dataset, **changes), dataset, tmp_path / "parts" / "run")
    got = []
    for event in first.events():
        got.append(event)
        if isinstance(event, StepDone) and event.step == 10:
            first.stop()
    assert isinstance(got[-1], Ended)
    assert not got[-1].is_finished

    snapshot = checkpoint.read(locate(tmp_path / "parts" / "run"))
    assert snapshot.step == 10
    second = Trainer(snapshot, dataset, tmp_path / "parts" / "run")
    got += list(second.events())

    assert len(expected) == 20
    assert losses(got) == expected
    assert_same_state(
        locate(tmp_path / "whole" / "run"),
        locate(tmp_path / "parts" / "run"),
    )


@pytest.mark.skipif(os.name != "posix", reason="elsewhere lanes are always threads")
def test_lanes_that_are_threads_say_so_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    dataset = make_dataset(tmp_path)
    snapshot = make_snapshot(dataset, steps=1)
    snapshot = snapshot._replace(plan=snapshot.plan._replace(lanes=2))
    first, *_ = Trainer(snapshot, dataset, tmp_path / "run").events()
    assert first == Noted("Lanes are threads and not processes, which is slower: Resource temporarily unavailable.")


@pytest.mark.parametrize("order", ["random", "sequential"])
def test_lanes_share_the_batches_of_one(order: str, tmp_path: Path) -> None:
    dataset = make_documents(tmp_path)
    changes = {"order": order, "within_documents": True, "steps": 3}
    found = []
    for lanes in (1, 2):
        snapshot = make_snapshot(dataset, **changes)
        snapshot = snapshot._replace(plan=snapshot.plan._replace(lanes=lanes, micro_batch=2))
        found.append(losses(list(Trainer(snapshot, dataset, tmp_path / str(lanes)).events())))
    assert np.abs(np.array(found[0]) - found[1]).max() <= 1e-5


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    runs = [
        losses(list(make_trainer(tmp_path / name, seed=seed, steps=2).events()))
        for name, seed in (("a", 1), ("b", 2), ("c", 1))
    ]
    assert runs[0] == runs[2] != runs[1]


def test_it_learns_a_text_by_heart(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=150, dropout=0.0, eval_every=0, save_every=0, learning_rate=2e-2)
    evaluations = [event for event in trainer.events() if isinstance(event, Evaluated)]
    first, last = evaluations[0], evaluations[-1]
    assert abs(first.loss - math.log(trainer.model.config.vocab_size)) <= 0.1
    assert last.loss <= 0.7  # a text that repeats: almost every character follows from the eight before
    assert last.accuracy >= 0.75


def test_events_come_when_they_are_due(tmp_path: Path) -> None:
    events = list(make_trainer(tmp_path).events())
    assert [event.step for event in events if isinstance(event, StepDone)] == list(range(1, 21))
    windows = [event for event in events if isinstance(event, Evaluated) and not event.is_whole]
    assert [event.step for event in windows] == [0, 8, 16, 20]
    assert {event.n_targets for event in windows} == {7 * 8}
    best = list(itertools.accumulate((event.loss for event in windows), min))
    improved = {event.step for event, low in zip(windows, best, strict=True) if event.loss == low}
    saved = [event for event in events if isinstance(event, Saved)]
    assert [event.step for event in saved] == sorted({0, 6, 12, 18, 20} | improved)
    assert {event.step for event in windows if event.is_best} == improved
    assert events[0] == saved[0]  # before anything else, so that a full disk shows
    assert isinstance(events[-2], Evaluated)
    assert events[-2].is_whole
    assert events[-1] == Ended(20, is_finished=True)


def test_evaluations_measure_what_they_say(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=1)
    whole = next(event for event in trainer.events() if isinstance(event, Evaluated) and event.is_whole)
    val = make_dataset(tmp_path).val
    tokens = val.read(0, val.size).astype(np.int64)
    loss, n_correct = 0.0, 0
    for start in range(0, val.size - 1, 8):
        window = tokens[start : start + 9]
        logits = trainer.model.logits(trainer.model.hidden(window[None, :-1]))[0].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        loss -= logs[np.arange(len(window) - 1), window[1:]].sum()
        n_correct += int((logits.argmax(axis=-1) == window[1:]).sum())
    assert whole.n_targets == val.size - 1
    assert abs(whole.loss - loss / whole.n_targets) <= 1e-5
    assert abs(whole.accuracy - n_correct / whole.n_targets) <= 1e-12
    assert abs(whole.perplexity - math.exp(whole.loss)) <= 1e-12


def test_a_loss_that_explodes_ends_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, save_every=1, eval_every=0)
    events = trainer.events()
    while not isinstance(event := next(events), Saved) or event.step < 3:
        pass
    trainer.model.params[5] = math.nan
    with pytest.raises(TrainingError, match=r"At step 4 .* nan and nan.*diverged.*step-000003.*--learning-rate"):
        next(events)
    assert checkpoint.read(locate(tmp_path / "run")).step == 3


def test_weights_that_explode_are_not_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=1, learning_rate=1e38)
    with pytest.raises(TrainingError, match=r"At step 1 .*diverged.*step-000000"):
        list(trainer.events())
    assert checkpoint.read(locate(tmp_path / "run")).step == 0


def test_a_run_killed_before_its_first_evaluation_goes_on(tmp_path: Path) -> None:
    assert isinstance(next(make_trainer(tmp_path).events()), Saved)
    dataset = make_dataset(tmp_path)
    again = Trainer(checkpoint.read(locate(tmp_path / "run")), dataset, tmp_path / "run")
    assert losses(list(again.events())) == losses(list(make_trainer(tmp_path / "undisturbed").events()))


def test_stopping_in_the_last_evaluation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=1, batch_size=1)
    events = []
    for event in trainer.events():
        events.append(event)
        if isinstance(event, Evaluating) and event.step == 1 and event.total > 7:  # more than the windows
            trainer.stop()
    assert isinstance(events[-2], Evaluating)
    assert events[-1] == Ended(1, is_finished=True)


def test_too_little_data_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few for a block_size"):
        make_trainer(tmp_path, block_size=500)
    assert not (tmp_path / "run").exists()


def test_after_ten_steps_a_run_says_how_long_the_others_take(tmp_path: Path) -> None:
    """Counted from where it begins or goes on; with no steps left there is nothing to say."""
    dataset, snapshot = make_dataset(tmp_path), None
    for steps, told in ((20, [10]), (30, []), (45, [40])):
        snapshot = snapshot or make_snapshot(dataset)
        train = dataclasses.replace(snapshot.train, steps=steps)
        events = list(Trainer(snapshot._replace(train=train), dataset, tmp_path / "run").events())
        notes = [event.message for event in events if isinstance(event, Noted)]
        assert [int(note.split()[1].rstrip(":")) for note in notes] == told
        snapshot = checkpoint.read(locate(tmp_path / "run"))
