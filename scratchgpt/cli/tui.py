"""`scratchgpt train --tui`: a run in the whole terminal.

The run is a child process, `scratchgpt train --json --control` with the same arguments: what it does comes as lines of
events, what it is told goes as lines of commands. It never waits for what is drawn here. If this process is killed, the
run finds that nobody reads its events: it saves and ends.

With --attach, the run belongs to another program, and its log is followed. Then there are no commands.
"""

import collections
import contextlib
import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.geometry import Size
from textual.widgets import Static

from scratchgpt.cli import panels
from scratchgpt.cli.chart import Chart, Picture, Series
from scratchgpt.cli.curve import heights
from scratchgpt.cli.seen import SMALL, Seen, before_start
from scratchgpt.training import logs, runs
from scratchgpt.training.attached import Anew, Attached, Logged
from scratchgpt.training.child import OWN, Run
from scratchgpt.training.events import (
    Ended,
    Evaluated,
    Evaluating,
    Event,
    Noted,
    Paused,
    Resumed,
    Sampled,
    Saved,
    Started,
    StepDone,
)
from scratchgpt.training.journal import Journal

INTERVAL = 0.25
"""Seconds between two looks at what the run has said."""
MOST_AT_ONCE = 5000
"""Events that are taken in at one look."""
SHARE = 0.01
"""Of one core, what all this may take on average: curves are drawn as often as that allows, ..."""
PATIENCE = 5.0
"""... and at least this often, in seconds; their numbers are in the status every second."""
ANSWERS: dict[str, tuple[type[Event], ...]] = {
    "pausing": (Paused,),
    "resuming": (Resumed,),
    "generating": (Sampled, Noted),
    "saving": (Saved, Noted),
    "evaluating": (Evaluating, Evaluated),
}
"""The events by which a run shows that it obeys a command."""


