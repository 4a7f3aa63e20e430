"""How far a command is: bars in a terminal, lines of JSON for a program that asks for them."""

import contextlib
import math
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

from scratchgpt import reports
from scratchgpt.cli.console import terminal
from scratchgpt.wording import shown

REPORT_INTERVAL = 0.2
"""Seconds between two reports of one stage."""


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

    For a program that asks for reports, a line on standard error now and then.
    """
    if reports.are_asked_for():
        yield _Reports()
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


class _Reports:
    """Stages as reports."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._reported_at = -math.inf

    def __call__(self, stage: str, n_done: int, total: int) -> None:
        done = self._done[stage] = self._done.get(stage, 0) + n_done
        if time.monotonic() - self._reported_at >= REPORT_INTERVAL or done >= total:
            self._reported_at = time.monotonic()
            print(reports.progress(stage, done, total), file=sys.stderr, flush=True)  # noqa: T201 - so it is sent


def waiting(description: str) -> contextlib.AbstractContextManager[object]:
    """Show in a terminal what is being waited for."""
    return terminal(stderr=True).status(Text(shown(description)))
