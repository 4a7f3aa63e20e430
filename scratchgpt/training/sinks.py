"""Where the log's rows go besides RUN/log.jsonl: a CSV file, TensorBoard, Weights & Biases.

A sink is always made anew: it begins with the rows that log.jsonl holds and takes each new one. So when a run goes on
after a kill, its sinks hold what log.jsonl holds, nothing twice and nothing of the steps that were lost; and a finished
run's export is what was written while it ran.
"""

import contextlib
import csv
import importlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from scratchgpt.errors import TrainingError, UsageError, did_you_mean
from scratchgpt.extras import imports
from scratchgpt.training.events import Noted, Sampled, Started
from scratchgpt.training.logs import COLUMNS, EVALUATION_COLUMNS, STEP_COLUMNS, Row, event
from scratchgpt.wording import shown

FLUSH_INTERVAL = 5.0
"""Seconds after which TensorBoard sees what was written."""


class Sink(Protocol):
    """Takes the log's rows."""

    def write(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:
        """See that all is written."""


class CSV:
    """A file with a column for each name and a line for each row."""

    def __init__(self, path: Path) -> None:
        """Begin the file. Raises OSError."""
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        self._writer.writeheader()

    def write(self, row: Row) -> None:
        """Write a line, whole, if the row holds numbers."""
        if "event" in row:
            return
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """A folder with one event file."""

    def __init__(self, folder: Path) -> None:
        """Begin a file in the place of those that are there. Raises UsageError if tensorboardX is missing, OSError."""
        event_file_writer = _module("tensorboard", "tensorboardX.event_file_writer")
        event_pb2 = _module("tensorboard", "tensorboardX.proto.event_pb2")
        self._event = event_pb2.Event
        self._summary = _module("tensorboard", "tensorboardX.proto.summary_pb2").Summary
        self._text_summary = _module("tensorboard", "tensorboardX.summary").text
        self._text = ""  # the sampled text that is not complete
        folder.mkdir(parents=True, exist_ok=True)
        for old in event_files(folder):
            with contextlib.suppress(OSError):  # on Windows, if TensorBoard is reading it
                old.unlink()
        self._writer = event_file_writer.EventsWriter(str(folder / "events"))
        # A TensorBoard that is watching forgets what it has read of the old files.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(self._event(step=0, wall_time=time.time(), session_log=start))
        self._last_flush = time.monotonic()

    def write(self, row: Row) -> None:
        """Write a row as one event: numbers as scalars, a sampled text as a text."""
        if "event" in row:
            summary = self._sample(row)
        else:
            values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
            summary = self._summary(value=values)
        if summary is None:
            return
        self._writer.write_event(self._event(step=row["step"], wall_time=row.get("time") or 0.0, summary=summary))
        if time.monotonic() - self._last_flush >= FLUSH_INTERVAL:
            self._writer.flush()
            self._last_flush = time.monotonic()

    def _sample(self, row: Row) -> Any:
        """Return the summary of a sampled text, None until the text is complete."""
        match event(row):
            case Sampled(text=piece, is_last=is_last):
                self._text += piece
            case Started():
                self._text = ""  # a killed run left it
                return None
            case _:
                return None
        if not is_last or not self._text:
            return None
        text, self._text = self._text, ""
        # TensorBoard shows Markdown, in which indented lines stay as they are.
        return self._text_summary("sample", "".join(f"    {line}\n" for line in text.split("\n")))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WandB:
    """A run at Weights & Biases, or with WANDB_MODE=offline a folder that `wandb sync` takes there."""

    def __init__(self, folder: Path, name: str, config: dict[str, Any]) -> None:
        """Begin a run, with its files in `folder`/wandb. Raises UsageError without wandb, and what it raises."""
        wandb = _module("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "scratchgpt"),
            name=name,
            dir=str(folder),
            config=config,
            settings=wandb.Settings(console="off", silent=True),  # the terminal is ours
        )

    def write(self, row: Row) -> None:
        """Hand over a row of numbers, which wandb sends when it can."""
        if "event" in row:
            return
        time_of_it = {"_timestamp": row["time"]} if row.get("time") else {}  # older logs have none
        self._run.log(scalars(row) | time_of_it, step=row["step"])

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


KINDS = ("csv", "tensorboard", "wandb")
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def place(kind: str, run: Path) -> Path:
    """Return where the sink of a run is: a file, or a folder."""
    return run / {"csv": "log.csv", "tensorboard": "tensorboard", "wandb": ""}[kind]


def is_taken(kind: str, place: Path) -> bool:
    """Return whether beginning a sink there replaces anything; W&B's runs stand side by side."""
    return (kind == "csv" and place.exists()) or (kind == "tensorboard" and any(event_files(place)))


def begin(kind: str, place: Path, name: str, config: dict[str, Any]) -> Sink:
    """Make an empty sink for the run of this name and configuration, in the place of one that is there.

    Raises UsageError if a package is missing, TrainingError if the sink cannot be made.
    """
    try:
        match kind:
            case "csv":
                return CSV(place)
            case "tensorboard":
                return TensorBoard(place)
            case _:
                return WandB(place, name, config)
    except UsageError:
        raise
    except Exception as error:  # each package has its own
        raise TrainingError(
            f"Cannot log to {kind}: {_reason(error)}.",
            advice="A run can do without: log.jsonl has everything, and `scratchgpt logs export` makes the rest from "
            "that at any time.",
            page="The run's log.jsonl has everything; export it in the tab Measure.",
        ) from error


def chosen(names: str) -> tuple[str, ...]:
    """Return the kinds in a list with commas. Raises UsageError for one that is unknown or whose package is missing."""
    kinds = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"There is no log {kind!r}{did_you_mean(kind, KINDS)}; there are {', '.join(KINDS)}.")
        if kind in PACKAGES:
            _module(kind, PACKAGES[kind])
    return kinds


