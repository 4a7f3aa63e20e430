"""Logs, tables and pictures of runs by the real command line, and read back by the programs they are for."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from scratchgpt.cli import cli
from scratchgpt.cli.plot import figure
from scratchgpt.training import curves
from tests.readers import csv_rows, tensorboard_scalars, wandb_config, wandb_history
from tests.world import TEXT, scratchgpt

SMALL = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--eval-windows", "8", "--no-tune")
OFFLINE = os.environ | {"WANDB_MODE": "offline"}
USAGE, FAILURE = 2, 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data and a run of twelve steps that was stopped at six, logged as CSV."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    call("prepare", "fox.txt", "--out", "data/fox", cwd=folder)
    settings = ("--eval-every", "4", "--save-every", "3", "--keep", "9", *SMALL)
    call("train", "--run", "runs/a", "--steps", "12", "--log", "csv", *settings, cwd=folder)
    return folder


@pytest.fixture
def world(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "world"))


def call(*arguments: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a command; return what it says, on one line if that is an error."""
    result = scratchgpt(*arguments, cwd=cwd, environment=OFFLINE)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split()) if code else result.stdout


def log_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of numbers."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "event" not in row]


def as_cells(run: Path) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in row.items() if value is not None} for row in log_rows(run)]


def losses(run: Path, name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in log_rows(run) if name in row and not row.get("val_whole")]


def interrupted(run: Path) -> None:
    """Leave a run as a kill after its tenth step might: the last checkpoint is of step nine, a line is torn."""
    checkpoints = run / "checkpoints"
    shutil.rmtree(checkpoints / "step-000012")
    (checkpoints / "last").write_text("step-000009\n", encoding="utf-8")
    (checkpoints / "best").write_text("step-000008\n", encoding="utf-8")
    lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    n_kept = next(n for n, line in enumerate(lines) if b'"step": 12,' in line)
    (run / "log.jsonl").write_bytes(b"".join(lines[:n_kept]) + lines[n_kept][:20])


def test_csv_while_training_and_after_a_kill(world: Path) -> None:
    run = world / "runs" / "a"
    assert csv_rows(run / "log.csv") == as_cells(run)
    before = log_rows(run)
    interrupted(run)
    call("train", "--resume", "runs/a", cwd=world)  # with --log csv, as before
    assert csv_rows(run / "log.csv") == as_cells(run)
    assert [row["step"] for row in log_rows(run)] == [row["step"] for row in before]
    kept = [row for row in before if row["step"] <= 9]
    assert log_rows(run)[: len(kept)] == kept
    assert losses(run, "loss") == [(row["step"], row["loss"]) for row in before if "loss" in row]


def test_tensorboard_while_training_and_after_a_kill(world: Path) -> None:
    pytest.importorskip("tensorboardX")
    run = world / "runs" / "a"
    interrupted(run)
    call("train", "--resume", "runs/a", "--log", "csv,tensorboard", cwd=world)
    live = tensorboard_scalars(run / "tensorboard")
    for tag, name in (("train/loss", "loss"), ("val/loss", "val_loss")):
        found = [(step, value) for _, step, value in live[tag]]
        assert found == [(step, float(np.float32(value))) for step, value in losses(run, name)]
    assert [seconds for seconds, _, _ in live["train/lr"]] == [row["time"] for row in log_rows(run) if "lr" in row]
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["log"] == ["csv", "tensorboard"]
    call("logs", "export", "runs/a", "--to", "tensorboard", "-o", "export", cwd=world)
    assert tensorboard_scalars(world / "export") == live


@pytest.mark.slow
def test_wandb_while_training_and_after_a_kill(world: Path) -> None:
    pytest.importorskip("wandb")
    run = world / "runs" / "a"
    interrupted(run)
    call("train", "--resume", "runs/a", "--log", "wandb", cwd=world)
    live = wandb_history(run)
    assert live["train/loss"] == losses(run, "loss")
    assert live["val/loss"] == losses(run, "val_loss")
    assert live["_timestamp"][0] == (0, log_rows(run)[0]["time"])
    config = wandb_config(run)
    assert config["preset"] == "shakespeare-cpu"
    assert config["model"]["n_embd"] == 16
    exported = world / "elsewhere"
    call("logs", "export", "runs/a", "--to", "wandb", "-o", exported, cwd=world)
    again = wandb_history(exported)
    for name in live.keys() - {"_runtime", "_wandb"}:
        assert again[name] == live[name], name
    assert wandb_config(exported)["model"] == config["model"]


