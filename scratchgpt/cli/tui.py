"""`scratchgpt train --tui`: a run in the whole terminal.

The run is a child process, `scratchgpt train --json --control` with the same arguments: what it does comes as lines of
events, what it is told goes as lines of commands. It never waits for what is drawn here. If this process is killed, the
run finds that nobody reads its events: it saves and ends.
"""

import collections
import contextlib
import itertools
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import App, ComposeResult, RenderResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static
from textual_plotext import PlotextPlot

from scratchgpt.cli.curve import Curve, heights
from scratchgpt.cli.render import Pace
from scratchgpt.errors import DataError
from scratchgpt.training import logs
from scratchgpt.training.child import OWN, Run
from scratchgpt.training.events import Ended, Evaluated, Evaluating, Event, Paused, Resumed, Sampled, Started, StepDone
from scratchgpt.training.journal import Journal

INTERVAL = 0.25
"""Seconds between two looks at what the run has said."""
SHARE = 0.01
"""Of one core, what all this may take on average: curves are drawn as often as that allows, ..."""
PATIENCE = 5.0
"""... but not more seldom than this, in seconds; their numbers are in the status every second."""
HELP = """\
p  pause the run, or let it go on
g  generate text with the present weights
s  save a checkpoint
e  evaluate on the validation windows
q  save, then quit; again and again: quit at once
?  this help
Esc  close a panel

Dots are the loss of single steps, the line is their running mean, crosses are losses on the validation windows."""


class Plot(PlotextPlot):
    """The curves, where there is room for them."""

    def render(self) -> RenderResult:
        """Draw."""
        return super().render() if self.size.width >= 16 and self.size.height >= 5 else ""


