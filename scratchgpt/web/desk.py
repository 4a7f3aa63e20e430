"""What all open pages share: the working folder, the one training, commands that run, curves that were read."""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scratchgpt.errors import DataError, UsageError
from scratchgpt.training.runs import all_runs
from scratchgpt.web.history import History
from scratchgpt.web.jobs import Task, Training

DATA, RUNS = Path("data"), Path("runs")
TEXTS = (".txt", ".md", ".jsonl", ".parquet", ".gz", ".zst")
"""What a text's name may end in."""
LONGEST_NAME = 60
"""Characters; each may take four of the 255 bytes that a file's name may have."""
LIST_EVERY = 1.0
"""Seconds between two looks at which runs there are."""
MOST_TEXTS = 500


class Desk:
    """One server has one; it works in the current folder."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.root = Path.cwd().resolve()
        self.training: Training | None = None
        self.tasks: dict[str, Task] = {}
        self.looking = asyncio.Lock()
        """Held while a model is looked into: one after another, so that these leave threads for the rest."""
        self._runs: list[str] = []
        self._listed_at = -LIST_EVERY
        self._histories: dict[str, History] = {}

    def train(self, *arguments: str) -> Training:
        """Start a training. Raises UsageError while there is another."""
        if self.training and not self.training.is_over:
            raise UsageError(f"A training is running in {self.training.run or 'this folder'}; stop it first.")
        self.training = Training(*arguments)
        return self.training

    def start(self, kind: str, *arguments: str, then: Callable[[str], object] = lambda _: None) -> Task:
        """Start another command, as Task does. Raises UsageError while one of its kind runs."""
        if kind in self.tasks and not self.tasks[kind].is_over:
            raise UsageError(f"`scratchgpt {self.tasks[kind].name}` is running already; wait until it has ended.")
        self.tasks[kind] = Task(*arguments, then=then)
        return self.tasks[kind]

    def training_of(self, run: str | None) -> Training | None:
        """Return the training of ours that is, or was, in this run."""
        return self.training if run and self.training and self.training.run == RUNS / run else None

    def history(self, run: str) -> History:
        """Return the curves of a run."""
        return self._histories.setdefault(run, History(self.inside(RUNS / run)))

    def read_ahead(self) -> None:
        """Read the log of the run that most likely is looked at first."""
        for run in self.runs()[:1]:
            with contextlib.suppress(DataError):
                self.history(run).refresh()

    def runs(self) -> list[str]:
        """Return the names of all runs, the one that was alive last at the beginning."""
        if time.monotonic() >= self._listed_at + LIST_EVERY:  # many pages may ask
            with contextlib.suppress(OSError):  # one is just being removed
                self._runs = [run.name for run in reversed(all_runs(RUNS))] if RUNS.is_dir() else []
            self._listed_at = time.monotonic()
        return self._runs

    def data(self) -> list[str]:
        """Return the names of all prepared data, the newest at the beginning."""
        metas = sorted(DATA.glob("*/meta.json"), key=_written_at, reverse=True)
        return [meta.parent.name for meta in metas]

    def texts(self) -> list[str]:
        """Return the texts in the working folder and in data, by their paths."""
        return sorted(path.as_posix() for path in self._texts())[:MOST_TEXTS]

    def _texts(self) -> Iterator[Path]:
        for folder in (Path(), DATA):
            if folder.is_dir():
                yield from (path for path in folder.iterdir() if path.suffix.lower() in TEXTS and path.is_file())

    def inside(self, path: str | Path) -> Path:
        """Return a path within the working folder, relative to it. Raises UsageError for one that leads out of it."""
        try:
            return (self.root / path).resolve().relative_to(self.root)
        except (ValueError, OSError) as error:  # a ValueError also for a zero byte
            raise UsageError(f"{str(path)!r:.80} is not inside the working folder, {self.root}.") from error

    @property
    def is_saving(self) -> bool:
        """Whether there is a training, which `close` has to wait for."""
        return self.training is not None and not self.training.is_over

    def close(self) -> None:
        """Have the training save and end; end all else."""
        for task in self.tasks.values():
            task.stop()
        if self.training:
            self.training.close()


def _written_at(path: Path) -> int:
    """Return when a file was written, in nanoseconds since 1970; 0 if it has just been removed."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def new_text(folder: Path, name: str) -> Path:
    """Create an empty file for a text that is called like this somewhere else, and return its path. Raises OSError."""
    folder.mkdir(exist_ok=True)
    suffix = Path(name).suffix.lower()
    suffix, stem = (suffix, Path(name).stem) if suffix in TEXTS else (".txt", name)
    for number in itertools.count(1):
        path = folder / (safe_name(stem) + (f"-{number}" if number > 1 else "") + suffix)
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            break
    return path


def safe_name(name: str) -> str:
    """Return what of a file's name is harmless: no folders, nothing hidden, no characters that mean something."""
    name = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:LONGEST_NAME] or "text"
