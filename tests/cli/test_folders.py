"""Folders of models as commands are given them: which one is meant, and what cannot be one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.world import TEXT, scratchgpt

SMALL = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--eval-windows", "4")
WEIGHTS = "model.safetensors"
USAGE, FAILURE = 2, 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, its data, a run of two steps and, in `plain`, what other programs write of its model."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    for command in (("prepare", "fox.txt"), ("train", "--lanes", "1", "--run", "runs/a", "--steps", "2", *SMALL)):
        result = scratchgpt(*command, cwd=folder)
        assert result.returncode == 0, result.stderr
    (folder / "plain").mkdir()
    for name in ("config.json", WEIGHTS, "tokenizer.json"):
        shutil.copy(folder / "runs" / "a" / "checkpoints" / "step-000002" / name, folder / "plain")
    return folder


def test_the_same_model_by_all_its_names(trained: Path) -> None:
    names = ((), ("runs/a",), ("runs/a/checkpoints/step-000002",), ("runs/a/checkpoints/last",), ("plain",))
    results = [scratchgpt("generate", *name, "--tokens", "20", cwd=trained) for name in names]
    assert [result.stderr for result in results] == [""] * len(names)
    assert len({result.stdout for result in results}) == 1


def test_a_plain_folder_is_trained_and_measured(trained: Path, tmp_path: Path) -> None:
    measured = scratchgpt("evaluate", "plain", "--data", "data/fox", cwd=trained)
    assert measured.returncode == 0, measured.stderr
    assert "plain does not say what it was trained on" in scratchgpt("evaluate", "plain", cwd=trained).stderr
    for name in ("runs/a/checkpoints/last", "plain"):
        result = scratchgpt("prepare", "fox.txt", "--tokenizer", name, "--out", tmp_path / "data", cwd=trained)
        assert result.returncode == 0, result.stderr
    assert "was prepared from this text before" in result.stdout
    options = ("--data", tmp_path / "data", "--run", tmp_path / "run", "--steps", "1", "--lanes", "1")
    result = scratchgpt("train", "--init", "plain", *options, cwd=trained)
    assert result.returncode == 0, result.stderr


def write_nan(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["transformer.ln_f.weight"][0] = np.nan
    save_file(weights, folder / WEIGHTS)


def write_pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "named", "code", "message"),
    [
        (remove(WEIGHTS), "", FAILURE, "plain has no weights, neither model.safetensors nor model.safetensors.index"),
        (remove("config.json"), "", USAGE, "plain has no last checkpoint and no config.json; name a run"),
        (remove("tokenizer.json"), "", FAILURE, "plain has no vocabulary, neither tokenizer.json nor vocab.json and"),
        (write_pickle, "", FAILURE, "pytorch_model.bin is a pickle: to open it would run the code in it"),
        (write_pickle, "pytorch_model.bin", FAILURE, "pytorch_model.bin is a pickle"),
        (remove("tokenizer.json"), WEIGHTS, USAGE, "plain/model.safetensors is a file; name the folder that it is in."),
        (write_nan, "", FAILURE, "transformer.ln_f.weight holds numbers that are not finite"),
        (write(WEIGHTS, b"\xff" * 99), "", FAILURE, "is no whole safetensors file"),
        (write("config.json", b"{}"), "", FAILURE, "does not fit its config.json: missing transformer.h.1.attn"),
        (write("vocab.json", b"{}"), "vocab.json", USAGE, "is a file; name the folder"),
    ],
)
def test_what_is_no_model(
    spoil: Callable[[Path], object], named: str, code: int, message: str, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "plain", tmp_path / "plain")
    spoil(tmp_path / "plain")
    result = scratchgpt("generate", Path("plain") / named, cwd=tmp_path)
    assert (result.returncode, result.stdout, "Traceback" in result.stderr) == (code, "", False)
    assert message in " ".join(result.stderr.replace("\\", "/").split())


def test_a_checkpoint_of_another_program(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ckpt.pt").write_bytes(b"PK")
    for command in (("generate", "out"), ("train", "--init", "out", "--data", str(trained / "data" / "fox"))):
        result = scratchgpt(*command, cwd=tmp_path)
        assert (result.returncode, "Traceback" in result.stderr) == (FAILURE, False)
        assert "ckpt.pt is a pickle" in result.stderr
