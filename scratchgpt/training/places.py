"""The folders data/ and runs/: what is in them, what is newest there, and which name is free for a run."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from scratchgpt.data.dataset import META
from scratchgpt.errors import UsageError

DATA, RUNS = Path("data"), Path("runs")


def prepared_data() -> list[Path]:
    """Return the folders in data/ that hold prepared data, the newest first."""
    return [meta.parent for meta in sorted(DATA.glob(f"*/{META}"), key=written_at, reverse=True)]


def newest_data() -> Path:
    """Return the folder in data/ that was prepared last. Raises UsageError if there is none."""
    for folder in prepared_data():
        return folder
    raise UsageError(
        f"There is no prepared text in {DATA}.",
        advice="Run `scratchgpt prepare FILE` first, or name one with --data.",
        page="Prepare one in the tab Data.",
    )


def newest_run(runs: Path = RUNS) -> Path:
    """Return the run whose last checkpoint is the most recent. Raises UsageError if there is none."""
    pointers = [*runs.glob("*/checkpoints/last")]
    if not pointers:
        raise UsageError(
            f"There is no trained model in {runs}{os.sep}.",
            advice="Run `scratchgpt train` first, or name one.",
            page="Train one first.",
        )
    return max(pointers, key=lambda pointer: pointer.stat().st_mtime_ns).parent.parent


def written_at(path: Path) -> int:
    """Return when a file was written, in nanoseconds since 1970; 0 if it has just been removed."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def unused_run(name: str) -> Path:
    """Return the first of runs/NAME-1, runs/NAME-2, ... whose name is not taken."""
    names = taken(RUNS)
    return next(run for run in _numbered_runs(name) if run.name.casefold() not in names)


@contextlib.contextmanager
def claimed_run(name: str) -> Iterator[Path]:
    """Make the first of runs/NAME-1, runs/NAME-2, ... that does not exist, and yield it.

    Trainings that start at the same moment get a folder each. A folder that stays empty is removed.
    """
    RUNS.mkdir(exist_ok=True)
    for run in _numbered_runs(name):
        with contextlib.suppress(FileExistsError):
            run.mkdir()
            break
    try:
        yield run
    finally:
        with contextlib.suppress(OSError):
            run.rmdir()


def _numbered_runs(name: str) -> Iterator[Path]:
    return (RUNS / f"{name}-{n}" for n in itertools.count(1))


def is_taken(path: Path) -> bool:
    """Whether there is something of this name in its folder; to some systems A and a are one name."""
    return path.name.casefold() in taken(path.parent)


def taken(folder: Path) -> set[str]:
    """Return the names in a folder, in lower case; none if there is no such folder."""
    with contextlib.suppress(OSError):
        return {each.name.casefold() for each in folder.iterdir()}
    return set()
