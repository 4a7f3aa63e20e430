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
from scratchgpt.errors import TrainingError
from scratchgpt.lock import FolderLock
from scratchgpt.training import logs
from scratchgpt.training.attached import Attached
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

from scratchgpt.cli.chart import Chart, Picture
from scratchgpt.cli.panels import HELP, HELP_ATTACHED
from scratchgpt.cli.seen import SMALL as SMALL_CHARTS
from scratchgpt.cli.tui import Watch

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
        for key, is_shown in (("escape", False), ("t", True), ("t", False)):
            assert app.query_one("#samples").display is not is_shown
            await pilot.press(key)
            assert app.query_one("#samples").display is is_shown

    act_on(act)


@pytest.mark.parametrize(
    ("key", "shown", "answer"),
    [
        ("s", "saving ...", Saved(3, Path("run"))),
        ("s", "saving ...", Noted("step 3: it is saved already")),
        ("e", "evaluating ...", Evaluating(3, 1, 4)),
        ("g", "generating ...", Sampled(3, "to be")),
        ("g", "generating ...", Noted("step 3: no sample: no such letter")),
        ("p", "pausing ...", Paused(3)),
    ],
)
def test_a_key_is_seen_to_be_heard_before_the_run_answers(key: str, shown: str, answer: Event) -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(), *steps(1, 2, 3))
        await seen(pilot)
        await pilot.press(key)
        assert text_of(app, "#status").startswith(f"training, {shown}")
        child.say(*steps(4))
        await seen(pilot)
        assert shown in text_of(app, "#status")
        child.say(answer)
        await seen(pilot)
        assert shown not in text_of(app, "#status")

    act_on(act)


def test_a_key_that_comes_too_late_is_answered() -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(), *steps(1))
        await seen(pilot)
        await pilot.press("s")
        child.heard.put("Error: Cannot save run/step-1: No space left on device.")
        child.heard.put(None)
        await seen(pilot)
        for sentence in ("No space left on device.", "The run has ended before saving."):
            assert sentence in text_of(app, "#notes")
        assert "..." not in text_of(app, "#status")
        for key in "pgse":
            await pilot.press(key)
        assert child.told == ["save"]
        assert text_of(app, "#notes").count("it obeys no commands") == 4

    act_on(act)


def screen(app: Watch) -> list[str]:
    """Return the rows of the terminal."""
    return [strip.text for strip in app.screen._compositor.render_strips()]  # noqa: SLF001


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (60, 16), (40, 12), (39, 9), (39, 8), (20, 5), (12, 4), (10, 3)])
def test_keys_and_numbers_are_visible_in_any_size(size: tuple[int, int]) -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(), *steps(*range(1, 1001)), Evaluated(500, 2.5, 0.25, 10, is_whole=False))
        child.say(*(Noted("a long note, " * 20) for _ in range(9)))
        await seen(pilot)
        for other in ((10, 3), (200, 60), size):
            await pilot.resize_terminal(*other)
            await pilot.pause()
        rows = screen(app)
        assert "training" in rows[0]
        assert {key for key in "pgsetlq?" if key in rows[-1]} >= {"?"} | ({*"pgsetlq"} if size[0] >= 27 else set())
        n_curves = sum("⠒" in row or "⠉" in row or "⣀" in row for row in rows[3:])
        assert (n_curves > 0) == (size[1] >= 9), rows
        assert ("gradient norm" in "".join(rows)) == (size == (120, 36))
        await pilot.press("g")
        child.say(Sampled(1000, "To be or not"), Sampled(1000, "", is_last=True))
        await seen(pilot)
        rows = screen(app)
        assert any("To be" in row for row in rows) == (size[1] >= 5), rows
        assert "?" in rows[-1]
        await pilot.press("escape", "question_mark")
        await pilot.pause()
        assert any("pause the" in row for row in screen(app)) == (size[1] >= 5)

    act_on(act, (80, 24))


def picture(app: Watch, chart: str) -> Picture:
    picture = app.query_one(f"#{chart}", Chart).picture
    assert picture is not None
    return picture


def test_small_charts_have_what_they_say() -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(), *(StepDone(n, 2.0, n * 1e-5, 1 / n, 0.02, 768) for n in range(1, 101)))
        await seen(pilot)
        lr, grad_norm, speed = (picture(app, name) for name in SMALL_CHARTS)
        assert (lr.low, lr.high) == (1e-5, 1e-3)
        assert grad_norm.high == 1
        assert speed.high == pytest.approx(38_400)
        await pilot.press("l")
        assert picture(app, "plot").is_log

    act_on(act, (120, 36))


def test_help_opens_and_closes() -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        panel = app.query_one("#help")
        assert not panel.display
        assert text_of(app, "#about") == HELP
        for opening, closing in (("question_mark", "escape"), ("question_mark", "question_mark")):
            await pilot.press(opening)
            assert panel.display
            await pilot.press("s", closing)
            assert not panel.display
        assert child.told == ["save", "save"]

    act_on(act)


@pytest.mark.parametrize("size", [(80, 24), (20, 24), (20, 5), (8, 4), (1, 1), (200, 60)])
def test_lines_fit_a_terminal_of_any_size(size: tuple[int, int]) -> None:
    async def act(app: Watch, child: StandIn, pilot: Pilot[None]) -> None:
        child.say(started(), *steps(*range(1, 1001)), Evaluated(500, 2.5, 0.25, 10, is_whole=False))
        await seen(pilot)
        for other in ((80, 24), size):
            await pilot.resize_terminal(*other)
            await seen(pilot)
            drawn = screen(app)
            assert len(drawn) == other[1]
            assert {len(line) for line in drawn} == {other[0]}

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
        assert app._seen.losses.steps == [1, 2, 3, 4, 5, 6]  # noqa: SLF001
        assert app._seen.validation == ([5], [2.5])  # noqa: SLF001
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