class Watch(App[None]):
    """Draws what a run says, and tells it what keys mean."""

    CSS = """
    Screen { overflow: hidden; }
    #status, #progress { padding: 0 1; background: $panel; }
    #status { height: auto; }
    #progress { height: 1; }
    #charts { height: 3fr; }
    Chart { border-top: solid $primary-muted; border-title-color: $text-muted; }
    #plot { width: 2fr; }
    #small { width: 1fr; margin: 0 0 0 1; }
    #samples { height: 2fr; padding: 0 1; border-top: solid $primary; }
    #log { height: 4; padding: 0 1; background: $surface; }
    .one-line { text-wrap: nowrap; text-overflow: ellipsis; }
    #help { height: auto; padding: 0 1; background: $panel; }
    #keys { dock: bottom; height: 1; padding: 0 1; background: $panel; link-style: none; link-color: $text; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding("question_mark" if key == "?" else key, action, label) for key, label, action in panels.KEYS),
        Binding("escape", "close", "Close"),
        Binding("ctrl+c,ctrl+q", "quit", "Quit", priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, source: Run | Attached) -> None:
        """Watch this run."""
        super().__init__()
        self._source = source
        self._run = source if isinstance(source, Run) else None  # that obeys commands
        self._seen = Seen()
        self._shown: tuple[Journal, int] | None = None  # the journal and its version on the screen
        self._room = Size(80, 24)  # of the terminal
        self._open: set[str] = set()  # the panels that are open: help, samples
        self._n_texts = 0  # of which the panel has known
        self._wants_text = False  # that was asked for by its key
        self._seed = 0
        self._asked: list[str] = []  # what the run was told and has not begun to do
        self._asked_to_pause = False
        self._asked_to_quit = False
        self._has_ended = False
        self._is_log = False
        self._drawn_at = (0.0, 0.0)  # on the clock, and in seconds of computing
        self.said: collections.deque[str] = collections.deque(maxlen=5)  # to people, at last

    def compose(self) -> ComposeResult:
        """Lay out."""
        yield Static(id="status", markup=False)
        yield Static(id="progress", markup=False)
        with VerticalScroll(id="help"):
            yield Static(panels.HELP if self._run else panels.HELP_ATTACHED, id="about", markup=False)
        with Horizontal(id="charts"):
            yield Chart(id="plot")
            with Vertical(id="small"):
                yield from (Chart(id=name) for name in SMALL)
        with VerticalScroll(id="samples"):
            yield Static(id="text", markup=False)
        with VerticalScroll(id="log"):
            yield Static(id="notes", markup=False)
        yield Static(id="keys")

    def on_mount(self) -> None:
        """Begin to listen."""
        self.query_one("#plot").border_title = "loss: • step  ⠒ mean  x validation"
        for name, title in SMALL.items():
            self.query_one(f"#{name}").border_title = title
        self._room = self.size
        self.set_interval(INTERVAL, self._look)
        self.set_interval(1, self._draw_status)
        self._lay_out()
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        """Give the room to what matters most."""
        self._room = event.size
        self._lay_out()
        self._draw()

    def _lay_out(self) -> None:
        """Show what there is room for."""
        width, height = self._room
        for name, is_visible in panels.visible(width, height, self._open).items():
            self.query_one(f"#{name}").display = is_visible
        is_low = height < panels.LOW
        self.query_one("#log").styles.height = panels.log_rows(height)
        self.query_one("#notes").set_class(is_low, "one-line")
        self.query_one("#help").styles.height = "1fr" if is_low else "auto"
        self.query_one("#keys", Static).update(panels.key_line(width - 2, is_commanded=self._run is not None))

    def _look(self) -> None:
        """Take in all that the run has said; draw it at once, but steps only as often as they may cost."""
        heard: list[Event | Logged | Anew | str | None] = []
        with contextlib.suppress(queue.Empty):
            while len(heard) < MOST_AT_ONCE:
                heard.append(self._source.heard.get_nowait())
        kinds = {type(event) for event in map(self._take_in, heard) if event}
        if heard:
            self._show_words()
        if kinds & {Started, Evaluated, Paused, Ended} or (StepDone in kinds and self._may_draw()):
            self._draw()
        elif kinds & {Evaluating, Sampled, Resumed, Saved, Noted}:
            self._draw_status()

    def _may_draw(self) -> bool:
        """Tell whether drawing steps now stays within what it may cost."""
        then, computed = self._drawn_at
        passed = time.monotonic() - then
        return passed >= PATIENCE or time.process_time() - computed <= SHARE * passed

    def _take_in(self, item: Event | Logged | Anew | str | None) -> Event | None:
        """Learn from what the run has said; return the event if it is one."""
        match item:
            case None:
                self._end()
            case str():
                self.said.append(item)
                self._seen.journal.add_note(item)
            case Anew():
                self._seen = Seen()
            case Logged():
                self._seen.learn(item.event, item.time)
                return item.event
            case _:
                if isinstance(item, Started):
                    for earlier in before_start(item.run / logs.NAME):
                        self._seen.learn(earlier.event, earlier.time)
                self._seen.learn(item, time.monotonic())
                self._asked = [command for command in self._asked if not isinstance(item, ANSWERS[command])]
                return item
        return None

    def _show_words(self) -> None:
        """Show notes and texts. A text that was not asked for opens no panel that hides the chart."""
        journal = self._seen.journal
        if (journal, journal.version) == self._shown:
            return
        self._shown = (journal, journal.version)
        self.query_one("#notes", Static).update("\n".join(journal.notes))
        self.query_one("#log", VerticalScroll).scroll_end(animate=False)
        texts = (f"── step {step:,} ──\n{text}\n" for step, text in journal.texts)
        self.query_one("#text", Static).update("\n".join(texts))
        self.query_one("#samples", VerticalScroll).scroll_end(animate=False)
        if journal.n_texts > self._n_texts and (self._wants_text or self._room.height >= panels.LOW):
            self._open.add("samples")
            self._lay_out()
            self._draw_status()
        if journal.n_texts != self._n_texts:
            self._n_texts, self._wants_text = journal.n_texts, False

    def _end(self) -> None:
        """The run has ended: so do we, if we were asked to."""
        self._has_ended = True
        self._seen.journal.condition.end()
        if self._asked_to_quit:
            self.exit()
            return
        for command in self._asked:
            self._seen.journal.add_note(f"The run has ended before {command}.")
        self._asked.clear()
        self._seen.journal.add_note("The run has ended. q quits.")

    def _draw_status(self) -> None:
        width, height = max(self._room.width - 2, 1), self._room.height
        parts = [self._state(), *self._seen.numbers()]
        if height < panels.LOW and (self._open or height >= panels.LOWEST):  # one line, for what fits
            while len("  ".join(parts)) > width and len(parts) > 1:
                parts.pop()
        self.query_one("#status", Static).update("  ".join(parts))
        self.query_one("#progress", Static).update(self._progress(width))

    def _state(self) -> str:
        """Return what the run is at, and what it was told."""
        word = self._seen.journal.condition.word
        if isinstance(self._source, Attached):
            state = runs.state(self._source.run, self._seen.journal.condition, is_complete=self._seen.is_complete)
            word = f"{state.word} in another program" if state.is_alive else state.word
        if self._asked_to_quit:
            word = "saving, then quitting"
        return ", ".join([word, *(f"{command} ..." for command in dict.fromkeys(self._asked))])

    def _progress(self, width: int) -> Text:
        """Return a bar with the steps that are made, and the time that is left."""
        started, step = self._seen.started, self._seen.step
        if started is None:
            return Text()
        done = min((step.step if step else started.step) / max(started.steps, 1), 1.0)
        left = self._seen.pace.left(step.step, started.steps) if step and done < 1 else ""
        words = f" {done:.0%}" + (f"  {left} left" if left else "")
        n_cells = max(width - len(words), 0)
        n_done = int(done * n_cells)
        return Text.assemble(("━" * n_done, "green"), ("─" * (n_cells - n_done), "dim"), words, no_wrap=True)

    def _draw(self) -> None:
        """Draw the status and the curves."""
        self._drawn_at = (time.monotonic(), time.process_time())
        self._draw_status()
        curve, validation = self._seen.losses, self._seen.validation
        plot = self.query_one("#plot", Chart)
        dots = Series(curve.steps, curve.raw, "dot", "gray")
        line = Series(curve.steps, curve.smooth, "braille", "cyan")
        low, high = heights(curve, *validation)
        low = max(low, min((loss for loss in [*curve.raw, *validation[1]] if loss > 0), default=0.01) / 2)
        plot.show(Picture(low, max(low, high), [dots, line, Series(*validation, "x", "orange")], is_log=self._is_log))
        if self.query_one("#small").display:
            for name, curve in self._seen.small.items():
                values = curve.raw if name == "lr" else curve.smooth
                line = Series(curve.steps, values, "braille", "cyan")
                low, high = min(values, default=0.0), max(values, default=1.0)
                self.query_one(f"#{name}", Chart).show(Picture(low, high, [line]))

    def action_tell(self, line: str) -> None:
        """Tell the run a command."""
        self._tell(line, {"save": "saving", "evaluate": "evaluating"}[line])

    def _tell(self, line: str, doing: str) -> bool:
        """Tell the run a command, and show at once what it asks for; say why if the run cannot obey."""
        if self._run and not self._has_ended:
            self._run.tell(line)
            self._asked.append(doing)
            self._draw_status()
            return True
        self._seen.journal.add_note(
            "The run has ended: it obeys no commands."
            if self._run
            else "This is only a view of the run: it cannot command the program that trains it."
        )
        self._show_words()
        return False

    def action_pause(self) -> None:
        """Pause, or go on."""
        line, doing = ("resume", "resuming") if self._asked_to_pause else ("pause", "pausing")
        if self._tell(line, doing):
            self._asked_to_pause = not self._asked_to_pause

    def action_generate(self) -> None:
        """Ask for a text, each time another one."""
        if self._tell(f'sample {{"seed": {self._seed}}}', "generating"):
            self._wants_text = True
            self._seed += 1

    def action_log(self) -> None:
        """Draw losses on a logarithmic axis, or on a linear one."""
        self._is_log = not self._is_log
        self._draw()

    def action_texts(self) -> None:
        """Open the panel of texts, or close it."""
        self._toggle("samples")

    def action_help(self) -> None:
        """Open the help, or close it."""
        self._toggle("help")

    def action_close(self) -> None:
        """Close the help, or else the panel of texts."""
        for panel in [panel for panel in ("help", "samples") if panel in self._open][:1]:
            self._toggle(panel)

    def _toggle(self, panel: str) -> None:
        self._open ^= {panel}
        self._lay_out()
        self._draw()

    async def action_quit(self) -> None:
        """Let a run of ours save and end, and then quit."""
        if self._run is None or self._has_ended:
            self.exit()
        elif self._asked_to_quit:
            self._run.interrupt()
        else:
            self._asked_to_quit = True
            self._run.tell("stop")
            self._draw_status()


def watch(arguments: Sequence[str]) -> int:
    """Train with these arguments of ours, in the whole terminal; return the exit code."""
    own = [argument for argument in arguments if argument != "--tui"]
    run = Run([*OWN, *own, "--json", "--control"])
    app = Watch(run)
    app.run()
    run.tell("stop")
    print(*app.said, sep="\n")  # noqa: T201 - what the run has said to people stays
    return run.exit_code


def attach(run: Path) -> None:
    """Watch a run of another program in the whole terminal."""
    Watch(Attached(run)).run()
