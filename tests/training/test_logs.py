"""The log: a line an event, readable at any moment, continued where the run continues."""

import json
import math
from pathlib import Path

import pytest

from scratchgpt.errors import TrainingError
from scratchgpt.lock import FolderLock
from scratchgpt.training.events import Ended, Evaluated, StepDone
from scratchgpt.training.logs import Log

STEP = StepDone(step=3, loss=1.5, learning_rate=1e-3, grad_norm=0.5, seconds=0.25, n_tokens=100)
EVALUATION = Evaluated(step=3, loss=math.log(7), accuracy=0.25, n_targets=99, is_whole=True)


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", step=0)
    log.write(STEP)
    expected = {"step": 3, "loss": 1.5, "lr": 1e-3, "grad_norm": 0.5, "step_ms": 250.0, "tokens_per_s": 400.0}
    assert rows(tmp_path / "log.jsonl") == [expected]
    log.write(EVALUATION)
    log.write(Ended(3, is_finished=True))  # says nothing
    _, last = rows(tmp_path / "log.jsonl")
    assert last.pop("val_perplexity") == pytest.approx(7.0, rel=1e-12)
    assert last == {"step": 3, "val_loss": math.log(7), "val_accuracy": 0.25, "val_targets": 99, "val_whole": True}
    log.close()


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", step=0)
    log.write(Evaluated(step=1, loss=math.nan, accuracy=0.0, n_targets=1, is_whole=False))
    log.close()
    assert rows(tmp_path / "log.jsonl")[0]["val_loss"] is None


def test_a_resumed_run_drops_what_it_will_make_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step}) + "\n" for step in range(8)) + '{"step": 8, "lo', encoding="utf-8"
    )
    log = Log(path, step=5)
    assert [row["step"] for row in rows(path)] == [0, 1, 2, 3, 4, 5]
    log.write(STEP)
    log.close()
    assert len(rows(path)) == 7


def test_damaged_lines_do_not_stop_a_run(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\nnot json\n{"loss": 1}\n3\n\0\0\0\n\xff\n{"step": 2}\n')
    Log(path, step=5).close()
    assert [row["step"] for row in rows(path)] == [1, 2]


def test_a_run_from_its_beginning_has_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "val_loss": 4.2}\n', encoding="utf-8")
    Log(path, step=0).close()
    assert rows(path) == []


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"log\.jsonl: No such file"):
        Log(tmp_path / "nowhere" / "log.jsonl", step=0)


def test_one_training_at_a_time(tmp_path: Path) -> None:
    busy = TrainingError("Another training is running.")
    with FolderLock(tmp_path, busy), pytest.raises(TrainingError, match="Another training"):
        FolderLock(tmp_path, busy)
    with FolderLock(tmp_path, busy):
        pass
