"""Recipes, weights to start from and evaluation, by the real command line: what is said twice or wrongly is refused."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cli.test_bad_input import SMALL, USAGE, refused
from tests.world import TEXT, scratchgpt

FINE = ("--steps", "3", "--eval-windows", "4", "--no-tune")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prepared texts, a run on the first, and a file of a preset's form."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, text in (("other", "abcdefghijk" * 50), ("fox", TEXT)):
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
        assert scratchgpt("prepare", f"{name}.txt", cwd=folder).returncode == 0
    arguments = ("--data", "data/fox", "--run", "runs/a", "--steps", "20", "--no-tune", "--learning-rate", "1e-2")
    result = scratchgpt("train", *arguments, *SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    (folder / "mine.toml").write_text('[model]\nn_layer = 2\n[train]\nsteps = 7\norder = "sequential"\n', "utf-8")
    return folder


def shown(*arguments: str, cwd: Path) -> str:
    result = scratchgpt("config", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def origins(text: str) -> dict[str, tuple[str, str]]:
    """Return value and origin of each setting that `config` printed."""
    lines = [line.partition(" = ") for line in text.splitlines() if " = " in line]
    return {name: (rest.partition("  #")[0].strip(), rest.partition("  #")[2].strip()) for name, _, rest in lines}


def test_each_source_takes_precedence_over_the_one_before(world: Path) -> None:
    options = ("--preset", "gpt-nano", "--config", "mine.toml", "--set", "batch_size=3", "--n-head", "4", "--no-bias")
    found = origins(shown(*options, "--data", "data/fox", "--set", "freeze=['transformer.wpe.*']", cwd=world))
    expected = {
        "vocab_size": ("30", "data data/fox"),
        "weight_decay": ("0.1", "default"),
        "n_embd": ("48", "preset gpt-nano"),
        "n_layer": ("2", "--config mine.toml"),  # not the preset's 3
        "order": ('"sequential"', "--config mine.toml"),
        "batch_size": ("3", "--set"),
        "n_head": ("4", "--n-head"),
        "bias": ("false", "--bias"),
        "freeze": ('["transformer.wpe.*"]', "--set"),
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("preset", ["shakespeare-cpu", "gpt2"])
def test_what_config_prints_can_be_fed_back(preset: str, world: Path, tmp_path: Path) -> None:
    options = ("--preset", preset, "--learning-rate", "1e-5", "--freeze", "transformer.h.[01].*", "--freeze", 'a"b\\')
    text = shown(*options, cwd=world)
    (tmp_path / "back.toml").write_text(text, encoding="utf-8")
    again = shown("--config", str(tmp_path / "back.toml"), cwd=world)
    assert tomllib.loads(again) == tomllib.loads(text)


def test_a_run_goes_by_the_file_and_is_called_after_it(world: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(world, tmp_path / "world"))
    (here / "mine.toml").write_text(
        "[model]\nn_embd = 16\nn_layer = 1\n[train]\nsteps = 2\neval_windows = 4\n", "utf-8"
    )
    result = scratchgpt("train", "--config", "mine.toml", "--set", "order=sequential", "--no-tune", cwd=here)
    assert result.returncode == 0, result.stderr
    checkpoint = here / "runs" / "fox-mine-1" / "checkpoints" / "step-000002"
    assert json.loads((checkpoint / "trainer.json").read_text(encoding="utf-8"))["train"]["order"] == "sequential"
    assert json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["n_embd"] == 16


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("config --config fox.txt", "fox.txt is no TOML"),
        ("config --set step=3", "no setting 'step' (did you mean 'steps'?)"),
        ("config --steps 3 --set steps=4", "steps is set by --steps and again by --set steps=4"),
        ("config --init runs/a --n-head 4", "n_head is 4 by --n-head, but 2 by --init runs/a"),
        ("train --resume runs/a --config mine.toml", "leave out --preset, --config"),
        ("train --resume runs/a --init runs/a", "--init"),
        ("train --init runs/a --data data/other", "30 tokens there, 11 here; the first that differs is 0"),
        ("train --init runs/a --no-bias --n-layer 3", "n_layer is 3 by --n-layer, but 1 by --init runs/a"),
        ("train --init runs/a --block-size 32", "by --block-size, but --init runs/a knows only 16 positions"),
        ("train --init runs/a --freeze transformer.h.3.*", "No tensor is named 'transformer.h.3.*' (did you mean"),
        ("train --init runs/a --freeze *", "All tensors are frozen"),
        ("evaluate --data data/none", "data/none"),
        ("evaluate --data data/other", "30 tokens there, 11 here"),
        ("evaluate --split test", "'test' is not one of"),
    ],
)
def test_one_sentence(command: str, reason: str, world: Path) -> None:
    before = sorted(world.rglob("*"))
    assert reason in refused(scratchgpt(*command.split(), cwd=world), USAGE)
    assert sorted(world.rglob("*")) == before


def tensors(run: Path) -> dict[str, np.ndarray]:
    last = (run / "checkpoints" / "last").read_text(encoding="utf-8").strip()
    return load_file(run / "checkpoints" / last / "model.safetensors")


@pytest.mark.parametrize("lanes", ["1", "2"])
def test_frozen_tensors_stay_as_they_are_and_the_others_do_not(lanes: str, world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    freeze = ("--freeze", "transformer.wte.*", "--freeze", "*.ln_[12].weight", "--freeze", "*.c_fc.*")
    started = scratchgpt(
        *("train", "--data", "data/fox", "--run", run, "--init", "runs/a", "--lanes", lanes, *freeze, *FINE), cwd=world
    )
    assert started.returncode == 0, started.stderr
    resumed = scratchgpt("train", "--resume", run, "--steps", "6", cwd=world)
    assert resumed.returncode == 0, resumed.stderr
    before, after = tensors(world / "runs" / "a"), tensors(run)
    frozen = {"transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight"}
    frozen |= {"transformer.h.0.ln_1.weight", "transformer.h.0.ln_2.weight"}
    zeros = {name for name in before if not before[name].any()}  # a bias of a model without biases
    assert {name for name in before if (before[name] == after[name]).all()} == frozen | zeros
    loosened = scratchgpt("train", "--resume", run, "--steps", "7", "--set", "freeze=[]", cwd=world)
    assert loosened.returncode == 0, loosened.stderr
    last = tensors(run)
    assert {name for name in before if (last[name] == after[name]).all()} == zeros


def test_weights_from_the_best_checkpoint_with_a_shorter_context(world: Path, tmp_path: Path) -> None:
    """A preset's sizes give way; dropout is the recipe's; nothing has changed before the first step."""
    run = tmp_path / "run"
    result = scratchgpt(
        *("train", "--data", "data/fox", "--run", run, "--init", "runs/a/checkpoints/best", "--preset", "gpt-nano"),
        *("--block-size", "8", "--steps", "1", "--keep", "9", "--eval-windows", "4", "--no-tune"),
        cwd=world,
    )
    assert result.returncode == 0, result.stderr
    first = run / "checkpoints" / "step-000000"
    config = json.loads((first / "config.json").read_text(encoding="utf-8"))
    assert (config["n_positions"], config["n_layer"], config["n_embd"], config["resid_pdrop"]) == (8, 1, 16, 0.2)
    before, after = tensors(world / "runs" / "a"), load_file(first / "model.safetensors")
    for name, tensor in after.items():
        assert (tensor == before[name][: len(tensor)]).all()
    assert not any(tensor.any() for tensor in load_file(first / "optimizer.safetensors").values())


def test_evaluate_says_what_the_trainer_said(world: Path) -> None:
    lines = (world / "runs" / "a" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for line in lines if "event" not in (row := json.loads(line))]
    reports = {
        split: json.loads(scratchgpt("evaluate", "runs/a", "--split", split, "--json", cwd=world).stdout)
        for split in ("val", "train")
    }
    val = reports["val"]
    assert abs(val["loss"] - rows[-1]["val_loss"]) <= 1e-6
    assert val["accuracy"] == rows[-1]["val_accuracy"]
    assert abs(val["perplexity"] - np.exp(val["loss"])) <= 1e-6 * val["perplexity"]
    assert abs(val["bits_per_byte"] - val["loss"] / np.log(2)) <= 1e-9  # each character of this text is a byte
    assert [(report["tokens"], report["bytes"]) for report in reports.values()] == [(206, 206), (1862, 1862)]
    text = scratchgpt("evaluate", "runs/a/checkpoints/best", cwd=world).stdout
    assert f"loss {val['loss']:.4f}, perplexity {val['perplexity']:.2f}" in text
    assert f"accuracy {val['accuracy']:.1%} (206 tokens, 206 bytes)" in text
