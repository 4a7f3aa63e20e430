"""The wheel: built, installed into a fresh environment, used from there; all that belongs inside is inside."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIMIT = 25_000_000
"""Bytes that the core install may take beside NumPy."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_what_is_in_the_wheel_is_what_is_in_the_repository(wheel: Path) -> None:
    listed = subprocess.check_output(["git", "ls-files", "scratchgpt"], cwd=ROOT, encoding="utf-8")  # noqa: S607
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == set(listed.splitlines())
    assert {"scratchgpt/py.typed", "scratchgpt/presets/gpt2.toml", "scratchgpt/ops/layernorm.md"} <= packed


@pytest.mark.slow
def test_the_wheel_works_where_nothing_else_is(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "fresh", with_pip=True)
    bin_folder = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(program: str, *arguments: str | Path) -> str:
        return subprocess.check_output(
            [bin_folder / program, *arguments], cwd=tmp_path, env=environment, encoding="utf-8"
        )

    site = Path(call("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    before = size(site)
    call("python", "-m", "pip", "install", "--quiet", wheel)
    numpy = sum(size(folder) for folder in site.glob("numpy*"))
    installed = size(site) - before - numpy
    print(f"the core install takes {installed / 1e6:.1f} MB beside NumPy's {numpy / 1e6:.1f} MB")
    assert installed <= LIMIT

    (tmp_path / "text.txt").write_text("to be or not to be, that is the question\n" * 99, encoding="utf-8")
    call("scratchgpt", "prepare", "text.txt", "--char")
    call("scratchgpt", "train", "--steps", "2")
    assert len(call("scratchgpt", "generate", "--tokens", "20")) == 22


def size(folder: Path) -> int:
    """Return the bytes in a folder's files, compiled Python left out."""
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyo")
    )
