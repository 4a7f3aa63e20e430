"""The run's log: one JSON object a line, flushed at once, so that it can be read while the run goes on."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from scratchgpt.errors import TrainingError
from scratchgpt.training.events import Evaluated, Event, StepDone


def row(event: Event) -> dict[str, Any] | None:
    """Return what the log says of an event, or None if it says nothing."""
    match event:
        case StepDone():
            device = {} if event.device_bytes is None else {"device_mb": round(event.device_bytes / 1e6, 1)}
            return {
                "step": event.step,
                "loss": event.loss,
                "lr": event.learning_rate,
                "grad_norm": event.grad_norm,
                "step_ms": round(event.seconds * 1e3, 3),
                "tokens_per_s": round(event.n_tokens / event.seconds, 1),
            } | device
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

    def write(self, event: Event) -> None:
        """Append the event's line, if it has one."""
        content = row(event)
        if content is not None:
            finite = {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in content.items()
            }
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file. What could not be written has been told of by `write`."""
        with contextlib.suppress(OSError):
            self._file.close()


def _step_of(line: bytes) -> float:
    """Return the step that a line of a log is about: infinite if the line is torn or damaged."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
