"""The whole terminal: what keys tell a run, what is drawn of it, in any size; and all of it in a real terminal."""

import asyncio
import itertools
import json
import os
import queue
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scratchgpt.cli import cli
from scratchgpt.cli import train as train_command
from scratchgpt.training.child import Run
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
from tests.cli.test_commands import SMALL, children, log_rows, wait_until
from tests.world import TEXT, scratchgpt

pytest.importorskip("textual_plotext")
from textual.pilot import Pilot
from textual.widgets import Static

from scratchgpt.cli.tui import HELP, Watch

Act = Callable[[Watch, "StandIn", Pilot[None]], Awaitable[None]]


class StandIn(Run):
    """Stands in for a run: it says what a test puts, and keeps what it is told."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        self.heard: queue.SimpleQueue[Event | str | None] = queue.SimpleQueue()
        self.told: list[str] = []
        self.n_interrupted = 0

    def tell(self, line: str) -> None:
        """Keep the line."""
        self.told.append(line)

    def interrupt(self) -> None:
        """Count."""
        self.n_interrupted += 1

    def say(self, *events: Event) -> None:
        """Let the interface hear this."""
        for event in events:
            self.heard.put(event)


def started(run: Path = Path("run"), step: int = 0) -> Started:
    return Started(run, step, 2000, 804096, "cpu")


def steps(*numbers: int) -> Iterator[StepDone]:
    """Return steps of a run whose loss falls."""
    return (StepDone(n, 2 + 2 / (1 + n / 50) + n % 3 / 10, 1e-3, 1.0, 0.02, 768) for n in numbers)


def act_on(act: Act, size: tuple[int, int] = (80, 24)) -> None:
    """Run the interface without a terminal, and act on it."""

    async def run() -> None:
        child = StandIn()
        app = Watch(child)
        async with app.run_test(size=size) as pilot:
            await act(app, child, pilot)
            app.exit()

    asyncio.run(run())


async def seen(pilot: Pilot[None]) -> None:
    """Wait until what was said has been taken in and drawn."""
    app = pilot.app
    assert isinstance(app, Watch)
    app._look()  # noqa: SLF001 - rather than wait
    app._draw()  # noqa: SLF001
    await pilot.pause()


def text_of(app: Watch, name: str) -> str:
    return str(app.query_one(name, Static).content)


def test_keys_tell_the_run_what_they_mean() -> None:
    async def act(_: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        await pilot.press("p", "p", "g", "s", "e", "g")
        assert child.told == ["pause", "resume", 'sample {"seed": 0}', "save", "evaluate", 'sample {"seed": 1}']

    act_on(act)


@pytest.mark.slow
def test_no_key_is_dropped_while_events_pour_in() -> None:
    keys = random.Random(1).choices("pgse?", k=200)  # noqa: S311
    pauses = itertools.cycle(["pause", "resume"])
    numbers = itertools.count()
    meaning: dict[str, Callable[[], str]] = {
        "p": lambda: next(pauses),
        "g": lambda: f'sample {{"seed": {next(numbers)}}}',
        "s": lambda: "save",
        "e": lambda: "evaluate",
    }

    async def act(_: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started())
        for n in range(0, 200, 20):
            child.say(*steps(*range(n, n + 20)), Noted("so it is"), Sampled(n, "to be\n"))
            await pilot.press(*(key.replace("?", "question_mark") for key in keys[n : n + 20]))
        assert child.told == [meaning[key]() for key in keys if key in meaning]

    act_on(act)


def test_the_status_is_what_the_run_says() -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        assert text_of(app, "#status") == "starting"
        child.say(started(), *steps(*range(1, 31)))
        await seen(pilot)
        status = text_of(app, "#status")
        for expected in ("training", "step 30 of 2,000", "loss 3.250", "last ten 3.4", "lr 1.00e-03", "38.4k tokens/s"):
            assert expected in status
        for event, state in (
            (Sampled(30, "a"), "generating"),
            (Sampled(30, "", is_last=True), "training"),
            (Paused(30), "paused"),
            (Evaluating(30, 1, 4), "evaluating 25%"),
            (Evaluated(30, 2.5, 0.25, 10, is_whole=False), "paused"),
            (Resumed(30), "training"),
            (Ended(30, is_finished=False), "saved"),
        ):
            child.say(event)
            await seen(pilot)
            assert text_of(app, "#status").startswith(state)

    act_on(act)


def test_notes_and_texts_have_their_panels() -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        assert not app.query_one("#samples").display
        child.say(Saved(6, Path("run") / "step-6"), Evaluated(6, 2.5, 0.25, 10, is_whole=False), Noted("[red]\x1b[2J"))
        child.say(Sampled(7, "\n"), Sampled(7, "To be\x1b[2J[b]"), Sampled(7, "", is_last=True))
        await seen(pilot)
        notes = text_of(app, "#notes").split("\n")
        assert notes[0].startswith("step 6: saved in run")
        assert notes[1].startswith("step 6: validation loss 2.5000")
        assert notes[2] == "[red]\N{REPLACEMENT CHARACTER}[2J"
        assert text_of(app, "#text") == "── step 7 ──\n\nTo be\N{REPLACEMENT CHARACTER}[2J[b]\n"
        assert app.query_one("#samples").display
        await pilot.press("escape")
        assert not app.query_one("#samples").display

    act_on(act)


def test_help_opens_and_closes() -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        panel = app.query_one("#help", Static)
        assert not panel.display
        for opening, closing in (("question_mark", "escape"), ("question_mark", "question_mark")):
            await pilot.press(opening)
            assert panel.display
            assert str(panel.content) == HELP
            await pilot.press("s", closing)
            assert not panel.display
        assert child.told == ["save", "save"]

    act_on(act)


@pytest.mark.parametrize("size", [(80, 24), (20, 24), (20, 5), (8, 4), (1, 1), (200, 60)])
def test_curves_fit_a_terminal_of_any_size(size: tuple[int, int]) -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(), *steps(*range(1, 1001)), Evaluated(500, 2.5, 0.25, 10, is_whole=False))
        await seen(pilot)
        for other in ((80, 24), size):
            await pilot.resize_terminal(*other)
            await seen(pilot)
            drawn = [strip.text for strip in app.screen._compositor.render_strips()]  # noqa: SLF001
            assert len(drawn) == other[1]
            assert {len(line) for line in drawn} == {other[0]}
            assert ("⠒" in "".join(drawn)) == (other[1] >= 24)

    act_on(act, size)


@pytest.mark.parametrize("n_points", [0, 1, 2])
def test_few_points_are_a_curve_too(n_points: int) -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(), *steps(*range(7, 7 + n_points)), StepDone(9, float("nan"), 1e-3, 1.0, 0.02, 768))
        await seen(pilot)
        assert "nan" in text_of(app, "#status")

    act_on(act)


def test_a_run_that_goes_on_is_drawn_from_its_beginning(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": n, "loss": 3.0, "lr": 1e-3} for n in range(1, 9)]
    rows.insert(5, {"step": 5, "val_loss": 2.5, "val_accuracy": 0.5, "val_targets": 9, "val_whole": False})
    rows[6:6] = [{"step": 5, "event": "sampled", "text": "to "}, {"step": 5, "event": "note", "message": "so it was"}]
    rows[8:8] = [{"step": 5, "event": "sampled", "text": "be", "is_last": True}]
    rows[10:10] = [{"step": 6, "event": "started", "run": "r", "steps": 8, "n_parameters": 1, "device": "cpu"}]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, "[1]", '{"step": 6, "lo']), encoding="utf-8")

    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(tmp_path, 6))
        await seen(pilot)
        assert app._losses.steps == [1, 2, 3, 4, 5, 6]  # noqa: SLF001
        assert app._validation == ([5], [2.5])  # noqa: SLF001
        assert "so it was" in text_of(app, "#notes")
        assert text_of(app, "#text") == "── step 5 ──\nto be\n"

    act_on(act)


def test_quitting_waits_until_the_run_has_saved() -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        await pilot.press("q")
        assert child.told == ["stop"]
        assert text_of(app, "#status").startswith("saving, then quitting")
        assert app._exit is False  # noqa: SLF001
        await pilot.press("ctrl+c")
        assert child.n_interrupted == 1
        child.say(Saved(3, Path("run")), Ended(3, is_finished=False))
        child.heard.put(None)
        await pilot.pause(0.4)
        assert app._exit is True  # noqa: SLF001

    act_on(act)


def test_a_run_that_ended_can_be_looked_at(tmp_path: Path) -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(tmp_path), *steps(1, 2))
        child.heard.put("Error: it is over.")
        child.heard.put(None)
        await seen(pilot)
        assert text_of(app, "#status").startswith("ended")
        assert "Error: it is over." in text_of(app, "#notes")
        await pilot.press("q")
        assert app._exit is True  # noqa: SLF001

    act_on(act)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_command, "_has_terminal", lambda: True)
    monkeypatch.setitem(sys.modules, "scratchgpt.cli.tui", None)
    result = CliRunner().invoke(cli, ["train", "--tui"])
    assert result.exit_code == 2
    assert "pip install 'scratchgpt[tui]'" in result.stderr


def test_without_a_terminal_there_are_lines(prepared: Path) -> None:
    result = scratchgpt("train", "--tui", "--steps", "2", *SMALL, cwd=prepared)
    assert result.returncode == 0
    assert result.stderr == "Watching in lines and not with --tui, since there is no terminal here.\n"
    assert "step 2: validation loss" in result.stdout


class Terminal:
    """A program in a pseudo-terminal, and what is on its screen."""

    def __init__(self, folder: Path, *arguments: str, columns: int = 80) -> None:
        """Start `scratchgpt` with these arguments."""
        pty, pyte = pytest.importorskip("pty"), pytest.importorskip("pyte")
        self.screen = pyte.Screen(columns, 24)
        self._stream = pyte.ByteStream(self.screen)
        self._parent, child = pty.openpty()
        self.resize(columns)
        names = ("COLUMNS", "LINES", "LC_ALL", "LC_CTYPE")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        environment |= {"TERM": "xterm-256color", "OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"}
        command = [sys.executable, "-m", "scratchgpt", *arguments]
        streams = {"stdin": child, "stdout": child, "stderr": child}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **streams)
        os.close(child)

    def resize(self, columns: int, lines: int = 24) -> None:
        """Give the terminal another size."""
        fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
        fcntl.ioctl(self._parent, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)
        if hasattr(self, "process"):
            os.killpg(self.process.pid, signal.SIGWINCH)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._parent, keys.encode())

    def wait_for(self, *texts: str, gone: str = "\0") -> str:
        """Read what the program writes until all of this is on the screen and that is gone; return the screen."""
        deadline = time.monotonic() + 60
        while gone in self.shown or not all(text in self.shown for text in texts):
            assert time.monotonic() < deadline, self.shown
            assert self.read(), self.shown
        return self.shown

    def read(self) -> bytes:
        """Return what the program writes next; nothing if it has ended."""
        try:
            written = os.read(self._parent, 65536)
        except OSError:  # how Linux says that the other end has been closed
            return b""
        self._stream.feed(written)
        return written

    @property
    def shown(self) -> str:
        """The screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def end(self) -> int:
        """Read until the program ends; return its exit code."""
        while self.read():
            pass
        return self.process.wait(60)

    def close(self) -> None:
        """End the program, whatever it is at."""
        self.process.kill()
        self.process.wait()
        os.close(self._parent)