def test_export_is_what_was_written_while_it_ran(world: Path) -> None:
    said = call("logs", "export", "runs/a", "--to", "csv", "-o", "a.csv", cwd=world)
    assert said == "a.csv: 17 rows, to step 12\n"
    assert (world / "a.csv").read_bytes() == (world / "runs" / "a" / "log.csv").read_bytes()


def test_export_replaces_nothing_unless_told(world: Path) -> None:
    message = call("logs", "export", "runs/a", "--to", "csv", cwd=world, code=FAILURE)
    assert "runs/a/log.csv is there already; use --force to replace it" in message
    interrupted(world / "runs" / "a")  # as one that is running, whose last line is half there
    call("logs", "export", "runs/a", "--to", "csv", "--force", cwd=world)
    assert {row["step"] for row in csv_rows(world / "runs" / "a" / "log.csv")} <= set(map(str, range(13)))


def test_a_new_run_in_an_old_ones_folder(world: Path) -> None:
    """Its logs are its own: nothing is left of the old one's."""
    call("train", "--data", "data/fox", "--run", "runs/a", "--force", "--steps", "1", *SMALL, cwd=world)
    assert not (world / "runs" / "a" / "log.csv").exists()
    assert json.loads((world / "runs" / "a" / "run.json").read_text(encoding="utf-8"))["log"] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_fails_does_not_cost_the_training(world: Path) -> None:
    """The CSV file is on a disk that becomes full: the run says so once, and ends as it would have."""
    run = world / "runs" / "a"
    before = losses(run, "loss")
    interrupted(run)
    program = (
        "import runpy, sys\n"
        "from scratchgpt.training import sinks\n"
        "real = sinks.CSV.write\n"
        "def write(self, row):\n"
        "    if row['step'] == 11:\n"
        "        self._file.close()\n"
        "        self._file = open('/dev/full', 'w', encoding='utf-8')\n"
        "        self._writer.writer = __import__('csv').writer(self._file)\n"
        "    real(self, row)\n"
        "sinks.CSV.write = write\n"
        "sys.argv = ['scratchgpt', 'train', '--resume', 'runs/a']\n"
        "runpy.run_module('scratchgpt', run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=world, capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Logging to csv has failed and ends here: No space left on device.") == 1
    assert "Done." in result.stdout
    assert losses(run, "loss") == before


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("train --log cvs", USAGE, "There is no log 'cvs' (did you mean 'csv'?); there are csv, tensorboard, wandb."),
        ("logs export runs/none --to csv", FAILURE, "Cannot read runs/none/log.jsonl: No such file"),
        ("logs export runs/a --to excel", USAGE, "'excel' is not one of"),
        ("logs export runs/a", USAGE, "--to"),
        ("logs import", USAGE, "import"),
        ("runs nowhere", USAGE, "no folder nowhere"),
        ("plot", USAGE, "RUN"),
        ("plot runs/none", FAILURE, "Cannot read runs/none/log.jsonl: No such file"),
        ("plot runs/a -o curves.gif", USAGE, "must end in .png, .svg, .pdf, not 'curves.gif'"),
        ("plot runs/a -o runs/a/log.jsonl/curves.png", FAILURE, "File exists"),
        ("plot runs/a --smooth 0", USAGE, "--smooth"),
        ("plot runs/a --against moon", USAGE, "'moon' is not one of"),
        ("plot runs/a -o fox.txt", USAGE, "must end in"),
    ],
)
def test_one_sentence_and_the_right_code(command: str, code: int, message: str, trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    assert message in call(*command.split(), cwd=trained, code=code)
    assert sorted(trained.rglob("*")) == before


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("matplotlib", "plot runs/a"),
        ("tensorboardX", "train --data data/fox --run runs/c --log csv,tensorboard"),
        ("wandb", "train --data data/fox --run runs/c --log wandb"),
        ("tensorboardX", "logs export runs/a --to tensorboard"),
    ],
)
def test_packages_that_are_missing(module: str, command: str, trained: Path) -> None:
    """One sentence that says what to install, before anything is made."""
    before = sorted(trained.rglob("*"))
    program = (
        f"import runpy, sys\nsys.modules[{module!r}] = None\nsys.argv = {['scratchgpt', *command.split()]!r}\n"
        "runpy.run_module('scratchgpt', run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=trained, capture_output=True, encoding="utf-8", check=False
    )
    extra = {"matplotlib": "plot", "tensorboardX": "tensorboard"}.get(module, module)
    assert result.returncode == USAGE, result.stderr
    said = " ".join(result.stderr.split())
    assert "needs one more package (" in said
    assert f"Install it: `pip install 'scratchgpt[{extra}]'`." in said
    assert sorted(trained.rglob("*")) == before


