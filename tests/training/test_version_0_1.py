"""Two runs of version 0.1 still open, generate and go on: old/version-0.1 holds them as that version wrote them.

Each is as a kill leaves it: the last checkpoint is of step 300, and the log goes on to step 320. So the log holds the
numbers that a resumed run must repeat. Its first 298 steps are cut off, to save room.
"""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import scratchgpt as sg
from scratchgpt.cli import cli
from scratchgpt.model.params import Layout
from scratchgpt.training.events import StepDone

OLD = Path(__file__).parent / "old" / "version-0.1"
STEP, LAST = "step-000300", "step-000320"

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bias": {"n_layer": 2, "activation": "gelu_new", "bias": True, "tie_word_embeddings": True, "head_bias": False},
    "no-bias": {"n_layer": 1, "activation": "relu", "bias": False, "tie_word_embeddings": False, "head_bias": True},
}

TEXTS = {
    ("bias", "--temperature=0"): "\nthe quick brown fox jumps over the lazy dog,\nandog,\nand the \n",
    ("bias", "--seed=1"): "\nthe brlazy dog,\nand the dog sle leeps on.\n\n\n\nthe brown dog,\n\n",
    ("no-bias", "--temperature=0"): "\nthe quick brown fox jumps over the landog theeeps on.\n\n\nthe \n",
    ("no-bias", "--seed=1"): "\nthe dog sleps on.\n\n\n\nthe dog sland ond ondog sleps over the \n",
}
"""Texts of 60 tokens. They survive a change of each weight by a thousandth of itself, so rounding does not matter."""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A copy of the runs and their data, which a test may write to."""
    return Path(shutil.copytree(OLD, tmp_path / "world"))


def call(*typed: str, cwd: Path) -> str:
    """Run a command in this process; return what it prints."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(cli, typed)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def numbers(run: Path) -> list[tuple[int, str, float]]:
    """Return the losses and norms that the log holds from step 301 to the end of the training."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    names = ("loss", "grad_norm", "val_loss")
    those = [row for row in rows if row["step"] > 300 and not row.get("val_whole")]
    return [(row["step"], name, row[name]) for row in those for name in names if name in row]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_info(name: str, world: Path) -> None:
    report = json.loads(call("info", "--json", f"{name}/checkpoints/{STEP}", cwd=world))
    assert report["problems"] == []
    assert report["architecture"].items() >= ARCHITECTURES[name].items()
    training = report["training"]
    assert (training["step"], training["steps"], training["best_step"], training["scratchgpt"]) == (
        300,
        320,
        300,
        "0.1.0",
    )
    assert json.loads(call("info", "--json", name, cwd=world))["problems"] == []
    assert json.loads(call("info", "--json", "data", cwd=world))["problems"] == []


@pytest.mark.parametrize(("name", "option"), TEXTS)
def test_the_texts_are_the_same(name: str, option: str, world: Path) -> None:
    assert call("generate", name, "--tokens=60", "--device=cpu", option, cwd=world) == TEXTS[name, option]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_number_is_read(name: str) -> None:
    folder = OLD / name / "checkpoints" / STEP
    snapshot = sg.read(folder)
    weights, slots = (load_file(folder / f"{file}.safetensors") for file in ("model", "optimizer"))
    layout = Layout(snapshot.model)
    for leaf, values in layout.views(snapshot.params).items():
        assert np.array_equal(values, weights.pop(leaf))
    assert not any(values.any() for values in weights.values())  # those of biases that the model does not have
    for slot, flat in snapshot.slots.items():
        for leaf, values in layout.views(flat).items():
            assert np.array_equal(values, slots.pop(f"{slot}.{leaf}"))
    assert not slots


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_goes_on_as_version_0_1_did(name: str, world: Path) -> None:
    """Another BLAS changes the numbers by up to 6e-7."""
    expected = numbers(world / name)
    call("train", "--resume", name, cwd=world)
    got = numbers(world / name)
    assert [row[:2] for row in got] == [row[:2] for row in expected]
    assert [row[:2] for row in got if row[1] == "loss"] == [(step, "loss") for step in range(301, 321)]
    assert max(abs(a[2] - b[2]) for a, b in zip(got, expected, strict=True)) <= 1e-5
    assert (world / name / "checkpoints" / LAST).is_dir()


def test_settings_that_say_what_the_run_has_are_no_change(world: Path) -> None:
    config = sg.read(world / "bias" / "checkpoints" / STEP).model
    sizes = ["--n-embd", str(config.n_embd), "--n-inner", str(4 * config.n_embd), "--norm", "layernorm"]
    call("train", "--resume", "bias", "--steps", "302", "--no-tune", *sizes, cwd=world)
    call("train", "--resume", "bias", "--steps", "304", "--n-inner", "0", cwd=world)
    assert (world / "bias" / "checkpoints" / "step-000304").is_dir()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_goes_on_to_the_bit(name: str, world: Path) -> None:
    """Ten steps, a checkpoint and ten are twenty."""
    shutil.copytree(world / name, world / "parts")
    call("train", "--resume", name, cwd=world)
    trainer = sg.Trainer(
        sg.read(world / "parts" / "checkpoints" / STEP), sg.Dataset.open(world / "data"), world / "parts"
    )
    for event in trainer.events():
        if isinstance(event, StepDone) and event.step == 310:
            trainer.stop()
    call("train", "--resume", "parts", "--data", "data", cwd=world)
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, other = (world / run / "checkpoints" / LAST / file for run in (name, "parts"))
        assert one.read_bytes() == other.read_bytes()
