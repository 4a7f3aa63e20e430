"""A run loses nothing: whenever it is abandoned, it goes on as if it had not been; and it knows when to end."""

import itertools
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchgpt.data.dataset import Dataset
from scratchgpt.engine.workers import Workers
from scratchgpt.errors import TrainingError
from scratchgpt.training import checkpoint
from scratchgpt.training.backoff import MOST_SKIPPED
from scratchgpt.training.events import Ended, Evaluated, Evaluating, Event, Noted, Saved, StepDone
from scratchgpt.training.locate import locate
from scratchgpt.training.store import Checkpoints
from scratchgpt.training.trainer import Trainer
from tests.world import make_dataset, make_snapshot


def started(dataset: Dataset, run: Path, **changes: Any) -> Trainer:
    """Return the trainer of a new run with one lane."""
    snapshot = make_snapshot(dataset, **changes)
    return Trainer(snapshot._replace(plan=snapshot.plan._replace(lanes=1)), dataset, run)


def assert_same_state(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "optimizer.safetensors", checkpoint.TRAINER):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def resumed(run: Path, dataset: Dataset) -> Trainer:
    """Return what `--resume` would make of a run."""
    folder = locate(run)
    snapshot = checkpoint.read(folder)
    Checkpoints(run).rewind(folder, snapshot.best_step)
    return Trainer(snapshot, dataset, run)


def abandoned_at_each_event(dataset: Dataset, run: Path, **changes: Any) -> Iterator[list[Event]]:
    """Yield the events of lives of one run: each ends, as if killed, one event later than the one before."""
    for n_events in itertools.count(1):
        is_first = not (run / "checkpoints").exists()
        trainer = started(dataset, run, **changes) if is_first else resumed(run, dataset)
        events = list(itertools.islice(trainer.events(), n_events))
        yield events
        if isinstance(events[-1], Ended):
            return


def told(events: Iterable[Event]) -> dict[tuple[str, int], object]:
    """Return what is told of each step and each evaluation, without times; what is told again counts."""
    found: dict[tuple[str, int], object] = {}
    for event in events:
        match event:
            case StepDone():
                found["step", event.step] = (event.loss, event.learning_rate, event.grad_norm)
            case Evaluated():
                found["whole" if event.is_whole else "windows", event.step] = event
    return found


WORSE = {"steps": 60, "learning_rate": 0.3, "eval_every": 2, "save_every": 7, "dropout": 0.1, "min_lr_ratio": 1.0}
"""A run whose validation loss soon rises."""


def test_a_run_ends_when_it_becomes_no_better(tmp_path: Path) -> None:
    trainer = started(make_dataset(tmp_path), tmp_path / "run", **WORSE, patience=4)
    events = list(trainer.events())
    windows = [event for event in events if isinstance(event, Evaluated) and not event.is_whole]
    best = max(event.step for event in windows if event.is_best)
    assert events[-1] == Ended(best + 4 * 2, is_finished=True, is_early=True)
    assert isinstance(events[-2], Evaluated)
    assert events[-2].is_whole
    checkpoints = Checkpoints(tmp_path / "run")
    assert [checkpoints.pointed(name) for name in ("best", "last")] == [
        checkpoints.folder / f"step-{step:06d}" for step in (best, best + 8)
    ]
    again = resumed(tmp_path / "run", make_dataset(tmp_path))
    assert again.is_finished
    assert again.is_early


