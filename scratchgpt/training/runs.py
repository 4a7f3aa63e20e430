"""What the folder of a run tells of it. RUN/run.json says what it is; the log and the last checkpoint, how far."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scratchgpt.errors import CheckpointError, ScratchGPTError
from scratchgpt.files import read_json, replace_json
from scratchgpt.lock import is_locked
from scratchgpt.training import logs
from scratchgpt.training.checkpoint import TRAINER
from scratchgpt.training.events import Event, Noted
from scratchgpt.training.journal import Condition
from scratchgpt.training.sinks import KINDS, Sinks
from scratchgpt.training.store import Checkpoints
from scratchgpt.training.trainer import Trainer

NAME = "run.json"


def describe(trainer: Trainer, preset: str | None, kinds: Sequence[str] | None) -> dict[str, Any]:
    """Return what RUN/run.json is to say: what is computed, how, and where it is logged.

    The preset and the kinds of logs, if None, are those that it says now.
    """
    before: dict[str, Any] = {}
    with contextlib.suppress(CheckpointError):  # a run can go on without
        before = description(trainer.run)
    logged = before.get("log")
    known = [kind for kind in KINDS if isinstance(logged, list) and kind in logged]
    return {
        "preset": preset or before.get("preset"),
        "log": known if kinds is None else list(kinds),
        "parameters": trainer.model.layout.size,
        "model": dataclasses.asdict(trainer.model.config),
        "train": dataclasses.asdict(trainer.config),
        "plan": trainer.engine.plan._asdict(),
    }


def description(run: Path) -> dict[str, Any]:
    """Return what RUN/run.json says, nothing if it is not there. Raises CheckpointError if it is damaged."""
    return read_json(run / NAME, CheckpointError) if (run / NAME).exists() else {}


class Logs:
    """All that writes while a run goes on: RUN/run.json at once, then log.jsonl and the sinks with each event."""

    def __init__(self, trainer: Trainer, preset: str | None, kinds: Sequence[str] | None) -> None:
        """Open them after the trainer's step; None as in `describe`. Raises UsageError, TrainingError and OSError."""
        run = trainer.run
        content = describe(trainer, preset, kinds)
        replace_json(run / NAME, content)
        self._log = logs.Log(run / logs.NAME, step=trainer.step)
        self._sinks = Sinks(content["log"], run, content, (row for row in logs.read(run / logs.NAME) if row))

    def write(self, event: Event) -> list[Noted]:
        """Log an event; return what there is to say of that."""
        row = self._log.write(event)
        notes = self._sinks.write(row) if row else []
        for note in notes:
            self._log.write(note)
        return notes

    def close(self, tell: Callable[[str], None]) -> None:
        """Close all, and tell what fails."""
        for note in self._sinks.close():
            self._log.write(note)
            tell(note.message)
        self._log.close()


class State(NamedTuple):
    """Whether a process trains a run now, and the run's state in a word or two."""

    is_alive: bool
    word: str


def state(run: Path, condition: Condition, *, is_complete: bool) -> State:
    """Return the state of a run, from the lock on its folder and the condition in which its log leaves it.

    `is_complete` is whether all steps are made: logs of older versions do not hold the end.
    """
    if is_locked(run):
        return State(is_alive=True, word=condition.word)
    return State(is_alive=False, word="finished" if is_complete or condition.word == "finished" else "stopped")


@dataclasses.dataclass
class Summary:
    """One run, as a line of a table; None for what is not known."""

    run: str
    preset: str | None = None
    state: str | None = None  # training, paused, generating, saved, finished or stopped
    step: int | None = None
    steps: int | None = None
    best_loss: float | None = None  # the lowest over the validation windows, in nats a token
    seconds: float | None = None  # in training steps
    device: str | None = None
    when: str | None = None  # of the last sign of life, local time
    problems: list[str] = dataclasses.field(default_factory=list)


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a run, or what is left of one."""
    return any((folder / name).exists() for name in ("checkpoints", logs.NAME, NAME))


def all_runs(folder: Path) -> list[Path]:
    """Return the runs in a folder, the one that was alive last at the end; no runs if there is no such folder."""
    folders = folder.iterdir() if folder.is_dir() else []
    return sorted((run for run in folders if is_run(run)), key=lambda run: (_last_sign(run), run.name))


def summary(run: Path) -> Summary:
    """Return what a run's folder says; what is wrong with it becomes a problem that is named, never an error."""
    result = Summary(run.as_posix())
    sign = _last_sign(run)
    if sign:
        result.when = time.strftime("%Y-%m-%d %H:%M", time.localtime(sign))
    for part in (_from_description, _from_checkpoint, _from_log):
        try:
            part(run, result)
        except ScratchGPTError as error:
            result.problems.append(str(error))
        except OSError as error:
            result.problems.append(f"Cannot read {error.filename}: {error.strerror}.")
        except (KeyError, TypeError, AttributeError) as error:
            name = NAME if part is _from_description else TRAINER
            result.problems.append(f"{name} is damaged: {type(error).__name__}: {error}.")
    return result


def _from_description(run: Path, result: Summary) -> None:
    content = description(run)
    if content:
        result.preset = _text(content["preset"])
        result.steps, result.device = _count(content["train"]["steps"]), _text(content["plan"]["device"])


def _from_checkpoint(run: Path, result: Summary) -> None:
    last = Checkpoints(run).pointed("last")
    if last is None:
        result.problems.append("There is no last checkpoint.")
        return
    content = read_json(last / TRAINER, CheckpointError)
    result.step, result.steps = _count(content["step"]), _count(content["train"]["steps"])
    result.best_loss, result.device = _number(content["best_loss"]), _text(content["plan"]["device"])


def _from_log(run: Path, result: Summary) -> None:
    milliseconds, n_damaged = 0.0, 0
    step, best, condition = -1, math.inf, Condition()
    for row in logs.read(run / logs.NAME):
        if row is None:
            n_damaged += 1
            continue
        step = max(step, row["step"])
        milliseconds += row.get("step_ms") or 0.0
        loss = row.get("val_loss")
        if loss is not None and not row.get("val_whole"):
            best = min(best, loss)
        if "event" in row and (event := logs.event(row)):
            condition.see(event)
    if n_damaged:
        result.problems.append(f"{logs.NAME} has damaged lines, {n_damaged:,} of them.")
    if step >= 0:
        result.step, result.seconds = step, milliseconds / 1e3
    if best < math.inf:
        result.best_loss = best
    is_complete = result.step is not None and result.steps is not None and result.step >= result.steps
    result.state = state(run, condition, is_complete=is_complete).word


def _last_sign(run: Path) -> float:
    """Return when the log or the last checkpoint was written, in seconds since 1970; 0 if neither is there."""
    signs = [run / logs.NAME, run / "checkpoints" / "last", run / NAME]
    return max((path.stat().st_mtime for path in signs if path.exists()), default=0.0)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int:
    """Return a whole number, or raise TypeError."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(value: Any) -> float | None:
    return value if type(value) is float and math.isfinite(value) else None
