"""Views of a run: a live line in a terminal, plain lines anywhere else, lines of JSON for programs."""

import contextlib
import io
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol, Self, TextIO

import click
import rich.live
from rich.console import Console
from rich.text import Text

from scratchgpt.cli.console import has_unicode, terminal
from scratchgpt.cli.curve import ASCII_BLOCKS, BLOCKS, Curve, sparkline
from scratchgpt.training.events import Evaluated, Evaluating, Event, Noted, Sampled, Started, StepDone, to_json
from scratchgpt.training.journal import note
from scratchgpt.training.pace import Pace
from scratchgpt.wording import printable, shown

PLAIN_INTERVAL = 10.0
"""Seconds between two plain lines about single steps."""
TOGETHER = 0.1
"""Seconds in which all lines of JSON are written at once."""


class Renderer(Protocol):
    """Shows the events of one run."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def show(self, event: Event) -> None:
        """Show one event."""


@contextlib.contextmanager
def viewing(view: str) -> Iterator[Renderer]:
    """Yield the renderer of a view: json, plain, quiet, or "" for what suits standard output."""
    out = sys.stdout
    match view:
        case "json":
            with contextlib.redirect_stdout(sys.stderr):  # what else is said is for people
                yield JSONLines(out)
        case "quiet":
            signalled = None
            with contextlib.redirect_stdout(io.StringIO()) as said:
                try:
                    yield Quiet()
                except click.exceptions.Exit as end:
                    signalled = end
            print(said.getvalue().splitlines()[-1])  # noqa: T201 - this is the view
            if signalled:
                raise signalled
        case _:
            console = terminal()
            can_redraw = console.is_terminal and not console.is_dumb_terminal
            yield Live(console) if can_redraw and view != "plain" else Plain()


class _Lines:
    """What is worth lines of its own that stay: sentences, and samples when they are complete."""

    def __init__(self) -> None:
        self._sample = ""

    def of(self, event: Event) -> str | None:
        """Return the lines that an event completes."""
        if not isinstance(event, Sampled):
            return shown(note(event) or "") if isinstance(event, Evaluated | Noted) else None
        self._sample += event.text
        if not event.is_last or not self._sample:
            return None
        text, self._sample = self._sample, ""
        return f"step {event.step:,}: a sample\n{printable(text)}\n"


class Quiet:
    """Nothing."""

    def __enter__(self) -> Self:
        """Nothing to set up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to tear down."""

    def show(self, event: Event) -> None:
        """Show nothing."""


class JSONLines:
    """Each event a line of JSON. A thread writes them, so that the run never waits for a slow reader.

    What comes within TOGETHER of the last is written at once with what comes then: to wake a reader, and be woken, for
    each of many short steps would take time from these.
    """

    def __init__(self, out: TextIO) -> None:
        """Write to `out`."""
        self._out = out
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._is_ending = threading.Event()
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        """Begin to write."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is written, or cannot be."""
        self._is_ending.set()
        self._lines.put(None)
        self._thread.join()

    def show(self, event: Event) -> None:
        """Have an event written. Raises OSError if an earlier one could not be."""
        if self._error:
            raise self._error
        self._lines.put(json.dumps(to_json(event), allow_nan=False) + "\n")

    def _write(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                self._out.write(line)
                if self._lines.empty():
                    self._out.flush()
                    self._is_ending.wait(TOGETHER)
            self._out.flush()
        except OSError as error:
            self._error = error


class Plain:
    """Lines, for files and pipes."""

    def __init__(self) -> None:
        """Begin with nothing to say."""
        self._total_steps = 0
        self._lines = _Lines()
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        """Nothing to set up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to tear down."""

    def show(self, event: Event) -> None:
        """Print evaluations and samples, and a step now and then."""
        line = self._lines.of(event)
        if isinstance(event, Started):
            self._total_steps = event.steps
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
    """One line that is always up to date, evaluations and samples above it."""

    def __init__(self, console: Console) -> None:
        """Draw on a console."""
        self._console = console
        self._lines = _Lines()
        self._curve = Curve()
        self._pace = Pace()
        self._step, self._steps, self._speed = 0, 1, 0.0
        self._busy = ""  # with what, if not with steps
        self._live = rich.live.Live(console=console, refresh_per_second=4, get_renderable=self._line)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def show(self, event: Event) -> None:
        """Update the line."""
        if line := self._lines.of(event):
            self._console.print(line)
        self._busy = f"evaluating {event.done / event.total:.0%}" if isinstance(event, Evaluating) else ""
        self._pace.see(event)
        match event:
            case Started():
                self._step, self._steps = event.step, event.steps
            case StepDone():
                self._step, self._speed = event.step, event.n_tokens / event.seconds
                self._curve.add(event.step, event.loss)

    def _line(self) -> Text:
        """Return the line, as long as the terminal is wide: what matters least goes where there is no room."""
        width = self._console.width
        loss = f"{self._curve.mean:.3f}" if self._curve.steps else "?"
        if width < 40:
            parts = [f"{self._step}/{self._steps}", self._busy or loss]
        else:
            parts = [f"step {self._step:,} of {self._steps:,}", self._busy or f"loss {loss}"]
        for part in (self._pace.left(self._step, self._steps), self._speed and f"{self._speed / 1e3:,.1f}k tokens/s"):
            if part and len("  ".join([*parts, part])) <= width:
                parts.append(part)
        left, *right = parts
        room = width - len("  ".join(parts)) - 6
        bar, done, rest, blocks = Text(), "━", "─", BLOCKS
        if not has_unicode():
            done, rest, blocks = "#", "-", ASCII_BLOCKS
        if room >= 10:
            n_bar = room - room // 3
            n_done = n_bar * self._step // max(self._steps, 1)
            bar = Text.assemble("  ", (done * n_done, "green"), (rest * (n_bar - n_done), "dim"), "  ")
            bar.append(sparkline(self._curve.smooth, room // 3, blocks), "cyan")
        line = Text.assemble(left, bar, "  ", "  ".join(right), no_wrap=True, overflow="crop")
        line.truncate(width)
        return line