class Sinks:
    """The sinks of a run that is going on. One that fails is given up with a note: it does not cost the training."""

    def __init__(self, kinds: Sequence[str], run: Path, config: dict[str, Any], rows: Iterable[Row]) -> None:
        """Begin with the rows so far. Raises UsageError and TrainingError, before any training."""
        self._run = run
        self._sinks = {kind: begin(kind, place(kind, run), shown(run.resolve().name), config) for kind in kinds}
        if kinds:
            for row in rows:
                for note in self.write(row):
                    raise TrainingError(note.message)

    def write(self, row: Row) -> list[Noted]:
        """Hand a row to all; return what there is to say."""
        return self._each(lambda sink: sink.write(row))

    def close(self) -> list[Noted]:
        """Close all; return what there is to say."""
        return self._each(lambda sink: sink.close())

    def _each(self, act: Callable[[Sink], None]) -> list[Noted]:
        notes = []
        for kind, sink in [*self._sinks.items()]:
            try:
                act(sink)
            except Exception as error:  # noqa: BLE001 - each package has its own, and none is worth a run
                del self._sinks[kind]
                notes.append(
                    Noted(
                        f"Logging to {kind} has failed and ends here: {_reason(error)}. log.jsonl has everything; "
                        f"`scratchgpt logs export {self._run} --to {kind}` makes it from that."
                    )
                )
        return notes


def scalars(row: Row) -> dict[str, float]:
    """Return a row's finite numbers under the names by which TensorBoard and W&B group them: train/loss, val/loss.

    What was measured over the whole validation part is apart, as val_whole/loss.
    """
    group = "val_whole" if row.get("val_whole") else "val"
    tags = {name: f"train/{name}" for name in STEP_COLUMNS}
    tags |= {name: f"{group}/{name.removeprefix('val_')}" for name in EVALUATION_COLUMNS if name != "val_whole"}
    return {tags[name]: value for name, value in row.items() if name in tags and value is not None}


def event_files(folder: Path) -> Iterator[Path]:
    """Yield the TensorBoard files of a folder."""
    return folder.glob("events.out.tfevents.*")


def clear(run: Path) -> None:
    """Remove what sinks have left in a run's folder, but W&B's. Raises OSError."""
    (run / "log.csv").unlink(missing_ok=True)
    for path in event_files(run / "tensorboard"):
        path.unlink()


def _module(extra: str, name: str) -> Any:
    """Import a module of the package that an extra brings. Raises UsageError if it is missing."""
    with imports(f"Logging to {extra}", extra):
        return importlib.import_module(name)


def _reason(error: Exception) -> str:
    """Return an exception's first line, without its full stop."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.partition("\n")[0].rstrip(".")
