"""The run's log: one JSON object a line, flushed at once, so that it can be read while the run goes on.

A row holds the numbers of a step or of an evaluation, or it is an event: a note, a piece of a text, a checkpoint, the
start, the end.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scratchgpt.errors import DataError, TrainingError
from scratchgpt.training.events import FIELDS, Evaluated, Evaluating, Event, Sampled, StepDone, from_json, to_json

NAME = "log.jsonl"
Row = dict[str, Any]
"""Names and values. "step" and "time" are in every row; the others are numbers, None for one that is not finite.

A row with "event" is an event instead, with its kind and its fields as in `scratchgpt train --json`.
"""

STEP_COLUMNS = (
    "loss",  # nats a token
    "lr",
    "grad_norm",  # before clipping
    "step_ms",  # the whole step
    "data_ms",  # of that, reading the batch
    "tokens",
    "tokens_per_s",
    "resident_mb",  # of this process, in RAM
    "device_mb",  # that a GPU's pool holds
)
EVALUATION_COLUMNS = (
    "val_loss",
    "val_perplexity",
    "val_accuracy",
    "val_targets",
    "val_whole",  # over the whole validation part, rather than over the fixed windows
)
COLUMNS = ("step", "time", *STEP_COLUMNS, *EVALUATION_COLUMNS)
BLOCK = 2**18
"""Bytes that are read at once, about."""
LARGEST = 1e150
"""Larger numbers count as none, so that sums and products of two numbers are finite."""
BEGINNING = 48
"""Bytes that distinguish a log from others: they hold the first step and its time."""
TEXT_INTERVAL = 0.5
"""Seconds between two rows of one text: a text that grows slowly is in the log as it grows."""


def row(event: Event) -> Row | None:
    """Return what the log says of an event, without step and time if the event has none; None if it says nothing."""
    match event:
        case StepDone():
            memory = {"resident_mb": event.resident_bytes, "device_mb": event.device_bytes}
            return {
                "step": event.step,
                "loss": event.loss,
                "lr": event.learning_rate,
                "grad_norm": event.grad_norm,
                "step_ms": round(event.seconds * 1e3, 3),
                "data_ms": round(event.data_seconds * 1e3, 3),
                "tokens": event.n_tokens,
                "tokens_per_s": round(event.n_tokens / event.seconds, 1),
            } | {name: round(n_bytes / 1e6, 1) for name, n_bytes in memory.items() if n_bytes is not None}
        case Evaluated():
            return {
                "step": event.step,
                "val_loss": event.loss,
                "val_perplexity": event.perplexity,
                "val_accuracy": event.accuracy,
                "val_targets": event.n_targets,
                "val_whole": event.is_whole,
            }
        case Evaluating():
            return None
        case _:
            return to_json(event)


def event(row: Row) -> Event | None:
    """Return the event that a row is about; None if values are missing or the kind is unknown."""
    try:
        if "event" in row:
            fields = FIELDS[row["event"]]
            return from_json({name: row[name] for name in row if name == "event" or name in fields})
        if "val_loss" in row:
            loss, accuracy = (_number(row[name]) for name in ("val_loss", "val_accuracy"))
            return Evaluated(row["step"], loss, accuracy, row["val_targets"], bool(row["val_whole"]))
        loss, rate, grad_norm, milliseconds = (
            _number(row.get(name)) for name in ("loss", "lr", "grad_norm", "step_ms")
        )
        return StepDone(
            row["step"],
            loss,
            rate,
            grad_norm,
            seconds=milliseconds / 1e3,
            n_tokens=row.get("tokens") or 0,
            device_bytes=_bytes(row.get("device_mb")),
            resident_bytes=_bytes(row.get("resident_mb")),
        )
    except (DataError, KeyError, TypeError):
        return None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _bytes(megabytes: float | None) -> int | None:
    return None if megabytes is None else round(megabytes * 1e6)


class Log:
    """Appends to RUN/log.jsonl."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Open the log of a run that goes on after `step`: lines of later steps, which will come anew, are dropped."""
        self._step = step
        self._text, self._text_since = "", 0.0  # of a text that grows, the part that is not written yet
        try:
            if path.exists():
                lines = path.read_bytes().splitlines(keepends=True) if step else []
                temporary = path.with_suffix(".tmp")
                temporary.write_bytes(b"".join(line for line in lines if _step_of(line) <= step))
                temporary.replace(path)
            self._file = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise TrainingError(f"Cannot continue the log {path}: {error.strerror}.") from error

    def write(self, event: Event) -> Row | None:
        """Append the event's row, if it has one now, with the time in seconds since 1970; return it.

        Raises OSError if numbers cannot be written. Notes and texts that cannot be written are lost: they never end a
        run.
        """
        self._step = getattr(event, "step", self._step)
        if isinstance(event, Sampled):
            if not self._text:
                self._text_since = time.monotonic()
            event = dataclasses.replace(event, text=self._text + event.text)
            is_due = event.is_last or time.monotonic() - self._text_since >= TEXT_INTERVAL
            self._text = "" if is_due else event.text
            if not is_due:
                return None
        content = row(event)
        if content is None:
            return None
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in content.items()
        }
        written = {"step": finite.pop("step", self._step), "time": round(time.time(), 3)} | finite
        try:
            self._file.write(json.dumps(written) + "\n")
            self._file.flush()
        except OSError:
            if "event" not in written:
                raise
            return None
        return written

    def close(self) -> None:
        """Close the file. What could not be written has been told of by `write`."""
        with contextlib.suppress(OSError):
            self._file.close()