@pytest.mark.parametrize("changes", [WORSE | {"patience": 4}, {"steps": 9, "save_every": 2, "eval_every": 3}])
def test_a_run_abandoned_at_every_event_is_the_undisturbed_one(changes: dict[str, Any], tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    expected = list(started(dataset, tmp_path / "whole", **changes).events())
    lives = list(abandoned_at_each_event(dataset, tmp_path / "parts", **changes))
    assert len(lives) > 5
    assert lives[-1][-1] == expected[-1]
    assert told(itertools.chain.from_iterable(lives)) == told(expected)
    whole, parts = Checkpoints(tmp_path / "whole"), Checkpoints(tmp_path / "parts")
    for pointer in ("last", "best"):
        one, other = whole.pointed(pointer), parts.pointed(pointer)
        assert one is not None
        assert other is not None
        assert one.name == other.name
        assert_same_state(one, other)


def test_a_save_before_an_evaluation_does_not_lose_the_evaluation(tmp_path: Path) -> None:
    """As when memory ran out in it."""
    changes = {"steps": 12, "eval_every": 4, "save_every": 0, "eval_windows": 12}
    dataset = make_dataset(tmp_path)
    trainer = started(dataset, tmp_path / "run", **changes)
    next(event for event in trainer.events() if isinstance(event, Evaluating) and event.step == 4)
    list(trainer.save())
    steps = [event.step for event in resumed(tmp_path / "run", dataset).events() if isinstance(event, Evaluated)]
    assert steps == [4, 8, 12, 12]


def test_a_checkpoint_every_few_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    trainer = started(make_dataset(tmp_path), tmp_path / "run", eval_every=0, save_every=8, save_minutes=2.5)
    saved = []
    for event in trainer.events():
        if isinstance(event, StepDone):
            now += 60
        if isinstance(event, Saved):
            saved.append(event.step)
    assert saved == [0, 3, 6, 8, 11, 14, 16, 19, 20]


def test_no_timed_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", itertools.count(0, 10_000).__next__)
    trainer = started(
        make_dataset(tmp_path), tmp_path / "run", eval_every=0, save_every=0, keep_every=15, save_minutes=0
    )
    assert [event.step for event in trainer.events() if isinstance(event, Saved)] == [0, 15, 20]


def test_low_disk_space_is_said_once_and_before_the_first_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * 12 * started(make_dataset(tmp_path), tmp_path).model.layout.size
    for is_low in (True, False):
        usage = shutil.disk_usage(tmp_path)._replace(free=free - is_low)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        events = list(started(make_dataset(tmp_path), tmp_path / str(is_low), steps=2).events())
        notes = [event.message for event in events if isinstance(event, Noted)]
        assert len(notes) == is_low
        if is_low:
            assert isinstance(events[0], Noted)
            assert "MB are free" in notes[0]
            assert "two more checkpoints need" in notes[0]


def infinite_at(trainer: Trainer, numbers: dict[int, tuple[float, float | None]]) -> None:
    """Let the loss at some steps be another if that is not finite, and put the second number into the gradients."""
    engine = trainer.engine
    assert isinstance(engine, Workers)
    compute, grads = engine.accumulate, engine._arrays["grads"]  # noqa: SLF001 - what all lanes see

    def accumulate(tokens: Any, targets: Any, *, seed: int, step: int) -> float:
        loss = compute(tokens, targets, seed=seed, step=step)
        if step not in numbers:
            return loss
        bad, poison = numbers[step]
        if poison is not None:
            grads[3] = poison
        return loss if math.isfinite(bad) else bad

    vars(engine)["accumulate"] = accumulate


@pytest.mark.parametrize(
    "bad", [(math.inf, None), (math.nan, None), (0.0, math.inf), (0.0, math.nan), (math.nan, math.nan)]
)
def test_an_update_that_cannot_be_made_is_skipped(bad: tuple[float, float | None], tmp_path: Path) -> None:
    trainer = started(make_dataset(tmp_path), tmp_path / "run", on_nan="skip", learning_rate=1e-3, dropout=0.0)
    infinite_at(trainer, {4: bad})
    rates = []
    for event in trainer.events():
        if isinstance(event, StepDone):
            rates.append(event.learning_rate)
        if isinstance(event, StepDone) and event.step == 4:
            before = [array.tobytes() for array in (trainer.model.params, *trainer.engine.slots.values())]
        if isinstance(event, StepDone) and event.step == 5:
            assert [array.tobytes() for array in (trainer.model.params, *trainer.engine.slots.values())] == before
            assert not math.isfinite(event.grad_norm)
        if isinstance(event, Noted) and "tokens/s" not in event.message:
            assert event.message.startswith("step 5: the loss was ")
            assert "the learning rate is 0.5 of the schedule's" in event.message
    assert rates == [1e-3] * 5 + [5e-4] * 15
    assert np.isfinite(trainer.model.params).all()


def test_a_run_that_skips_is_resumed_to_the_bit(tmp_path: Path) -> None:
    """Also from a checkpoint in the middle of a row of skipped updates."""
    dataset = make_dataset(tmp_path)
    bad = {3: (math.nan, None), 9: (math.inf, None), 10: (0.0, math.inf), 11: (math.nan, None)}
    found = []
    for name, stops in (("whole", ()), ("parts", (4, 10, 11, 15))):
        run = tmp_path / name
        trainer = started(dataset, run, on_nan="skip", eval_every=0)
        steps = []
        for stop in (*stops, 20):
            infinite_at(trainer, bad)
            for event in trainer.events():
                if isinstance(event, StepDone):
                    steps.append((event.step, event.learning_rate, str(event.loss), str(event.grad_norm)))
                    if event.step == stop:
                        trainer.stop()
            trainer = resumed(run, dataset)
        found.append(steps)
    assert found[0] == found[1]
    assert len(found[0]) == 20
    assert found[0][-1][1] == 1e-2 / 16
    assert_same_state(*(locate(tmp_path / name) for name in ("whole", "parts")))


def test_a_run_that_only_skips_ends(tmp_path: Path) -> None:
    """Its weights were broken by one update, which no lower rate mends."""
    trainer = started(
        make_dataset(tmp_path), tmp_path / "run", on_nan="skip", learning_rate=1e38, weight_decay=0.0, eval_every=0
    )
    with pytest.raises(TrainingError, match=rf"At step {1 + MOST_SKIPPED} .*diverged.*step-000000"):
        list(trainer.events())