@pytest.fixture
def terminal(prepared: Path) -> Iterator[Terminal]:
    """A run without end in a real terminal."""
    terminal = Terminal(prepared, "train", "--run", "r", "--steps", "1000000", *SMALL, "--eval-windows", "1", "--tui")
    yield terminal
    terminal.close()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder with a prepared text."""
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8")
    assert scratchgpt("prepare", "fox.txt", cwd=tmp_path).returncode == 0
    return tmp_path


@pytest.mark.slow
def test_a_run_lived_through_in_a_real_terminal(terminal: Terminal, prepared: Path) -> None:
    terminal.wait_for("of 1,000,000", "p Pause", "validation")
    terminal.press("p")
    terminal.wait_for("paused")
    time.sleep(0.5)
    before = len(log_rows(prepared / "r"))
    terminal.press("e" * 200)
    wait_until(lambda: terminal.read() != b"" and len(log_rows(prepared / "r")) >= before + 200)
    terminal.press("g?")
    terminal.wait_for("p  pause the run", "─" * 80)  # the help, and the border of the panel of samples
    terminal.press("\x1b")
    terminal.wait_for(gone="p  pause the run")
    terminal.resize(20)
    assert max(len(line) for line in terminal.wait_for("paused", "last ten").split("\n")) <= 20
    terminal.resize(80)
    terminal.press("p")
    terminal.wait_for("training")
    terminal.press("q")
    assert terminal.end() == 0
    assert "Go on with: scratchgpt train --resume r" in terminal.shown
    assert len([row for row in log_rows(prepared / "r") if "val_loss" in row]) >= 200
    assert last_step(prepared) == max(row["step"] for row in log_rows(prepared / "r"))


@pytest.mark.slow
@pytest.mark.parametrize("paused", [False, True])
def test_an_interface_that_is_killed_costs_no_steps(*, paused: bool, terminal: Terminal, prepared: Path) -> None:
    terminal.wait_for("of 1,000,000")
    if paused:
        terminal.press("p")
        terminal.wait_for("paused")
    (run,) = children(terminal.process.pid)
    terminal.process.kill()
    terminal.end()
    wait_until(lambda: not Path(f"/proc/{run}").exists())
    assert last_step(prepared) == max(row["step"] for row in log_rows(prepared / "r"))


def last_step(folder: Path) -> int:
    """Return the step of the last checkpoint."""
    return int((folder / "r" / "checkpoints" / "last").read_text(encoding="utf-8").removeprefix("step-"))


@pytest.mark.slow
def test_the_picture_is_drawn_by_a_script(prepared: Path) -> None:
    script = Path(__file__).parent.parent.parent / "scripts" / "draw_tui"
    arguments: list[str | Path] = ["--text", prepared / "fox.txt", "--steps", "8", "--out", prepared / "tui.svg"]
    subprocess.run([sys.executable, script, *arguments], cwd=prepared, check=True, capture_output=True, timeout=120)
    picture = (prepared / "tui.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    assert "step 8 of 8" in picture
    assert "whole validation set" in picture
    assert "font-face" not in picture