class Follower:
    """Reads a run's log while it grows."""

    def __init__(self, run: Path) -> None:
        """Begin before the first row."""
        self._run = run
        self._at = 0  # the byte where the next row begins
        self._inode, self._beginning = -1, b""  # a new log may get the inode of an old one

    def is_other(self) -> bool:
        """Return whether this log is not the one that was read so far; then `rows` begins anew.

        Raises DataError if there is no log.
        """
        path = self._run / NAME
        try:
            stat = path.stat()
            with path.open("rb") as file:
                beginning = file.read(BEGINNING)
        except OSError as error:
            self._at, self._inode = 0, -1
            raise DataError(f"{self._run} has no {NAME}: the run was removed, or has not begun.") from error
        is_longer = beginning.startswith(self._beginning) and stat.st_size >= self._at
        is_other = stat.st_ino != self._inode or not is_longer  # a resumed run begins another file
        self._inode, self._beginning = stat.st_ino, beginning
        if is_other:
            self._at = 0
        return is_other

    def rows(self) -> Iterator[list[Row | None]]:
        """Yield the rows that were added since the last time, many at once, None for damaged lines."""
        for rows, at in blocks(self._run / NAME, self._at):
            self._at = at
            yield rows


def read(path: Path) -> Iterator[Row | None]:
    """Yield the rows of a log, None for a line that is damaged. Raises DataError if it cannot be read.

    A last line without its end, as a run leaves it that was killed or is just writing, is not there yet.
    """
    for rows, _ in blocks(path):
        yield from rows


def blocks(path: Path, at: int = 0) -> Iterator[tuple[list[Row | None], int]]:
    """Yield the rows of a log from the byte `at` on, as `read` does, many at once; with them, where the next begin."""
    try:
        with path.open("rb") as file:
            file.seek(at)
            while lines := file.readlines(BLOCK):
                is_torn = not lines[-1].endswith(b"\n")
                whole = lines[: len(lines) - is_torn]
                at += sum(map(len, whole))
                yield list(map(_checked, _parsed(whole))), at
                if is_torn:
                    return
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def _parsed(lines: list[bytes]) -> list[Any]:
    """Return the JSON value of each line, None for what is none."""
    values = _value(b"[" + b",".join(lines) + b"]")  # at once, which takes half the time
    return values if values is not None and len(values) == len(lines) else [_value(line) for line in lines]


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _checked(value: Any) -> Row | None:
    """Return a row of finite numbers and None, in events also texts; None if the line is not a valid row."""
    if type(value) is not dict or type(value.get("step")) is not int or not 0 <= value["step"] < 2**63:
        return None
    is_event = type(value.get("event")) is str
    for name, content in value.items():
        is_number = type(content) in (float, int, bool) and -LARGEST <= content <= LARGEST
        is_text = is_event and type(content) is str and name not in COLUMNS
        if not is_number and not is_text:
            value[name] = None
    return value


def _step_of(line: bytes) -> float:
    """Return the step that a line of a log is about: infinite if the line is torn or damaged."""
    content = _checked(_value(line)) if line.endswith(b"\n") else None
    return content["step"] if content else math.inf
