"""The commands as people type them: they chain with nothing else said, and what stops goes on."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scratchgpt import machine
from scratchgpt.backend.cpu import blas
from scratchgpt.cli.running import _engine
from scratchgpt.engine.plan import Plan
from tests.world import TEXT, scratchgpt

SMALL = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--eval-windows", "8")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with a text in data/."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    return tmp_path


@pytest.fixture
def prepared(world: Path) -> Path:
    """The same after `prepare`."""
    assert scratchgpt("prepare", "data/fox.txt", "--char", cwd=world).returncode == 0
    return world


def log_rows(run: Path) -> list[dict[str, float]]:
    """Return the rows of numbers."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "event" not in row]


def test_the_three_commands_chain_and_can_be_repeated(world: Path) -> None:
    for n in (1, 2):
        prepare = scratchgpt("prepare", "data/fox.txt", "--char", cwd=world)
        assert prepare.returncode == 0, prepare.stderr
        assert ("before" in prepare.stdout) == (n == 2)
        train = scratchgpt("train", "--steps", "3", "--eval-windows", "4", cwd=world)
        assert train.returncode == 0, train.stderr
        assert f"runs/fox-shakespeare-cpu-{n}" in train.stdout
        generate = scratchgpt("generate", "--tokens", "100", cwd=world)
        assert generate.returncode == 0, generate.stderr
        assert len(generate.stdout) == 1 + 100 + 1  # the prompt, a newline; the text; a newline at the end
        assert set(generate.stdout) <= set(TEXT)
    log = log_rows(world / "runs" / "fox-shakespeare-cpu-2")
    assert log[1].keys() == {
        "step",
        "time",
        "loss",
        "lr",
        "grad_norm",
        "step_ms",
        "data_ms",
        "tokens",
        "tokens_per_s",
    } | ({"resident_mb"} if machine.resident_memory() else set())
    assert log[-1].keys() >= {"step", "val_loss", "val_perplexity", "val_accuracy"}
    assert log[-1]["step"] == 3


