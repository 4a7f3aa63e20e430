"""Runs of older formats, as older versions wrote them, still open and go on. old/ holds at least one of each."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from scratchgpt.training import checkpoint
from scratchgpt.training.backoff import Backoff
from scratchgpt.training.events import Ended, Evaluated
from scratchgpt.training.formats import FORMAT
from scratchgpt.training.locate import locate
from scratchgpt.training.store import Checkpoints
from scratchgpt.training.trainer import Trainer
from tests.world import make_dataset

OLD = Path(__file__).parent / "old"
BEFORE_0_1 = (1, 2, 3)
"""Formats before that of version 0.1, which test_version_0_1.py reads."""


def test_there_is_a_run_of_every_older_format() -> None:
    found = [json.loads(path.read_text(encoding="utf-8"))["format"] for path in OLD.rglob("trainer.json")]
    assert set(found) >= set(range(1, FORMAT))


@pytest.mark.parametrize("version", BEFORE_0_1)
def test_a_run_of_an_older_version_goes_on(version: int, tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD / f"format-{version}", tmp_path / "run"))
    folder = locate(run)
    assert json.loads((folder / "trainer.json").read_text(encoding="utf-8"))["format"] == version

    snapshot = checkpoint.read(folder)
    assert (snapshot.step, snapshot.best_step, snapshot.last_evaluation, snapshot.n_worse) == (4, 4, 4, 0)
    assert (snapshot.train.steps, snapshot.train.patience, snapshot.train.on_nan) == (4, 0, "stop")
    assert (snapshot.plan.lanes, snapshot.plan.micro_batch) == ((1, 2) if version == 1 else (2, 1))
    assert (snapshot.plan.device, snapshot.plan.precision) == ("cpu", "fp32")
    assert snapshot.backoff == Backoff()
    assert checkpoint.read_model(folder)[1].tobytes() == snapshot.params.tobytes()

    dataset = make_dataset(tmp_path)
    assert snapshot.data_digest == dataset.digest
    longer = dataclasses.replace(snapshot.train, steps=6)
    events = list(Trainer(snapshot._replace(train=longer), dataset, run).events())
    assert events[-1] == Ended(6, is_finished=True)
    first = next(event for event in events if isinstance(event, Evaluated))
    assert snapshot.best_loss is not None
    assert abs(first.loss - snapshot.best_loss) <= 0.01  # an update or two later
    again = checkpoint.read(locate(run))
    assert again.step == 6
    assert np.abs(again.params - snapshot.params).max() <= 0.02


def test_the_best_checkpoint_of_an_older_run_may_be_gone(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD / f"format-{BEFORE_0_1[-1]}", tmp_path / "run"))
    (run / "checkpoints" / "best").unlink()
    snapshot = checkpoint.read(locate(run))
    assert (snapshot.best_loss, snapshot.best_step) == (None, None)
    Checkpoints(run).rewind(locate(run), snapshot.best_step)
    assert Checkpoints(run).pointed("best") is None