class Watch(App[None]):
    """Draws what a run says, and tells it what keys mean."""

    CSS = """
    #status { height: auto; padding: 0 1; background: $panel; }
    #plot { height: 3fr; min-height: 4; }
    #samples { height: 2fr; min-height: 3; display: none; padding: 0 1; border-top: solid $primary; }
    #log { height: 4; padding: 0 1; background: $surface; }
    #help { display: none; height: auto; padding: 0 1; background: $panel; }
    .open { display: block !important; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("p", "pause", "Pause"),
        ("g", "generate", "Generate"),
        ("s", "tell('save')", "Save"),
        ("e", "tell('evaluate')", "Evaluate"),
        ("q", "quit", "Quit"),
        ("question_mark", "help", "Help"),
        Binding("escape", "close", "Close", show=False),
        Binding("ctrl+c,ctrl+q", "quit", "Quit", show=False, priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, run: Run) -> None:
        """Watch this run."""
        super().__init__()
        self._child = run
        self._started: Started | None = None
        self._step: StepDone | None = None
        self._losses = Curve()
        self._validation: tuple[list[int], list[float]] = ([], [])
        self._last_losses: collections.deque[float] = collections.deque(maxlen=10)
        self._pace = Pace()
        self._journal = Journal()
        self._shown = 0  # the journal's version that is on the screen
        self._n_samples = 0
        self._asked_to_pause = False
        self._asked_to_quit = False
        self._has_ended = False
        self._drawn_at = (0.0, 0.0)  # on the clock, and in seconds of computing
        self.said: collections.deque[str] = collections.deque(maxlen=5)  # to people, at last

    def compose(self) -> ComposeResult:
        """Lay out."""
        yield Static(id="status", markup=False)
        yield Static(HELP, id="help", markup=False)
        yield Plot(id="plot")
        with VerticalScroll(id="samples"):
            yield Static(id="text", markup=False)
        with VerticalScroll(id="log"):
            yield Static(id="notes", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to listen."""
        self.query_one(Plot).plt.title("loss: • of a step, ⠒ mean, x validation")
        self.set_interval(INTERVAL, self._look)
        self.set_interval(1, self._draw_status)
        self._draw()

    def _look(self) -> None:
        """Take in all that the run has said; draw it at once, but steps only as often as they may cost."""
        heard = []
        with contextlib.suppress(queue.Empty):
            while True:
                heard.append(self._child.heard.get_nowait())
        for item in heard:
            if item is None:
                self._end()
            elif isinstance(item, str):
                self.said.append(item)
                self._journal.add_note(item)
            else:
                self._take_in(item)
        if heard:
            self._show_words(has_new_text=any(isinstance(item, Sampled) for item in heard))
        kinds = {type(item) for item in heard}
        if kinds & {Evaluated, Paused, Ended} or (StepDone in kinds and self._may_draw()):
            self._draw()
        elif kinds & {Evaluating, Sampled, Resumed}:
            self._draw_status()

    def _may_draw(self) -> bool:
        """Tell whether drawing steps now stays within what it may cost."""
        then, computed = self._drawn_at
        passed = time.monotonic() - then
        return passed >= PATIENCE or time.process_time() - computed <= SHARE * passed

    def _take_in(self, event: Event) -> None:
        """Learn from an event; when a run continues, first from its log."""
        if isinstance(event, Started):
            self._started = event
            for earlier in before_start(event.run / logs.NAME):
                self._learn(earlier)
        self._pace.see(event)
        self._learn(event)

    def _learn(self, event: Event) -> None:
        self._journal.see(event)
        match event:
            case StepDone():
                self._step = event
                self._losses.add(event.step, event.loss)
                self._last_losses.append(event.loss)
            case Evaluated() if not event.is_whole:
                self._validation[0].append(event.step)
                self._validation[1].append(event.loss)

    def _show_words(self, *, has_new_text: bool) -> None:
        """Show notes and texts; a new text opens its panel."""
        if self._journal.version == self._shown:
            return
        self._shown = self._journal.version
        self.query_one("#notes", Static).update("\n".join(self._journal.notes))
        self.query_one("#log", VerticalScroll).scroll_end(animate=False)
        texts = (f"── step {step:,} ──\n{text}\n" for step, text in self._journal.texts)
        self.query_one("#text", Static).update("\n".join(texts))
        if has_new_text:
            self.query_one("#samples").add_class("open")
        self.query_one("#samples", VerticalScroll).scroll_end(animate=False)

    def _end(self) -> None:
        """The run has ended: so do we, if we were asked to."""
        self._has_ended = True
        self._journal.condition.end()
        if self._asked_to_quit:
            self.exit()
        else:
            self._journal.add_note("The run has ended. q quits.")

    def _draw_status(self) -> None:
        self.query_one("#status", Static).update("  ".join(self._status()))

    def _draw(self) -> None:
        """Draw the status and the curves."""
        self._drawn_at = (time.monotonic(), time.process_time())
        self._draw_status()
        plot = self.query_one(Plot)
        plot.plt.clear_data()
        curve, every = self._losses, 1 + 2 * len(self._losses.steps) // max(plot.size.width, 1)
        if curve.steps:
            plot.plt.scatter(curve.steps[::every], curve.raw[::every], marker="dot", color="gray")
            plot.plt.plot(curve.steps[::every], curve.smooth[::every], marker="braille", color="cyan")
        if self._validation[0]:
            plot.plt.scatter(*self._validation, marker="x", color="orange")
        steps = curve.steps + self._validation[0] or [0]
        ticks = sorted({float(min(steps) + (max(steps) - min(steps)) * part // 4) for part in range(5)})
        plot.plt.ylim(*heights(curve, *self._validation))
        plot.plt.xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        plot.refresh()

    def _status(self) -> Iterable[str]:
        """Return what there is to say in numbers."""
        yield "saving, then quitting" if self._asked_to_quit else self._journal.condition.word
        if self._started is None or self._step is None:
            return
        step, steps = self._step.step, self._started.steps
        yield f"step {step:,} of {steps:,}"
        yield f"loss {self._step.loss:.3f}"
        yield f"last ten {sum(self._last_losses) / len(self._last_losses):.3f}"
        yield f"lr {self._step.learning_rate:.2e}"
        yield f"{self._step.n_tokens / self._step.seconds / 1e3:,.1f}k tokens/s"
        if memory := self._step.device_bytes or self._step.resident_bytes:
            yield f"{memory / 1e6:,.0f} MB"
        if left := self._pace.left(step, steps):
            yield f"{left} left"

    def action_tell(self, line: str) -> None:
        """Tell the run a command."""
        self._child.tell(line)

    def action_pause(self) -> None:
        """Pause, or go on."""
        self._asked_to_pause = not self._asked_to_pause
        self._child.tell("pause" if self._asked_to_pause else "resume")

    def action_generate(self) -> None:
        """Ask for a text, each time another one."""
        self._child.tell(f'sample {{"seed": {self._n_samples}}}')
        self._n_samples += 1

    def action_help(self) -> None:
        """Open the help, or close it."""
        self.query_one("#help").toggle_class("open")

    def action_close(self) -> None:
        """Close the help, or else the panel of samples."""
        panels = [self.query_one(name) for name in ("#help", "#samples")]
        for panel in [panel for panel in panels if panel.has_class("open")][:1]:
            panel.remove_class("open")

    async def action_quit(self) -> None:
        """Let the run save and end, and then quit."""
        if self._has_ended:
            self.exit()
        elif self._asked_to_quit:
            self._child.interrupt()
        else:
            self._asked_to_quit = True
            self._child.tell("stop")
            self._draw_status()


def before_start(log: Path) -> Iterator[Event]:
    """Yield the events that a log holds from before its last start."""
    try:
        starts = [n for n, row in enumerate(logs.read(log)) if row and row.get("event") == "started"]
        for row in itertools.islice(logs.read(log), max(starts, default=0)):
            if row and (event := logs.event(row)):
                yield event
    except DataError:  # the log was removed; the run itself will fail
        return


def watch(arguments: Sequence[str]) -> int:
    """Train with these arguments of ours, in the whole terminal; return the exit code."""
    own = [argument for argument in arguments if argument != "--tui"]
    run = Run([*OWN, *own, "--json", "--control"])
    app = Watch(run)
    app.run()
    run.tell("stop")
    print(*app.said, sep="\n")  # noqa: T201 - what the run has said to people stays
    return run.exit_code