def test_a_run_that_is_resumed_is_the_undisturbed_one(prepared: Path) -> None:
    settings = (*SMALL, "--dropout", "0.1", "--warmup-steps", "30")
    assert scratchgpt("train", "--run", "whole", "--steps", "20", *settings, cwd=prepared).returncode == 0
    assert scratchgpt("train", "--run", "parts", "--steps", "10", *settings, cwd=prepared).returncode == 0
    assert scratchgpt("train", "--resume", "parts", "--steps", "20", cwd=prepared).returncode == 0
    whole, parts = (prepared / run / "checkpoints" / "step-000020" for run in ("whole", "parts"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    losses = [
        [(row["step"], row["loss"]) for row in log_rows(prepared / run) if "loss" in row] for run in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 20


def test_a_resumed_run_keeps_its_lanes(prepared: Path) -> None:
    started = scratchgpt("train", "--run", "r", "--steps", "1", "--lanes", "3", *SMALL, cwd=prepared)
    resumed = scratchgpt("train", "--resume", "r", "--steps", "2", cwd=prepared)
    changed = scratchgpt("train", "--resume", "r", "--steps", "3", "--lanes", "1", cwd=prepared)
    assert ["3 lanes" in result.stdout for result in (started, resumed, changed)] == [True, True, False]


def test_a_resumed_run_keeps_its_plan(prepared: Path) -> None:
    """What was measured is recorded before the first step; only what is typed changes it."""
    scratchgpt("train", "--run", "r", "--steps", "1", "--micro-batch", "3", "--no-tune", *SMALL, cwd=prepared)
    shown = []
    for steps, options in (("2", ()), ("3", ("--micro-batch", "2"))):
        resumed = scratchgpt("train", "--resume", "r", "--steps", steps, "--verbose", *options, cwd=prepared)
        assert resumed.returncode == 0, resumed.stderr
        shown.append(resumed.stdout)
    assert "computes 3 sequences at once, single numbers in blocks of 256 KiB" in shown[0]
    assert "computes 2 sequences at once" in shown[1]
    plans = [
        json.loads((prepared / "r" / "checkpoints" / step / "trainer.json").read_text(encoding="utf-8"))["plan"]
        for step in ("step-000002", "step-000003")
    ]
    assert [plan["micro_batch"] for plan in plans] == [3, 2]


@pytest.mark.parametrize(("found", "said"), [(True, "adds products in place"), (False, "cannot add products in place")])
def test_verbose_tells_what_the_blas_can_do(*, found: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_find", lambda _: abs if found else None)
    plan = Plan(lanes=2, micro_batch=1)
    assert said in _engine(plan, None)


def test_a_lane_that_is_killed_ends_the_run_in_a_sentence(prepared: Path) -> None:
    """Its last checkpoint stands, and from there the run goes on."""
    command = [sys.executable, "-m", "scratchgpt", "train", "--run", "r", "--steps", "1000000", "--save-every", "5"]
    command += ["--lanes", "2", "--no-tune", *SMALL]
    with subprocess.Popen(command, cwd=prepared, stderr=subprocess.PIPE, encoding="utf-8") as process:
        last = prepared / "r" / "checkpoints" / "last"
        wait_until(lambda: _text(last) not in ("", "step-000000\n"))
        (lane,) = children(process.pid)
        os.kill(lane, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    message = " ".join(errors.split())
    assert f"Process {lane}, one of the run's lanes, was ended by SIGKILL, as happens when memory runs out" in message
    assert f"The run's last checkpoint is r/checkpoints/{_text(last).strip()}. Go on with --resume" in message
    step = int(_text(last).strip().removeprefix("step-"))
    assert scratchgpt("train", "--resume", "r", "--steps", str(step + 1), cwd=prepared).returncode == 0


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    stats = [path.read_text(encoding="utf-8") for path in Path("/proc").glob("[0-9]*/stat")]
    return [int(stat.split()[0]) for stat in stats if int(stat.rpartition(")")[2].split()[1]) == parent]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what should come about within a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_finished_run_says_so(prepared: Path) -> None:
    scratchgpt("train", "--run", "r", "--steps", "2", *SMALL, cwd=prepared)
    again = scratchgpt("train", "--resume", "r", cwd=prepared)
    assert again.returncode == 0
    assert "finished: it has made 2 steps" in again.stdout
    more = scratchgpt("train", "--resume", "r", "--steps", "4", "--learning-rate", "1e-5", cwd=prepared)
    assert more.returncode == 0
    assert log_rows(prepared / "r")[-1]["step"] == 4


def test_a_run_that_ends_early_says_so(prepared: Path) -> None:
    options = ("--steps", "500", "--eval-every", "1", "--patience", "2", "--learning-rate", "0.5")
    ended = scratchgpt("train", "--run", "r", *options, *SMALL, cwd=prepared)
    assert ended.returncode == 0, ended.stderr
    assert "has not become better in 2 evaluations; the best is r/checkpoints/step-0000" in ended.stdout
    step = int(log_rows(prepared / "r")[-1]["step"])
    assert step < 500
    again = scratchgpt("train", "--resume", "r", cwd=prepared)
    assert again.returncode == 0
    assert f"finished: it has made {step} steps. To train it longer: scratchgpt train --resume r --patience N" in (
        again.stdout
    )
    more = scratchgpt("train", "--resume", "r", "--patience", "0", "--steps", str(step + 3), cwd=prepared)
    assert more.returncode == 0, more.stderr
    assert log_rows(prepared / "r")[-1]["step"] == step + 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_stops(number: signal.Signals, code: int, prepared: Path) -> None:
    command = [sys.executable, "-m", "scratchgpt", "train", "--run", "r", "--steps", "1000000", *SMALL]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=prepared, stdout=pipe, encoding="utf-8", start_new_session=True) as process:
        wait_until(lambda: '"loss"' in _text(prepared / "r" / "log.jsonl"))
        os.killpg(process.pid, number)  # as a terminal does: to all that belong together
        output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Go on with: scratchgpt train --resume r" in output
    step = log_rows(prepared / "r")[-1]["step"]
    assert (prepared / "r" / "checkpoints" / "last").read_text(encoding="utf-8") == f"step-{step:06d}\n"
    resumed = scratchgpt("train", "--resume", "r", "--steps", str(step + 2), cwd=prepared)
    assert resumed.returncode == 0, resumed.stderr
    assert [row["step"] for row in log_rows(prepared / "r") if "loss" in row] == list(range(1, int(step) + 3))


def test_generate_takes_prompts_and_seeds(prepared: Path) -> None:
    scratchgpt("train", "--run", "runs/a", "--steps", "2", *SMALL, cwd=prepared)

    def text(*arguments: str) -> str:
        result = scratchgpt("generate", *arguments, "--tokens", "30", cwd=prepared)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert text("--prompt", "the fox").startswith("the fox")
    assert text("--seed", "1") == text("--seed", "1", "runs/a") == text("runs/a/checkpoints/step-000002", "--seed", "1")
    assert text("--seed", "1") != text("--seed", "2")
    assert text("--temperature", "0", "--seed", "1") == text("--top-k", "1", "--seed", "2")
    first, second = text("--samples", "2").split("-" * 80)
    assert first.strip("\n") != second.strip("\n")


def test_a_reader_that_leaves_is_no_error(prepared: Path) -> None:
    scratchgpt("train", "--run", "runs/a", "--steps", "1", *SMALL, cwd=prepared)
    command = f"{sys.executable} -m scratchgpt generate --tokens 2000 | head -c 5"
    result = subprocess.run(["sh", "-c", command], cwd=prepared, capture_output=True, encoding="utf-8", check=False)  # noqa: S607
    assert len(result.stdout) == 5
    assert result.stderr == ""


def test_a_display_that_goes_away_costs_no_steps(prepared: Path) -> None:
    """`train | head -1`: the run ends, but saves what it has."""
    training = f"{sys.executable} -m scratchgpt train --run r --steps 4000 --eval-every 5 {' '.join(SMALL)}"
    subprocess.run(["sh", "-c", f"{training} | head -4"], cwd=prepared, capture_output=True, check=False)  # noqa: S607
    last = (prepared / "r" / "checkpoints" / "last").read_text(encoding="utf-8").strip()
    assert last == f"step-{log_rows(prepared / 'r')[-1]['step']:06d}"
    assert last != "step-000000"


def test_a_text_without_newlines_can_be_written_too(tmp_path: Path) -> None:
    (tmp_path / "cat.txt").write_text("the cat sat on the mat. " * 50, encoding="utf-8")
    assert scratchgpt("prepare", "cat.txt", cwd=tmp_path).returncode == 0
    assert scratchgpt("train", "--steps", "1", *SMALL, cwd=tmp_path).returncode == 0
    result = scratchgpt("generate", "--tokens", "10", cwd=tmp_path)
    assert (result.returncode, result.stdout[0]) == (0, " ")


def test_every_setting_is_an_option(prepared: Path) -> None:
    shown = scratchgpt("train", "--help", cwd=prepared).stdout
    named = "--run --resume --preset --steps --batch-size --block-size --n-layer --n-head --n-embd --dropout --seed"
    more = "--learning-rate --eval-every --save-every --device --keep --micro-batch --bias --no-bias --activation"
    data = "--order --within-documents"
    safety = "--patience --save-minutes --keep-every --on-nan"
    assert [option for option in f"{named} {more} {data} {safety}".split() if option not in shown] == []


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_live_line(prepared: Path) -> None:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "scratchgpt", "train", "--run", "r", "--steps", "40", *SMALL]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, cwd=prepared, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        output = b""
        try:
            while chunk := os.read(parent, 4096):
                output += chunk
        except OSError:
            pass  # how Linux says that the other end has been closed
    os.close(parent)
    assert process.returncode == 0
    text = output.decode("utf-8")
    for expected in ("step 40 of 40", "tokens/s", "loss", "validation loss", "whole validation set"):
        assert expected in text


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
