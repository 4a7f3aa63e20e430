"""Where commands look for data and runs and write them: several at once, from other folders, under odd names."""

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from scratchgpt.cli import cli
from scratchgpt.cli.train import _claimed_run
from tests.world import TEXT

SMALL = ("--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--block-size", "8", "--batch-size", "2")
TRAIN = ("train", *SMALL, "--eval-windows", "2", "--lanes", "1", "--no-tune", "--quiet")


def call(*typed: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a command in this process; return all that it says, on one line."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(cli, list(map(str, typed)))
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with prepared data."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    call("prepare", "fox.txt", cwd=folder)
    return folder


@pytest.mark.parametrize("there", [[], ["x-1"], ["x-2"], ["x-1", "x-3"], ["x-1", "x-2", "x-3", "x-4"]])
def test_each_training_claims_a_name_of_its_own(tmp_path: Path, there: list[str]) -> None:
    n, start = 8, threading.Barrier(8)
    for name in there:
        (tmp_path / "runs" / name).mkdir(parents=True)

    def claim(_: int) -> str:
        start.wait()
        with _claimed_run("x") as run:
            (run / "log.jsonl").touch()
            return run.name

    with contextlib.chdir(tmp_path), ThreadPoolExecutor(n) as threads:
        names = {*threads.map(claim, range(n))}
        assert len(names) == n
        assert not names.intersection(there)
        with _claimed_run("x") as unused:
            pass
        assert not unused.exists()


def test_trainings_that_start_together_get_a_run_each(project: Path) -> None:
    command = [sys.executable, "-m", "scratchgpt", *TRAIN, "--steps", "1"]
    trainings = [
        subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)
    ]
    assert [training.communicate()[1] for training in trainings] == [b"", b"", b""]
    assert sorted(run.name for run in (project / "runs").iterdir()) == [f"fox-shakespeare-cpu-{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("data", "where", "name"),
    [
        (".", "data/fox", "fox"),
        ("..", "data/fox/sub", "fox"),
        ("./", "data/fox", "fox"),
        ("data/fox/", ".", "fox"),
        ("data/link", ".", "fox"),
        ("data/-x", ".", "x"),
        ("data/.hidden", ".", "hidden"),
        ("data/my data", ".", "my-data"),
        ("data/Straße", ".", "Straße"),
        ("data/[b]", ".", "b-"),
    ],
)
def test_a_run_is_named_after_its_data(project: Path, data: str, where: str, name: str) -> None:
    (project / "data" / "fox" / "sub").mkdir()
    (project / "data" / "link").symlink_to("fox")
    if not (project / data).exists():
        (project / "data" / "fox").rename(project / data)
    call(*TRAIN, "--steps", "1", "--data", data, cwd=project / where)
    assert [run.name for run in (project / where / "runs").iterdir()] == [f"{name}-shakespeare-cpu-1"]
