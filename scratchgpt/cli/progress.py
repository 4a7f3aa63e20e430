"""How far a command is: bars in a terminal, lines of JSON for a program that asks for them."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from scratchgpt.cli import PROGRESS
from scratchgpt.cli.console import terminal
from scratchgpt.wording import shown

TOLD_INTERVAL = 0.2
"""Seconds between two lines about it."""


@contextlib.contextmanager
def byte_progress(description: str) -> Iterator[Callable[[int], None]]:
    """Show how many bytes there were, in a terminal; yields what to call with each amount."""
    console = terminal(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)
        yield lambda n_bytes: progress.advance(task, n_bytes)


@contextlib.contextmanager
def stages(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show the stages of some work, in a terminal; yields what to call with a stage, an amount done and that of all.

    For a program that has set SCRATCHGPT_PROGRESS=json, each is a line of JSON on standard error, now and then.
    """
    if os.environ.get(PROGRESS) == "json":
        yield _Told()
        return
    console = terminal(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, n_done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(shown(f"{stage} {title}"), total=total)
            progress.advance(tasks[stage], n_done)

        yield show


class _Told:
    """Stages for a program that waits."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._told_at = -math.inf

    def __call__(self, stage: str, n_done: int, total: int) -> None:
        done = self._done[stage] = self._done.get(stage, 0) + n_done
        if time.monotonic() - self._told_at >= TOLD_INTERVAL or done >= total:
            self._told_at = time.monotonic()
            line = {"stage": stage, "done": done, "total": total}
            print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201 - this module is what prints


def waiting(description: str) -> contextlib.AbstractContextManager[object]:
    """Show in a terminal what is being waited for."""
    return terminal(stderr=True).status(Text(shown(description)))