def test_runs(world: Path) -> None:
    (found,) = map(json.loads, call("runs", "--json", cwd=world).splitlines())
    run = world / "runs" / "a"
    assert found.pop("seconds") == pytest.approx(sum(row.get("step_ms", 0) for row in log_rows(run)) / 1e3)
    best = min(value for _, value in losses(run, "val_loss"))
    assert time.strptime(found.pop("when"), "%Y-%m-%d %H:%M")
    expected = {"run": "runs/a", "preset": "shakespeare-cpu", "step": 12, "steps": 12, "best_loss": best}
    assert found == expected | {"device": "cpu", "problems": [], "state": "finished"}
    shown = call("runs", cwd=world)
    for cell in ("a", "shakespeare-cpu", "12 of 12", f"{best:.4f}", "cpu"):
        assert cell in shown


def test_runs_that_are_damaged_are_listed_with_what_is_wrong(world: Path) -> None:
    a = world / "runs" / "a"
    for name in "bcdefgh":
        shutil.copytree(a, world / "runs" / name)
    runs = world / "runs"
    (runs / "b" / "log.jsonl").unlink()
    shutil.rmtree(runs / "c" / "checkpoints")
    trainer = runs / "d" / "checkpoints" / "step-000012" / "trainer.json"
    trainer.write_text("{", encoding="utf-8")
    trainer = runs / "e" / "checkpoints" / "step-000012" / "trainer.json"
    trainer.write_text('{"step": [], "train": null}', encoding="utf-8")
    (runs / "f" / "run.json").write_bytes(b"\xff")
    (runs / "g" / "run.json").unlink()  # an older version's
    (runs / "h" / "log.jsonl").write_bytes(b'\0\0\0\n{"step": 5, "loss": NaN}\nhalf a li')
    (runs / "notes").mkdir()
    (runs / "notes.txt").touch()
    os.utime(a / "log.jsonl", (time.time() + 9, time.time() + 9))
    found = {Path(row["run"]).name: row for row in map(json.loads, call("runs", "--json", cwd=world).splitlines())}
    assert sorted(found) == list("abcdefgh")
    assert list(found)[-1] == "a"
    problems = {name: " ".join(row["problems"]) for name, row in found.items()}
    assert problems["a"] == problems["g"] == ""
    assert "Cannot read runs/b/log.jsonl: No such file" in problems["b"]
    assert "no last checkpoint" in problems["c"]
    assert "trainer.json is damaged" in problems["d"]
    assert "trainer.json is damaged" in problems["e"]
    assert "run.json is damaged" in problems["f"]
    assert problems["h"] == "log.jsonl has damaged lines, 1 of them."
    assert found["h"]["step"] == 5
    assert found["b"]["step"] == 12
    assert found["g"]["preset"] is None
    shown = call("runs", cwd=world)
    assert all(problem in " ".join(shown.split()) for problem in problems.values())


def test_no_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert call("runs", cwd=tmp_path) == "There are no runs in runs.\n"
    assert call("runs", "--json", cwd=tmp_path) == ""


