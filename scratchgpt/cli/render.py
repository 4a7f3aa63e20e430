"""What a person sees while something runs: a live line in a terminal, plain lines anywhere else."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from scratchgpt.training.events import Ended, Evaluated, Evaluating, Event, Noted, Saved, StepDone

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines about single steps."""


@contextlib.contextmanager
def byte_progress(description: str) -> Iterator[Callable[[int], None]]:
    """Show how many bytes there were, in a terminal; yields what to call with each amount."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)
        yield lambda n_bytes: progress.advance(task, n_bytes)


@contextlib.contextmanager
def stages(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show the stages of some work, in a terminal; yields what to call with a stage, an amount done and that of all."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, n_done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(f"{stage} {title}", total=total)
            progress.advance(tasks[stage], n_done)

        yield show


def waiting(description: str) -> contextlib.AbstractContextManager[object]:
    """Show in a terminal what is being waited for."""
    return Console(stderr=True).status(description)


def show_sources(meta: dict[str, Any]) -> None:
    """Print what `prepare` found in each source, what it kept and dropped, and a mixture's ratio."""
    parts = meta["parts"]
    _print_table(
        ("source", "documents", "characters", "tokens", "characters per token", "kept", "dropped"),
        [
            (
                part["name"],
                f"{part['documents']:,}",
                f"{part['characters']:,}",
                f"{part['tokens']:,}",
                f"{part['characters'] / part['tokens']:.2f}",
                f"{part['kept_tokens']:,}",
                f"{part['tokens'] - part['kept_tokens']:,}",
            )
            for part in parts
        ],
    )
    if n_dropped := sum(part["dropped_characters"] for part in parts):
        print(f"Left out as Project Gutenberg's: {n_dropped:,} characters.")  # noqa: T201 - this module is what prints
    weights = [source["weight"] for source in meta["asked"]["sources"]]
    if None not in weights:
        _show_mixture(parts[: len(weights)], weights)


def _show_mixture(parts: Sequence[dict[str, Any]], weights: Sequence[float]) -> None:
    """Print the ratio that was asked for and the one that there is."""
    kept = sum(part["kept_tokens"] for part in parts)
    _print_table(
        ("mixture", "asked", "taken", "tokens available", "tokens taken", "tokens dropped"),
        [
            (
                part["name"],
                f"{weight / sum(weights):.2%}",
                f"{part['kept_tokens'] / kept:.2%}",
                f"{part['tokens']:,}",
                f"{part['kept_tokens']:,}",
                f"{part['tokens'] - part['kept_tokens']:,}",
            )
            for part, weight in zip(parts, weights, strict=True)
        ],
    )
    if not math.isclose(sum(weights), 100):
        print(f"The weights sum to {sum(weights):g}, not 100: each is taken as its part of that.")  # noqa: T201


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print names and numbers; where the terminal is too narrow, numbers go on in the next line."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title == titles[0] else "right", overflow="fold")
    for name, *numbers in rows:
        table.add_row(Text(name), *numbers)
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else 120
    console.print(table)


class Renderer(Protocol):
    """Shows the events of one run."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, event: Event) -> None:
        """Show one event."""


def for_console(total_steps: int, step: int) -> Renderer:
    """Return the renderer that suits standard output."""
    console = Console(highlight=False)
    can_redraw = console.is_terminal and not console.is_dumb_terminal
    return Live(console, total_steps, step) if can_redraw else Plain(total_steps)


def sentence(event: Event) -> str | None:
    """Return what is worth a line of its own that stays."""
    match event:
        case Evaluated():
            part = "whole validation set" if event.is_whole else "validation"
            perplexity = f"{event.perplexity:.2f}" if event.perplexity < 1e6 else f"{event.perplexity:.1e}"
            return (
                f"step {event.step:,}: {part} loss {event.loss:.4f}, perplexity {perplexity}, "
                f"accuracy {event.accuracy:.1%}"
            )
        case Noted():
            return event.message
        case _:
            return None


class Plain:
    """Lines, for files and pipes."""

    def __init__(self, total_steps: int) -> None:
        """Expect this many steps in all."""
        self._total_steps = total_steps
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        """Nothing to set up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to tear down."""

    def show(self, event: Event) -> None:
        """Print evaluations, and a step now and then."""
        line = sentence(event)
        if time.monotonic() - self._last_line >= PLAIN_INTERVAL:
            match event:
                case StepDone():
                    speed = event.n_tokens / event.seconds
                    line = f"step {event.step:,} of {self._total_steps:,}: loss {event.loss:.4f}, {speed:,.0f} tokens/s"
                case Evaluating():
                    line = f"step {event.step:,}: evaluating, {event.done / event.total:.0%}"
        if line:
            self._last_line = time.monotonic()
            print(line, flush=True)  # noqa: T201 - this is what a renderer is for


class Live:
    """One line that is always up to date, evaluations above it."""

    def __init__(self, console: Console, total_steps: int, step: int) -> None:
        """Begin at `step` of `total_steps`."""
        columns = (
            TextColumn("step {task.completed:,.0f} of {task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
        )
        self._progress = Progress(*columns, console=console, refresh_per_second=4, expand=True)
        self._task = self._progress.add_task("", total=total_steps, completed=step, status="")
        self._loss: float | None = None
        self._status = ""

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Update the line."""
        line = sentence(event)
        if line:
            self._progress.console.print(line)
        match event:
            case StepDone():
                if math.isfinite(event.loss):  # else it would never be finite again
                    self._loss = event.loss if self._loss is None else 0.9 * self._loss + 0.1 * event.loss
                loss = "?" if self._loss is None else f"{self._loss:.3f}"
                self._status = f"loss {loss}  {event.n_tokens / event.seconds / 1000:,.1f}k tokens/s"
                self._progress.update(self._task, completed=event.step, status=self._status)
            case Evaluating():
                self._progress.update(self._task, status=f"evaluating {event.done} of {event.total}")
            case Evaluated():
                self._progress.update(self._task, status=self._status)
            case Saved() | Ended():
                pass
