"""What all open pages share: the working folder, the one training, commands that run, curves that were read."""

import asyncio
import collections
import contextlib
import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.dataset import META, read_meta
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import safe_name
from scratchgpt.machine import amount
from scratchgpt.training.places import DATA, RUNS, is_taken, prepared_data, written_at
from scratchgpt.training.runs import all_runs
from scratchgpt.training.store import Checkpoints
from scratchgpt.web.history import History
from scratchgpt.web.jobs import Generation, Task, Training

PLAIN = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".tex", ".rst", ".py", ".log", ".srt")
TEXTS = (*PLAIN, ".jsonl", ".ndjson", ".parquet", ".gz", ".zst", ".xz", ".bz2", ".tar", ".tgz", ".zip")
"""What a text's name ends in, if its kind is known; any other name gets .txt."""
LIST_EVERY = 1.0
"""Seconds between two looks at which runs, data and models there are."""
LARGEST_META = 2**24
"""Bytes of a meta.json that the page reads: one of data from some 50,000 files."""
LIST_PAUSE = 20
"""A look that takes long is followed by this many times as long without one."""
MOST_LISTED = 10_000
"""Entries of a folder that are looked at for texts."""
LONGEST_TEXT = 2**30
"""Characters of a text that is uploaded, when it is unpacked."""
MOST_CHECKS = 4
"""Uploads that are checked at once."""
BUSY = {"prepare": "A text is being prepared", "measure": "A model is measured"}
MOST_TEXTS = 500
MOST_GENERATIONS = 16
"""Texts of different windows that are written or kept at once."""
RETURN_WITHIN = 300.0
"""Seconds for which a text of a window that has gone is written on, and kept."""


