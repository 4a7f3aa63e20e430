"""The log: a line an event, readable at any moment, continued where the run continues."""

import dataclasses
import json
import math
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.errors import DataError, TrainingError
from scratchgpt.lock import FolderLock, is_locked
from scratchgpt.training.events import (
    Ended,
    Evaluated,
    Evaluating,
    Event,
    Noted,
    Paused,
    Resumed,
    Sampled,
    Saved,
    Started,
    StepDone,
)
from scratchgpt.training.journal import LONGEST_TEXT, MOST_NOTES, MOST_TEXTS, Journal
from scratchgpt.training.logs import COLUMNS, Follower, Log, event, read

STEP = StepDone(
    step=3,
    loss=1.5,
    learning_rate=1e-3,
    grad_norm=0.5,
    seconds=0.25,
    n_tokens=100,
    device_bytes=4_200_000,
    data_seconds=0.01,
    resident_bytes=123_456_789,
)
EVALUATION = Evaluated(step=3, loss=math.log(7), accuracy=0.25, n_targets=99, is_whole=True)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", step=0)
    before = time.time()
    written = log.write(STEP)
    assert written is not None
    (first,) = rows(tmp_path / "log.jsonl")
    assert first == written
    assert before - 0.001 <= first.pop("time") <= time.time() + 0.001
    assert first == {
        "step": 3,
        "loss": 1.5,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "step_ms": 250.0,
        "data_ms": 10.0,
        "tokens": 100,
        "tokens_per_s": 400.0,
        "resident_mb": 123.5,
        "device_mb": 4.2,
    }
    log.write(EVALUATION)
    assert log.write(Evaluating(3, 1, 4)) is None
    _, last = rows(tmp_path / "log.jsonl")
    assert written.keys() | last.keys() == set(COLUMNS)
    assert last.pop("time") >= before - 0.001
    assert last.pop("val_perplexity") == pytest.approx(7.0, rel=1e-12)
    assert last == {"step": 3, "val_loss": math.log(7), "val_accuracy": 0.25, "val_targets": 99, "val_whole": True}
    log.close()


