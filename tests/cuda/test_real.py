"""The whole path on a GPU, with arrays that stay there: skipped where there is none."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scratchgpt.backend import on_gpu, select
from tests.backends import KNOWN
from tests.cuda.test_table import CASES, compare
from tests.world import make_dataset


def missing() -> str:
    """Return why there is no GPU here, or nothing."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    import cupy  # noqa: PLC0415

    return "" if cupy.cuda.is_available() else "CuPy finds no GPU"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=missing())]


UNPADDED = {"vocab_size": 64, "block_size": 33, "n_layer": 1, "n_head": 2, "n_embd": 32, "dropout": 0.2}
"""For compute-sanitizer: other rows of logits are read beyond their end, in packs, where nobody has written."""


@pytest.mark.parametrize("precision", ["fp64", "fp32", "tf32", "fp16"])
@pytest.mark.parametrize("case", [*CASES, pytest.param(UNPADDED, id="unpadded")])
def test_a_step(case: dict[str, Any], precision: str) -> None:
    if precision == "fp64":
        from scratchgpt.backend.gpu.cuda import Cuda  # noqa: PLC0415 - CuPy is needed for a GPU only

        device = Cuda()
        backend = on_gpu(device, "gpu:0", device.xp.asnumpy, KNOWN[precision])
    else:
        backend = select("gpu:0", precision=precision)
    compare(case, backend)


SIZES = ("--block-size", "16", "--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--batch-size", "4")


def scratchgpt(*arguments: str | Path, cwd: Path) -> str:
    """Run the command line, and return what it printed."""
    command = [sys.executable, "-m", "scratchgpt", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=os.environ, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_that_is_resumed_is_the_undisturbed_one(precision: str, tmp_path: Path) -> None:
    data = make_dataset(tmp_path).folder
    settings = (*SIZES, "--dropout", "0.2", "--warmup-steps", "2", "--eval-every", "0")
    begin = ("train", "--data", data, "--device", "gpu", "--precision", precision, *settings)
    scratchgpt(*begin, "--steps", "4", "--run", "whole", cwd=tmp_path)
    scratchgpt(*begin, "--steps", "2", "--run", "parts", cwd=tmp_path)
    scratchgpt("train", "--resume", "parts", "--steps", "4", cwd=tmp_path)
    whole, parts = (tmp_path / run / "checkpoints" / "step-000004" for run in ("whole", "parts"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert len(scratchgpt("generate", "whole", "--tokens", "5", "--device", "gpu", cwd=tmp_path)) == 7
