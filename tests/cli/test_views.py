"""What a training shows: a live line in any terminal, JSON for programs that may command it, or next to nothing."""

import io
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scratchgpt.cli import views
from scratchgpt.cli.curve import MOST_POINTS, Curve, heights, sparkline
from scratchgpt.training import logs
from scratchgpt.training.events import Ended, Evaluating, Event, Paused, Resumed, Sampled, Started, StepDone, from_json
from scratchgpt.training.journal import Journal
from scratchgpt.training.pace import Pace
from scratchgpt.wording import printable
from tests.cli.test_commands import SMALL, log_rows, wait_until
from tests.world import TEXT, scratchgpt


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder with a prepared text."""
    (tmp_path / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    assert scratchgpt("prepare", "fox.txt", cwd=tmp_path).returncode == 0
    return tmp_path


def events_of(output: str) -> list[Event]:
    return [from_json(json.loads(line)) for line in output.splitlines()]


@given(st.integers(1, 10 * MOST_POINTS))
def test_a_curve_keeps_few_points_evenly(n: int) -> None:
    curve = Curve()
    for step in range(1, n + 1):
        curve.add(step, float(step))
    assert len(curve.steps) == len(curve.raw) == len(curve.smooth) <= MOST_POINTS
    assert len(curve.steps) >= min(n, MOST_POINTS // 2)
    assert len({later - sooner for sooner, later in itertools.pairwise(curve.steps)}) <= 1
    assert curve.raw == curve.steps
    assert all(smooth <= raw for smooth, raw in zip(curve.smooth, curve.raw, strict=True))


def test_a_curve_forgets_what_is_not_finite() -> None:
    curve = Curve()
    for step, value in enumerate([float("nan"), 1.0, float("inf"), 1.0]):
        curve.add(step, value)
    assert (curve.steps, curve.raw, curve.mean) == ([1, 3], [1.0, 1.0], 1.0)


def test_the_fall_at_the_beginning_does_not_flatten_what_comes_after() -> None:
    curve = Curve()
    for step in range(1, 1001):
        curve.add(step, 1.5 + 3 * math.exp(-step / 10))
    low, high = heights(curve, [0, 100, 1000], [4.2, 1.8, 1.4])
    assert 1.3 <= low < 1.4, "everything low is to be seen"
    assert 1.8 < high <= 2.2, "but not what was high before a twentieth of the run"
    assert heights(Curve(), [], [])[0] < heights(Curve(), [], [])[1]
    curve = Curve()
    curve.add(1, 4.2)
    assert heights(curve, [0], [4.3])[1] > 4.2


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 9, ""),
        ([3.0], 9, "▁"),
        ([1.0, 1.0], 9, "▁▁"),
        ([8, 7, 6, 5, 4, 3, 2, 1], 9, "█▇▆▅▄▃▂▁"),
        ([4, 4, 4, 1], 2, "█▁"),
        ([1, 2], 0, ""),
    ],
)
def test_sparklines(values: list[float], width: int, line: str) -> None:
    assert sparkline(values, width) == line


@pytest.mark.parametrize("width", [1, 10, 20, 39, 40, 60, 80, 200])
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_the_live_line_fits_any_width(width: int, locale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    live = views.Live(Console(quiet=True, width=width))
    live.show(Started(Path("run"), 0, 1_000_000, 1, "cpu"))
    for step in range(1, 100):
        live.show(StepDone(step, 4 / step, 1e-3, 1.0, 0.1, 123_456))
    line = live._line().plain  # noqa: SLF001
    assert len(line) <= width
    assert line.isascii() == (locale == "C" or width < 80)
    assert ("99" in line) == (width >= 10)
    assert ("tokens/s" in line) == (width >= 60)
    live.show(Evaluating(99, 1, 4))
    assert ("evaluating 25%" in live._line().plain) == (width >= 39)  # noqa: SLF001


def test_the_time_left_knows_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 7.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace()
    assert pace.left(0, 100) == ""
    for step in range(1, 11):
        now += 2
        pace.see(StepDone(step, 1.0, 1.0, 1.0, 1.0, 1))
    assert pace.left(10, 100) == "0:03:00"
    pace.see(Paused(10))
    now += 1000
    pace.see(Resumed(10))
    now += 2
    pace.see(StepDone(11, 1.0, 1.0, 1.0, 1.0, 1))
    assert pace.left(10, 100) == "0:03:00"


def test_json_is_every_event_and_nothing_else(prepared: Path) -> None:
    options = ("--sample-every", "2", "--eval-every", "0")
    result = scratchgpt("train", "--run", "r", "--steps", "3", "--json", *options, *SMALL, cwd=prepared)
    assert result.returncode == 0
    events = events_of(result.stdout)
    assert isinstance(events[0], Started)
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2, 3]
    text = "".join(event.text for event in events if isinstance(event, Sampled))
    assert set(text) <= set(TEXT)
    assert len(text) == 201
    assert events[-1] == Ended(3, is_finished=True)
    assert result.stderr.startswith("r: ")  # what people may want to know
    assert "Done." in result.stderr


def test_short_steps_wake_a_reader_only_now_and_then() -> None:
    class Pipe(io.StringIO):
        n_flushes = 0

        def flush(self) -> None:
            self.n_flushes += 1

    pipe = Pipe()
    with views.JSONLines(pipe) as lines:
        for step in range(40):
            lines.show(Ended(step, is_finished=False))
            time.sleep(0.005)
    assert [event.step for event in events_of(pipe.getvalue()) if isinstance(event, Ended)] == [*range(40)]
    assert pipe.n_flushes < 20


def test_a_program_can_watch_and_command(prepared: Path) -> None:
    command = [sys.executable, "-m", "scratchgpt", "train", "--run", "r", "--steps", "1000000", "--json", "--control"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *SMALL], cwd=prepared, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen = []

        def tell(lines: bytes, awaited: str) -> None:
            """Say this and read until there is such an event."""
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(lines)
            process.stdin.flush()
            while True:
                seen.append(json.loads(process.stdout.readline()))
                if seen[-1]["event"] == awaited:
                    break

        tell(b"", "step")
        tell(b"pause\n", "paused")
        tell(b"\n\xff\x00garbage\nsave now\n" + b"x" * 100_000 + b"\nevaluate\n", "evaluated")
        tell(b'sample {"prompt": "the ", "n_tokens": 3, "temperature": 0}\n', "sampled")
        tell(b'sample {"prompt": "\xff"}\n', "note")
        tell(b"resume\n", "resumed")
        process.stdin.write(b"stop")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    complaints = [line for line in errors.decode("utf-8").splitlines() if line.startswith("Error: ")]
    assert len(complaints) == 4  # the line that is too long is two
    assert all("command" in line or "JSON object" in line for line in complaints)
    assert "Go on with: scratchgpt train --resume r" in errors.decode("utf-8")
    assert b"Traceback" not in errors


def test_notes_texts_and_the_state_of_a_run_are_in_its_folder(prepared: Path) -> None:
    run = prepared / "runs" / "r"
    command = [sys.executable, "-m", "scratchgpt", "train", "--run", "runs/r", "--steps", "1000000", "--json"]

    def state() -> Any:
        result = scratchgpt("runs", "--json", cwd=prepared)
        return json.loads(result.stdout)["state"] if result.stdout else None

    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--control", *SMALL], cwd=prepared, stdin=pipe, stdout=pipe, bufsize=0) as process:
        assert process.stdin is not None
        process.stdin.write(b'sample {"prompt": "the ", "n_tokens": 3}\nevaluate\npause\nsave\n')
        wait_until(lambda: (run / "log.jsonl").exists() and state() == "paused")
        os.utime(run / "log.jsonl", (0, 0))  # a pause may be long
        assert state() == "paused"
        process.stdin.write(b"resume\n")
        wait_until(lambda: state() == "training")
        process.kill()
        process.communicate()
    assert state() == "stopped"
    step = int((run / "checkpoints" / "last").read_text(encoding="utf-8").removeprefix("step-"))
    resumed = scratchgpt("train", "--resume", "runs/r", "--steps", str(step + 2), cwd=prepared)
    assert resumed.returncode == 0, resumed.stderr
    assert state() == "finished"
    journal = journal_of(run)
    (text,) = [text for _, text in journal.texts]
    assert text.startswith("the ")
    assert len(text) == 7
    said = "\n".join(journal.notes)
    for sentence in (
        "step 0: the run starts: ",
        ": validation loss",
        ": paused",
        f"step {step}: saved in runs/r/checkpoints/step-",
        f"step {step}: the run continues: ",
        f"step {step + 2}: finished",
    ):
        assert sentence in said


def test_a_failure_is_in_the_log(prepared: Path) -> None:
    diverging = ("--learning-rate", "1e30", "--grad-clip", "0", "--on-nan", "stop")
    failed = scratchgpt("train", "--run", "r", "--steps", "99", *diverging, *SMALL, cwd=prepared)
    assert failed.returncode == 1
    last = journal_of(prepared / "r").notes[-1]
    assert "the run has diverged" in last
    assert " ".join(failed.stderr.split()).startswith(f"{last} Go on from that or an earlier one with a --learning")
    assert "--" not in last  # the page shows it, too


def journal_of(run: Path) -> Journal:
    """Return the journal in a run's log."""
    journal = Journal()
    for row in logs.read(run / logs.NAME):
        if row and (event := logs.event(row)):
            journal.see(event)
    return journal