@pytest.mark.parametrize(
    "said",
    [
        STEP,
        EVALUATION,
        Started(Path("runs/a"), 3, 2000, 7, "cpu"),
        Noted("Only 3 MB are free.\x1b[2J\ud800"),
        Saved(3, Path("runs/a/checkpoints/step-000003")),
        Sampled(3, "To be", is_last=True),
        Paused(3),
        Resumed(3),
        Ended(3, is_finished=True, is_early=True),
    ],
)
def test_each_event_is_read_as_it_was_written(said: Event, tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", step=0)
    log.write(Paused(3))  # a note has no step of its own: it is about the last one
    log.write(said)
    log.close()
    *_, row = read(tmp_path / "log.jsonl")
    assert row is not None
    assert row["step"] == 3
    found = event(row)
    if isinstance(said, StepDone):
        said = dataclasses.replace(said, data_seconds=0.0, resident_bytes=123_500_000)  # the log rounds
    assert found == said


def test_a_text_is_in_the_log_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 7.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    log = Log(tmp_path / "log.jsonl", step=3)
    for piece in ("To", " be", ",", " or"):
        log.write(Sampled(3, piece))
        now += 0.2
    assert [row["text"] for row in rows(tmp_path / "log.jsonl")] == ["To be, or"]
    log.write(Sampled(3, " not"))
    log.write(Sampled(3, "", is_last=True))
    log.close()
    assert [row["text"] for row in rows(tmp_path / "log.jsonl")] == ["To be, or", " not"]
    assert read_journal(tmp_path).texts == deque([(3, "To be, or not")])


def read_journal(run: Path) -> Journal:
    journal = Journal()
    for row in read(run / "log.jsonl"):
        if row and (found := event(row)):
            journal.see(found)
    return journal


def test_a_journal_keeps_the_last_notes_and_texts() -> None:
    journal = Journal()
    for n in range(1000):
        journal.see(Noted(f"note {n}"))
        journal.see(Sampled(n, "x" * 30_000))
        journal.see(Sampled(n, f"{n}", is_last=True))
    assert journal.n_texts == 1000
    assert (len(journal.notes), journal.notes[-1]) == (MOST_NOTES, "note 999")
    assert (len(journal.texts), journal.texts[-1][1][-4:]) == (MOST_TEXTS, "x999")
    assert len(journal.texts[-1][1]) == LONGEST_TEXT
    journal.see(Sampled(1, "torn"))
    journal.see(Started(Path("r"), 0, 9, 1, "cpu"))
    journal.see(Sampled(1, "whole", is_last=True))
    assert [*journal.texts][-2:] == [(1, "torn"), (1, "whole")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_note_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", step=0)
    log._file.close()  # noqa: SLF001
    log._file = Path("/dev/full").open("a", encoding="utf-8")  # noqa: SLF001, SIM115
    assert log.write(Noted("so it was")) is None
    assert log.write(Sampled(3, "x", is_last=True)) is None
    with pytest.raises(OSError, match="No space left"):
        log.write(STEP)
    log.close()


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "event": "unheard of", "x": "y"}',
        '{"step": 1, "event": "note"}',
        '{"step": 1, "event": "note", "message": [1]}',
        '{"step": 1, "event": 7}',
        '{"step": 1, "event": "sampled", "text": 5}',
        '{"step": 1, "val_loss": 2.0}',
    ],
)
def test_events_that_make_no_sense_are_no_events(line: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(line + "\n", encoding="utf-8")
    (row,) = read(tmp_path / "log.jsonl")
    assert row is not None
    assert event(row) is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"step": 1, "loss": 1e200, "tokens": -1e200, "lr": 1e150}', {"loss": None, "tokens": None, "lr": 1e150}),
        ('{"step": 1, "event": "note", "message": "m", "loss": "x"}', {"event": "note", "message": "m", "loss": None}),
        ('{"step": 1, "event": "resumed", "time": "noon"}', {"event": "resumed", "time": None}),
    ],
)
def test_columns_are_numbers_that_can_be_added_and_multiplied(line: str, found: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(line + "\n", encoding="utf-8")
    assert list(read(tmp_path / "log.jsonl")) == [{"step": 1} | found]


def test_an_evaluation_of_nothing_has_a_state() -> None:
    journal = Journal()
    journal.see(Evaluating(1, 0, 0))
    assert journal.condition.word == "evaluating 0%"


def test_a_log_is_followed(tmp_path: Path) -> None:
    path, follower = tmp_path / "log.jsonl", Follower(tmp_path)
    with pytest.raises(DataError, match="was removed, or has not begun"):
        follower.is_other()
    path.write_text('{"step": 1, "time": 1.5}\n{"step": 2', encoding="utf-8")
    assert follower.is_other()
    assert [*follower.rows()] == [[{"step": 1, "time": 1.5}]]
    with path.open("a", encoding="utf-8") as file:
        file.write(', "time": 2.5}\n')
    assert not follower.is_other()
    assert [*follower.rows()] == [[{"step": 2, "time": 2.5}]]
    path.write_text('{"step": 1, "time": 9.5}\n{"step": 2, "time": 9.75}\n', encoding="utf-8")
    assert follower.is_other()
    assert [row and row["time"] for rows in follower.rows() for row in rows] == [9.5, 9.75]


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


def test_whether_a_folder_is_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert not [*tmp_path.iterdir()]
    with FolderLock(tmp_path, TrainingError("busy")):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_look_at_a_lock_keeps_no_training_out(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    FolderLock(tmp_path, TrainingError("busy")).release()
    look = (tmp_path / ".lock").open("rb")  # as `is_locked` does, but rather long
    fcntl.flock(look, fcntl.LOCK_SH)
    threading.Timer(0.03, look.close).start()
    FolderLock(tmp_path, TrainingError("busy")).release()


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", step=0)
    written = log.write(StepDone(step=1, loss=1.5, learning_rate=1e-3, grad_norm=0.5, seconds=0.25, n_tokens=100))
    log.close()
    assert written is not None
    assert not {"resident_mb", "device_mb"} & written.keys()


def test_reading_while_it_is_written(tmp_path: Path) -> None:
    """A line that is not whole yet is not there."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert list(read(path)) == [{"step": 1, "loss": 2.5}]
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    assert list(read(path)) == [{"step": 1}]
    path.write_bytes(b"")
    assert list(read(path)) == []


def test_reading_many_blocks(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 7}) for step in range(20_000)]
    lines[9_000] = "torn {"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    found = list(read(path))
    assert found[9_000] is None
    assert [row["step"] for row in found if row] == [step for step in range(20_000) if step != 9_000]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"3",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"\0" * 20,
        b'{"step": "1"}',
        b'{"step": 1.0}',
        b'{"step": true}',
        b'{"step": -1}',
        b'{"step": 1e400}',
        b'{"step": 99999999999999999999}',
        b'{"loss": 1}',
        b'{"step": 1',
        b'"loss": 1}',
        b"[" * 100_000,
    ],
)
def test_damaged_lines_are_told_apart(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    assert list(read(path)) == [{"step": 1}, None, {"step": 2}]
    Log(path, step=5).close()
    assert rows(path) == [{"step": 1}, {"step": 2}]


def test_half_a_line_does_not_join_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1\n"loss": 2}\n')
    assert list(read(path)) == [None, None]


def test_what_is_no_finite_number_is_none(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1, "a": NaN, "b": -Infinity, "c": 1e999, "d": "x", "e": [1], "f": null, "g": 7}\n')
    assert list(read(path)) == [{"step": 1, **dict.fromkeys("abcdef"), "g": 7}]


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*log\.jsonl: No such file"):
        list(read(tmp_path / "log.jsonl"))


def test_a_folder_that_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock in a folder that is gone would keep nobody out of the next one."""
    fcntl = pytest.importorskip("fcntl", reason="on Windows a file that is open cannot be removed")
    busy = TrainingError("Another training is running.")
    folder = tmp_path / "run"
    folder.mkdir()
    first = FolderLock(folder, busy)
    lock = fcntl.flock

    def lock_late(*arguments: Any) -> None:
        first.remove_folder()
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(TrainingError, match="Another training"):
        FolderLock(folder, busy)
    assert not folder.exists()