def log_events(run: Path, *said: Event) -> None:
    """Append events to the log of a run, as its trainer does."""
    run.mkdir(exist_ok=True)
    log = logs.Log(run / logs.NAME, step=10**9)
    for event in said:
        log.write(event)
    log.close()


def attached_to(run: Path, act: Callable[[Watch, Pilot[None]], Awaitable[None]], size: tuple[int, int]) -> None:
    """Attach the interface to a run without a terminal, and act on it."""

    async def begin() -> None:
        app = Watch(Attached(run))
        async with app.run_test(size=size) as pilot:
            await act(app, pilot)
            app.exit()

    asyncio.run(begin())


async def shown(app: Watch, pilot: Pilot[None], name: str, text: str) -> None:
    """Wait until a text is on the screen."""
    deadline = time.monotonic() + 60
    while text not in text_of(app, name):
        assert time.monotonic() < deadline, text_of(app, name)
        await pilot.pause(0.1)


def test_a_run_of_another_program_is_watched_by_its_log(tmp_path: Path) -> None:
    run = tmp_path / "run"
    log_events(run, started(run), *steps(*range(1, 31)), Evaluated(30, 2.5, 0.25, 10, is_whole=False))
    log_events(run, Sampled(30, "To be"), Sampled(30, "", is_last=True))

    async def act(app: Watch, pilot: Pilot[None]) -> None:
        await shown(app, pilot, "#status", "stopped  step 30 of 2,000  loss 3.250")
        assert "step 30: validation loss 2.5000" in text_of(app, "#notes")
        assert text_of(app, "#text") == "── step 30 ──\nTo be\n"
        with FolderLock(run, TrainingError("busy")):
            await shown(app, pilot, "#status", "training in another program")
            log_events(run, *steps(31), Paused(31))
            os.utime(run / logs.NAME, (0, 0))
            await shown(app, pilot, "#status", "paused in another program  step 31 of 2,000")
            before = sorted((path.name, path.stat().st_mtime_ns) for path in run.iterdir())
            await pilot.press("p", "g", "s", "e")
            assert text_of(app, "#notes").count("it cannot command the program that trains it") == 4
            assert sorted((path.name, path.stat().st_mtime_ns) for path in run.iterdir()) == before
            log_events(run, Resumed(31), *steps(32), Ended(32, is_finished=True, is_early=True))
        await shown(app, pilot, "#status", "finished  step 32 of 2,000")
        assert not {"p Pause", "s Save"} & {*text_of(app, "#keys").split("  ")}
        await pilot.press("question_mark")
        assert text_of(app, "#about") == HELP_ATTACHED
        (run / logs.NAME).unlink()
        log_events(run, started(run, 7), *steps(8))
        await shown(app, pilot, "#status", "stopped  step 8 of 2,000")
        assert app._seen.losses.steps == [8]  # noqa: SLF001 - none of the old log
        await pilot.press("q")
        assert app._exit is True  # noqa: SLF001

    attached_to(run, act, (120, 36))


def test_logs_of_older_versions_can_be_attached_to(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": null}\n', encoding="utf-8")
    about = {"train": {"steps": 9}, "parameters": 7, "plan": {"device": "cpu"}}
    (tmp_path / "run.json").write_text(json.dumps(about), encoding="utf-8")

    async def act(app: Watch, pilot: Pilot[None]) -> None:
        await shown(app, pilot, "#status", "stopped  step 2 of 9  loss nan")
        (tmp_path / "log.jsonl").unlink()
        await shown(app, pilot, "#notes", "the run was removed")

    attached_to(tmp_path, act, (80, 24))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--tui --attach nothing", "There is no run nothing; `scratchgpt runs` lists"),
        ("--tui --attach", "There is no run in runs; run `scratchgpt train` first"),
        ("--attach here", "--attach goes with --tui"),
        ("--plain --attach here", "--attach goes with --tui"),
        ("--tui --attach here --steps 5 --log csv", "--attach only watches a run; leave out --log, --steps."),
        ("--tui --attach here", "draws in a whole terminal, but there is no terminal here"),
    ],
)
def test_what_cannot_be_attached_to(arguments: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "log.jsonl").touch()
    result = scratchgpt("train", *arguments.split(), cwd=tmp_path)
    assert result.returncode == 2
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_dumb_terminal_has_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert not train_command._has_terminal()  # noqa: SLF001
    assert "since a terminal of the kind dumb cannot be drawn in." in capsys.readouterr().err


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


@pytest.mark.slow
def test_attaching_to_a_run_of_another_terminal(terminal: Terminal, prepared: Path) -> None:
    terminal.wait_for("of 1,000,000", "p Pause")
    watching = Terminal(prepared, "train", "--tui", "--attach", "r")
    try:
        watching.wait_for("training in another program", "validation loss", "⠒")
        terminal.press("p")
        terminal.wait_for("paused")
        watching.wait_for("paused in another program")
        watching.press("sq")
        assert watching.end() == 0
    finally:
        watching.close()
    before = len(log_rows(prepared / "r"))
    terminal.press("e")
    wait_until(lambda: terminal.read() != b"" and len(log_rows(prepared / "r")) > before)


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
