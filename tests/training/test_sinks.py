"""CSV, TensorBoard and W&B: what they hold is what the log holds, also after a resume and by an export."""

import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.errors import TrainingError, UsageError
from scratchgpt.training import sinks
from scratchgpt.training.logs import COLUMNS, Row
from tests.readers import csv_rows, tensorboard_scalars, tensorboard_texts

ROWS: list[Row] = [
    {"step": 0, "time": 100.5, "val_loss": 4.0, "val_accuracy": 0.25, "val_whole": False},
    {"step": 1, "time": 101.5, "loss": 4.25, "lr": 1e-3, "grad_norm": 0.5, "step_ms": 7.125, "tokens": 96},
    {"step": 2, "time": 102.5, "loss": None, "lr": 1e-3, "grad_norm": None, "step_ms": 7.5, "tokens": 96},
    {"step": 2, "time": 103.5, "val_loss": 3.5, "val_accuracy": 0.5, "val_whole": False},
    {"step": 2, "time": 104.5, "val_loss": 3.25, "val_accuracy": 0.75, "val_whole": True},
]
NOTHING: dict[str, Any] = {}


def write(kind: str, place: Path, rows: Sequence[Row] = ROWS) -> None:
    sink = sinks.begin(kind, place, "name", NOTHING)
    for row in rows:
        sink.write(row)
    sink.close()


def as_cells(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in row.items() if value is not None} for row in rows]


def as_scalars(rows: Sequence[Row]) -> dict[str, list[tuple[float, int, float]]]:
    """Return what TensorBoard is to hold, in float32."""
    found: dict[str, list[tuple[float, int, float]]] = {}
    for row in rows:
        for tag, value in sinks.scalars(row).items():
            (single,) = struct.unpack("f", struct.pack("f", value))
            found.setdefault(tag, []).append((row["time"], row["step"], single))
    return found


def test_names_in_groups() -> None:
    assert sinks.scalars(ROWS[1]) == {
        "train/loss": 4.25,
        "train/lr": 1e-3,
        "train/grad_norm": 0.5,
        "train/step_ms": 7.125,
        "train/tokens": 96,
    }
    assert sinks.scalars(ROWS[3]) == {"val/loss": 3.5, "val/accuracy": 0.5}
    assert sinks.scalars(ROWS[4]) == {"val_whole/loss": 3.25, "val_whole/accuracy": 0.75}


def test_csv(tmp_path: Path) -> None:
    write("csv", tmp_path / "log.csv")
    assert csv_rows(tmp_path / "log.csv") == as_cells(ROWS)
    content = (tmp_path / "log.csv").read_bytes()
    assert content.startswith(",".join(COLUMNS).encode())
    assert b"\r" not in content


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    for _ in range(2):  # the second takes the place of the first
        write("tensorboard", tmp_path / "tb")
        assert tensorboard_scalars(tmp_path / "tb") == as_scalars(ROWS)
        assert len(list((tmp_path / "tb").iterdir())) == 1


def test_tensorboard_shows_texts_and_leaves_out_notes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    events: list[Row] = [
        {"step": 0, "time": 100.0, "event": "started", "run": "r", "steps": 2, "n_parameters": 7, "device": "cpu"},
        {"step": 2, "time": 105.0, "event": "sampled", "text": "torn"},
        {"step": 2, "time": 105.5, "event": "started", "run": "r", "steps": 2, "n_parameters": 7, "device": "cpu"},
        {"step": 2, "time": 106.0, "event": "sampled", "text": "To <b>\n"},
        {"step": 2, "time": 106.5, "event": "sampled", "text": "*be*", "is_last": True},
        {"step": 2, "time": 107.0, "event": "note", "message": "so it was"},
    ]
    write("tensorboard", tmp_path / "tb", [*ROWS, *events])
    assert tensorboard_scalars(tmp_path / "tb") == as_scalars(ROWS)
    assert tensorboard_texts(tmp_path / "tb") == [(106.5, 2, "    To <b>\n    *be*\n")]
    write("csv", tmp_path / "log.csv", [*events, *ROWS, *events])
    assert csv_rows(tmp_path / "log.csv") == as_cells(ROWS)


def test_tensorboard_forgets_files_that_could_not_be_removed(tmp_path: Path) -> None:
    """As on Windows, where TensorBoard may be reading them."""
    pytest.importorskip("tensorboardX")
    write("tensorboard", tmp_path / "tb")
    (old,) = (tmp_path / "tb").iterdir()
    content = old.read_bytes()
    write("tensorboard", tmp_path / "tb", ROWS[:2])
    (tmp_path / "tb" / "events.out.tfevents.0.older").write_bytes(content)
    assert tensorboard_scalars(tmp_path / "tb") == as_scalars(ROWS[:2])


@pytest.mark.parametrize("kind", sinks.KINDS)
def test_a_package_that_is_missing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorboardX", "tensorboardX.event_file_writer", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    if kind == "csv":
        write(kind, tmp_path / "log.csv")  # which needs none
        return
    for act in (lambda: sinks.chosen(kind), lambda: write(kind, tmp_path / kind)):
        with pytest.raises(UsageError, match=rf"pip install 'scratchgpt\[{kind}\]'"):
            act()
    assert not list(tmp_path.iterdir())


def test_lists_of_names() -> None:
    assert sinks.chosen("csv, csv,") == ("csv",)
    assert sinks.chosen("") == ()
    with pytest.raises(UsageError, match=r"no log 'cvs' \(did you mean 'csv'\?\)"):
        sinks.chosen("cvs")


class _Breaking:
    """A sink that breaks."""

    def write(self, _: Row) -> None:
        """Break."""
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        """Never be called."""
        raise AssertionError


def test_a_sink_that_fails_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one note; the others go on."""
    real = sinks.begin
    breaking = lambda kind, *rest: _Breaking() if kind == "wandb" else real(kind, *rest)  # noqa: E731
    monkeypatch.setattr(sinks, "begin", breaking)
    both = sinks.Sinks(("csv", "wandb"), tmp_path, NOTHING, [])
    notes = [note.message for row in ROWS for note in both.write(row)]
    assert both.close() == []
    assert len(notes) == 1
    assert "Logging to wandb has failed and ends here: No space left on device. log.jsonl has everything" in notes[0]
    assert f"`scratchgpt logs export {tmp_path} --to wandb`" in notes[0]
    assert csv_rows(tmp_path / "log.csv") == as_cells(ROWS)


def test_a_sink_that_cannot_begin_is_told_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(TrainingError, match="Cannot log to csv: Is a directory"):
        sinks.Sinks(("csv",), tmp_path, NOTHING, ROWS)
    monkeypatch.setattr(sinks, "begin", lambda *_: _Breaking())
    with pytest.raises(TrainingError, match="No space left"):
        sinks.Sinks(("csv",), tmp_path, NOTHING, ROWS)


def test_a_new_run_removes_what_an_older_left(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    write("csv", tmp_path / "log.csv")
    write("tensorboard", tmp_path / "tensorboard")
    (tmp_path / "tensorboard" / "mine.txt").touch()
    for _ in range(2):
        sinks.clear(tmp_path)
        assert [path.name for path in tmp_path.rglob("*")] == ["tensorboard", "mine.txt"]