def test_the_end_of_commands_ends_a_pause_and_nothing_else(prepared: Path) -> None:
    arguments = ("train", "--run", "r", "--steps", "5", "--json", "--control", *SMALL)
    result = scratchgpt(*arguments, cwd=prepared, standard_input="pause")
    assert result.returncode == 0
    assert events_of(result.stdout)[-1] == Ended(5, is_finished=True)


def test_the_reader_of_json_may_leave(prepared: Path) -> None:
    training = f"{sys.executable} -m scratchgpt train --run r --json --steps 1000000 {' '.join(SMALL)}"
    command = ["sh", "-c", f"{training} | head -1"]
    result = subprocess.run(command, cwd=prepared, capture_output=True, encoding="utf-8", check=False, timeout=60)
    assert result.stdout.count("\n") == 1
    assert result.stderr.startswith("r: ")  # that the run begins, and nothing of how it ends
    assert not any(word in result.stderr for word in ("Error", "Broken", "Exception", "Traceback"))
    last = (prepared / "r" / "checkpoints" / "last").read_text(encoding="utf-8")
    steps = [row["step"] for row in log_rows(prepared / "r")]
    assert last == f"step-{max(steps, default=0):06d}\n"


def test_a_reader_that_is_slow_holds_nothing_up(prepared: Path) -> None:
    """More than a pipe holds is written while nobody reads."""
    command = [sys.executable, "-m", "scratchgpt", "train", "--run", "r", "--steps", "1000", "--json", *SMALL]
    with subprocess.Popen(command, cwd=prepared, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        log, deadline = prepared / "r" / "log.jsonl", time.monotonic() + 60
        while '"val_whole": true' not in (log.read_text(encoding="utf-8") if log.exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        events = events_of(process.stdout.read())
    assert [event.step for event in events if isinstance(event, StepDone)] == list(range(1, 1001))


def test_quiet_is_the_last_line_or_an_error(prepared: Path) -> None:
    result = scratchgpt("train", "--run", "r", "--steps", "2", "--quiet", *SMALL, cwd=prepared)
    assert result.stdout == "Done. Checkpoints are in r/checkpoints. Now: scratchgpt generate r\n"
    assert result.stderr == ""
    again = scratchgpt("train", "--run", "r", "--quiet", *SMALL, cwd=prepared)
    assert (again.returncode, again.stdout) == (1, "")
    assert "already holds a run" in again.stderr


def test_samples_are_shown_in_lines(prepared: Path) -> None:
    result = scratchgpt("train", "--run", "r", "--steps", "3", "--sample-every", "3", "--plain", *SMALL, cwd=prepared)
    assert "step 3: a sample\n" in result.stdout


def test_what_a_terminal_obeys_is_not_shown() -> None:
    assert printable("To\tbe\x1b[2J\x07\r\nор нот") == "To\ufffdbe\ufffd[2J\ufffd\ufffd\nор нот"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--json", "--quiet"), "--json and --quiet are two views; choose one."),
        (("--plain", "--tui"), "--plain and --tui are two views"),
        (("--control",), "--control goes with --json"),
        (("--control", "--plain"), "--control goes with --json"),
    ],
)
def test_views_that_contradict_each_other(options: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    result = scratchgpt("train", *options, cwd=tmp_path)
    assert result.returncode == 2
    assert complaint in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("columns", "no_color"), [(80, ""), (80, "1"), (20, "1")])
def test_a_terminal_without_colour_or_room(columns: int, no_color: str, prepared: Path) -> None:
    import pty  # noqa: PLC0415 - there is none on Windows

    pyte = pytest.importorskip("pyte")
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "scratchgpt", "train", "--run", "r", "--steps", "300", *SMALL]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "NO_COLOR": no_color}
    output = b""
    with subprocess.Popen(command, cwd=prepared, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        try:
            while chunk := os.read(parent, 4096):
                output += chunk
        except OSError:
            pass  # how Linux says that the other end has been closed
    os.close(parent)
    assert process.returncode == 0
    assert (b"\x1b[32m" in output) == (not no_color and columns >= 40)
    screen = pyte.Screen(columns, 60)
    pyte.ByteStream(screen).feed(output)
    shown = [line.rstrip() for line in screen.display]
    assert [line for line in shown if line.startswith(("300/300", "step 300 of 300"))] != []
    assert len([line for line in shown if "300/300" in line or "of 300" in line]) == 1  # one line, always redrawn