class Desk:
    """One server has one; it works in the current folder."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.root = Path.cwd().resolve()
        self.training: Training | None = None
        self.tasks: dict[str, Task] = {}
        self.checks: dict[Path, Task] = {}  # of uploads
        self.looking = asyncio.Lock()
        """Held while a model is looked into: one after another, so that these leave threads for the rest."""
        self._generations: dict[str, Generation] = {}  # by the window that asked for it, the newest at the end
        self._windows: collections.Counter[str] = collections.Counter()  # pages of each
        self._departures: dict[str, asyncio.TimerHandle] = {}  # of windows without a page
        self._listings: dict[str, tuple[Any, float]] = {}  # and when they are looked at again
        self._histories: dict[str, History] = {}

    def train(self, *arguments: str) -> Training:
        """Start a training. Raises UsageError while there is another."""
        if self.training and not self.training.is_over:
            raise UsageError(f"A training is running in {self.training.run or 'this folder'}; stop it first.")
        self.training = Training(*arguments)
        return self.training

    def start(self, kind: str, *arguments: str, **then: Any) -> Task:
        """Start another command, as Task does. Raises UsageError while one of its kind runs."""
        if kind in self.tasks and not self.tasks[kind].is_over:
            raise UsageError(f"{BUSY[kind]} already; wait until it has ended, or stop it.")
        self.tasks[kind] = Task(*arguments, **then)
        return self.tasks[kind]

    def check(self, text: Path) -> Task:
        """Start to read an uploaded text; it is removed if it is none. Raises UsageError while too many are read."""
        self.checks = {path: task for path, task in self.checks.items() if not task.is_over}
        if len(self.checks) >= MOST_CHECKS:
            raise UsageError(f"{MOST_CHECKS} uploads are being checked; wait until one of them is done.")
        options = ("--check", "--longest", str(LONGEST_TEXT), "--", str(text))
        self.checks[text] = Task("prepare", *options, otherwise=lambda: text.unlink(missing_ok=True))
        return self.checks[text]

    def generate(self, window: str, prompt: str, *arguments: str) -> Generation:
        """Start to write a text for a window of a browser. Raises UsageError while one is written, or too many are."""
        if (last := self._generations.get(window)) and not last.is_over:
            raise UsageError("A text is being written; stop it first.")
        self._generations.pop(window, None)
        over = [each for each, generation in self._generations.items() if generation.is_over]
        if len(self._generations) >= MOST_GENERATIONS:
            if not over:
                raise UsageError(f"{MOST_GENERATIONS} texts are being written here; wait until one is finished.")
            del self._generations[over[0]]
        self._generations[window] = Generation(prompt, *arguments)
        return self._generations[window]

    def generation(self, window: str | None) -> Generation | None:
        """Return the last text of a window, if the desk still has it."""
        return self._generations.get(window or "")

    def arrive(self, window: str) -> None:
        """Take note of a page in this window of a browser."""
        self._windows[window] += 1
        if departure := self._departures.pop(window, None):
            departure.cancel()

    def leave(self, window: str) -> None:
        """Take note that a page has gone; if the window does not return in time, its text ends."""
        self._windows[window] -= 1
        if self._windows[window] <= 0:
            del self._windows[window]
            self._departures[window] = asyncio.get_running_loop().call_later(RETURN_WITHIN, self._forget, window)

    def _forget(self, window: str) -> None:
        del self._departures[window]
        if generation := self._generations.pop(window, None):
            generation.stop()

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

    def expire(self) -> None:
        """Look anew at what there is when somebody asks: something has just been written."""
        self._listings.clear()

    def runs(self) -> list[str]:
        """Return the names of all runs, the one that was alive last at the beginning."""

        def look() -> list[str]:
            return [run.name for run in reversed(all_runs(RUNS)) if _can_be_sent(run.name)]

        return self._listed("runs", look)

    def data(self) -> list[str]:
        """Return the names of all prepared data, the newest at the beginning."""

        def look() -> list[str]:
            return [folder.name for folder in prepared_data() if _can_be_sent(folder.name)]

        return self._listed("data", look)

    def meta(self, name: str) -> dict[str, Any]:
        """Return what is recorded of prepared data. Raises DataError."""
        folder = self.inside(DATA / name)
        return _meta(folder, written_at(folder / META))

    def models(self) -> dict[str, str]:
        """Return the models that runs have, by path, and what they are called."""

        def look() -> dict[str, str]:
            found = {}
            for name in self.runs():
                checkpoints = Checkpoints(RUNS / name)
                if checkpoints.pointed("last"):
                    found[str(RUNS / name)] = f"{name}, last"
                if checkpoints.pointed("best"):
                    found[str(checkpoints.folder / "best")] = f"{name}, best"
            return found

        return self._listed("models", look)

    def _listed(self, what: str, look: Callable[[], Any]) -> Any:
        """Return what a look at the disk has found lately: all pages share it, and it takes little of the time."""
        found, due = self._listings.get(what, (None, -math.inf))
        if (start := time.monotonic()) >= due:
            with contextlib.suppress(OSError):  # something is just being removed
                found = look()
            end = time.monotonic()
            self._listings[what] = found if found is not None else [], end + max(LIST_EVERY, LIST_PAUSE * (end - start))
        return self._listings[what][0]

    def texts(self) -> list[str]:
        """Return the texts in the working folder and in data, by their paths."""
        return sorted(Path(name).as_posix() for name in self._texts())[:MOST_TEXTS]

    def _texts(self) -> Iterator[str]:
        for folder in (Path(), DATA):
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in itertools.islice(entries, MOST_LISTED):
                    is_text = entry.name.lower().endswith(TEXTS) and _can_be_sent(entry.name)
                    if is_text and not entry.name.startswith(".") and entry.is_file():
                        yield entry.path

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
        for task in (*self.tasks.values(), *self.checks.values(), *self._generations.values()):
            task.stop()
        if self.training:
            self.training.close()


@functools.lru_cache(maxsize=64)
def _meta(folder: Path, _written_at: int) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        if (folder / META).stat().st_size > LARGEST_META:
            raise DataError(f"{folder / META} is larger than {amount(LARGEST_META)}; prepare the text as one file.")
    return read_meta(folder)


def vocabulary(folder: Path) -> tokenizers.Tokenizer:
    """Return the vocabulary of prepared data or a checkpoint, which is read once. Raises DataError."""
    return _vocabulary(folder, written_at(folder / tokenizers.FILES[0]))


@functools.lru_cache(maxsize=8)
def _vocabulary(folder: Path, _written_at: int) -> tokenizers.Tokenizer:
    return tokenizers.load(folder)


def _can_be_sent(name: str) -> bool:
    """Whether a browser can be sent a name of the file system: one that is not UTF-8 has lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def new_text(folder: Path, name: str) -> Path:
    """Create an empty file for a text that is called like this somewhere else, and return its path. Raises OSError."""
    folder.mkdir(exist_ok=True)
    suffix = Path(name).suffix.lower()
    suffix, stem = (suffix, Path(name).stem) if suffix in TEXTS else (".txt", name)
    for number in itertools.count(1):
        path = folder / (safe_name(stem) + (f"-{number}" if number > 1 else "") + suffix)
        with contextlib.suppress(FileExistsError):
            if not is_taken(path):
                path.touch(exist_ok=False)
                break
    return path