def test_a_picture(world: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(world / "runs" / "a", world / "runs" / "b")
    (world / "runs" / "new").mkdir()
    (world / "runs" / "new" / "log.jsonl").touch()
    assert call("plot", "runs/a", "runs/b", "runs/new", cwd=world) == "curves.png\n"
    assert (world / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "curves.png is there already; use --force" in call("plot", "runs/a", cwd=world, code=FAILURE)
    call("plot", "runs/a", "--force", "--against", "tokens", cwd=world)
    call("plot", "runs/a", "-o", "curves.SVG", "--against", "time", "--smooth", "3", cwd=world)
    assert "<svg" in (world / "curves.SVG").read_text(encoding="utf-8")
    message = call("plot", "runs/new", "-o", "new.png", cwd=world, code=FAILURE)
    assert "nothing to draw yet: the log of new has no losses" in message
    assert not list(world.glob(".*"))


def test_what_is_drawn(tmp_path: Path) -> None:
    """A log of 100,000 steps with losses that are none and a torn last line becomes few points, and the right ones."""
    pytest.importorskip("matplotlib")
    n = 100_000
    made = [(step, 2 + 1000 / (step + 999)) for step in range(1, n + 1)]
    lines = [json.dumps({"step": step, "loss": loss, "step_ms": 36.0}) for step, loss in made]
    lines[4] = '{"step": 5, "loss": null}'
    lines += [json.dumps({"step": step, "val_loss": 2.5, "val_whole": False}) for step in range(0, n + 1, 10_000)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 9', encoding="utf-8", newline="\n")
    picture = figure({"$one_": curves.read(tmp_path, "time"), "_two": curves.read(tmp_path, "time")}, "time", 100)
    (axes,) = picture.axes
    assert axes.get_xlabel() == "time in training steps (minutes)"
    raw, mean, validation = (np.asarray(line.get_xydata(), np.float64) for line in axes.lines[:3])
    for drawn in (raw, mean):
        assert len(drawn) <= 2000
        steps = drawn[:, 0] / 0.0006
        np.testing.assert_allclose(drawn[:, 1], 2 + 1000 / (steps + 999), atol=0.1)
    assert validation[:, 1].tolist() == [2.5] * 11
    low, high = axes.get_ylim()
    assert low <= 2.01
    assert high >= 2.9
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [r"\$one_", " _two", "training", "validation"]


def test_many_runs_have_a_colour_each(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n', encoding="utf-8")
    one = curves.read(tmp_path, "steps")
    for n in (1, 10, 11, 40):
        lines = figure({str(number): one for number in range(n)}, "steps", None).axes[0].lines
        assert len({str(line.get_color()) for line in lines}) == n


def test_a_run_that_has_diverged(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": null}\n', encoding="utf-8")
    figure({"a": curves.read(tmp_path, "steps")}, "steps", 1).savefig(tmp_path / "a.png")


@pytest.mark.slow
def test_a_hundred_thousand_steps_are_drawn(tmp_path: Path) -> None:
    """In about two seconds of computing, from the command line's start to the picture."""
    pytest.importorskip("matplotlib")
    with (tmp_path / "log.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for step in range(1, 100_001):
            numbers = {"loss": 4 / step**0.1, "lr": 1e-3, "grad_norm": 0.1234567890123, "step_ms": 36.123}
            more = {"data_ms": 0.123, "tokens": 2048, "tokens_per_s": 56_789.1, "resident_mb": 123.4}
            file.write(json.dumps({"step": step, "time": 1.79e9 + step} | numbers | more) + "\n")
    before, started = os.times(), time.perf_counter()
    call("plot", ".", cwd=tmp_path)
    wall, after = time.perf_counter() - started, os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])  # of children
    print(f"100,000 steps are drawn in {wall:.2f} s, {seconds:.2f} s of them computing")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_without_a_command_there_is_help() -> None:
    result = CliRunner().invoke(cli, ["logs"])
    assert result.exit_code == 2
    assert "\n\nCommands:\n  export  " in result.output
