"""The run's log: one JSON object a line, flushed at once, so that it can be read while the run goes on."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scratchgpt.errors import DataError, TrainingError
from scratchgpt.training.events import Evaluated, Event, StepDone

NAME = "log.jsonl"
Row = dict[str, Any]
"""The name of each number and the number, or None for one that is not finite; "step" and "time" are in every row."""

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


def row(event: Event) -> Row | None:
    """Return what the log says of an event, or None if it says nothing."""
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
        case _:
            return None


class Log:
    """Appends to RUN/log.jsonl."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Open the log of a run that goes on after `step`: lines of later steps, which will come anew, are dropped."""
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
        """Append the event's row, if it has one, with the time in seconds since 1970; return it."""
        content = row(event)
        if content is None:
            return None
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in content.items()
        }
        written = {"step": finite.pop("step"), "time": round(time.time(), 3)} | finite
        self._file.write(json.dumps(written) + "\n")
        self._file.flush()
        return written

    def close(self) -> None:
        """Close the file. What could not be written has been told of by `write`."""
        with contextlib.suppress(OSError):
            self._file.close()


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
    """Return a row in which all is a finite number or None, or None for what is no row."""
    if type(value) is not dict or type(value.get("step")) is not int or not 0 <= value["step"] < 2**63:
        return None
    for name, number in value.items():
        if number is not None and not (type(number) in (float, int, bool) and -1e308 <= number <= 1e308):
            value[name] = None
    return value


def _step_of(line: bytes) -> float:
    """Return the step that a line of a log is about: infinite if the line is torn or damaged."""
    content = _checked(_value(line)) if line.endswith(b"\n") else None
    return content["step"] if content else math.inf
