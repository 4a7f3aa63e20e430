"""Tuning: it takes little time, prefers what is faster by enough, remembers, and never changes what was asked for."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine import tuning
from scratchgpt.engine.plan import CACHE_ROWS, Plan, default_plan
from scratchgpt.engine.tuning import tuned_plan
from scratchgpt.engine.workers import Workers
from scratchgpt.machine import cache_folder

MODEL = ModelConfig(vocab_size=65, block_size=64, n_layer=6, n_head=2, n_embd=16)
TRAIN = TrainConfig(steps=1, batch_size=24, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def no_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))


def plans() -> list[Path]:
    """Return the files of remembered plans."""
    folder = cache_folder()
    assert folder is not None
    return list((folder / "plans").iterdir())


class Clock:
    """Seconds that pass only while a step is computed: a machine cannot be too busy for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **fast: int) -> None:
        """Let a step take a millisecond if the plan is as given, and else 50."""
        self.passed = 0.0
        real = Workers.accumulate

        def timed(lanes: Workers, *arguments: Any, **settings: Any) -> float:
            self.passed += 0.001 if lanes.plan._asdict().items() >= fast.items() else 0.05
            return real(lanes, *arguments, **settings)

        monkeypatch.setattr(Workers, "accumulate", timed)
        monkeypatch.setattr(tuning, "SECONDS", 60.0)

    def __call__(self) -> float:
        """Return the seconds that have passed."""
        return self.passed


def test_by_default_about_512_rows_are_computed_at_once() -> None:
    assert default_plan(MODEL, TRAIN, lanes=2) == Plan(2, CACHE_ROWS // 64)
    assert default_plan(dataclasses.replace(MODEL, block_size=2000), TRAIN).micro_batch == 1
    assert default_plan(dataclasses.replace(MODEL, n_embd=384), TRAIN, lanes=1).micro_batch == 2 * CACHE_ROWS // 64
    assert default_plan(MODEL, dataclasses.replace(TRAIN, micro_batch=3)).micro_batch == 3
    assert default_plan(MODEL, dataclasses.replace(TRAIN, batch_size=5), lanes=2).micro_batch == 3


@pytest.mark.parametrize("fast", [{"micro_batch": 4}, {"block_bytes": 2**20}])
def test_the_fastest_plan_is_found(fast: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, **fast)
    assert tuned_plan(MODEL, TRAIN, lanes=1, clock=clock) == Plan(1, CACHE_ROWS // 64)._replace(**fast)


def test_what_was_found_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        clock = Clock(patch, micro_batch=4)
        found = tuned_plan(MODEL, TRAIN, lanes=1, clock=clock)
    monkeypatch.setattr(tuning, "_measured", None)
    assert tuned_plan(MODEL, TRAIN, lanes=1) == found
    with pytest.raises(TypeError):  # another work: it would be measured
        tuned_plan(MODEL, dataclasses.replace(TRAIN, batch_size=23), lanes=1)
    with pytest.raises(TypeError):
        tuned_plan(dataclasses.replace(MODEL, n_inner=37), TRAIN, lanes=1)


@pytest.mark.parametrize("content", ["{", "[]", '{"lanes": 5}', '{"lanes": 1, "micro_batch": 0, "block_bytes": 9}'])
def test_a_cache_that_makes_no_sense_is_measured_again(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, micro_batch=4)
    tuned_plan(MODEL, TRAIN, lanes=1, clock=clock)
    (path,) = plans()
    path.write_text(content, encoding="utf-8")
    assert tuned_plan(MODEL, TRAIN, lanes=1, clock=clock).micro_batch == 4
    assert plans() == [path]
    assert json.loads(path.read_text(encoding="utf-8"))["micro_batch"] == 4


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratchgpt").write_text("no folder", encoding="utf-8")
    clock = Clock(monkeypatch, micro_batch=4)
    assert tuned_plan(MODEL, TRAIN, lanes=1, clock=clock).micro_batch == 4


def test_what_takes_too_long_keeps_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, micro_batch=4)
    monkeypatch.setattr(tuning, "SECONDS", 0.1)
    assert tuned_plan(MODEL, TRAIN, lanes=1, clock=clock) == default_plan(MODEL, TRAIN, lanes=1)
    assert cache_folder() is not None
    assert not (tmp_path / "scratchgpt").exists()  # it was no measurement


def test_wide_models_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "Workers", None)
    wide = dataclasses.replace(MODEL, n_embd=768, block_size=1024)
    assert tuned_plan(wide, TRAIN, lanes=1) == default_plan(wide, TRAIN, lanes=1)


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    clock = Clock(monkeypatch, micro_batch=4)
    assert tuned_plan(MODEL, TRAIN, lanes=1, clock=clock).micro_batch == 4


def test_a_micro_batch_that_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, micro_batch=4)
    assert tuned_plan(MODEL, dataclasses.replace(TRAIN, micro_batch=5), lanes=1, clock=clock).micro_batch == 5


@pytest.mark.parametrize("batch_size", [1, 3, 24])
def test_no_lane_is_given_more_than_its_share(batch_size: int) -> None:
    train = dataclasses.replace(TRAIN, batch_size=batch_size)
    for lanes in (1, 2):
        choices = tuning._choices(MODEL, train, default_plan(MODEL, train, lanes=lanes))  # noqa: SLF001
        assert {choice.lanes for choice in choices} == {min(lanes, batch_size)}
        assert max(choice.micro_batch for choice in choices) <= math.ceil(batch_size / lanes)
