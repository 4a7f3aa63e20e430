"""Where commands look for data and runs and write them: several at once, from other folders, under odd names."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from scratchgpt.cli import cli
from scratchgpt.files import write_json
from scratchgpt.training.checkpoint import own_digest
from scratchgpt.training.places import claimed_run
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
        with claimed_run("x") as run:
            (run / "log.jsonl").touch()
            return run.name

    with contextlib.chdir(tmp_path), ThreadPoolExecutor(n) as threads:
        names = {*threads.map(claim, range(n))}
        assert len(names) == n
        assert not names.intersection(there)
        with claimed_run("x") as unused:
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
        ("data/[b]", ".", "b"),
    ],
)
def test_a_run_is_named_after_its_data(project: Path, data: str, where: str, name: str) -> None:
    (project / "data" / "fox" / "sub").mkdir()
    (project / "data" / "link").symlink_to("fox")
    if not (project / data).exists():
        (project / "data" / "fox").rename(project / data)
    call(*TRAIN, "--steps", "1", "--data", data, cwd=project / where)
    assert [run.name for run in (project / where / "runs").iterdir()] == [f"{name}-shakespeare-cpu-1"]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two texts of the same characters, the first one prepared, and a run of two steps."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    (folder / "back.txt").write_text(TEXT[::-1], encoding="utf-8", newline="")
    call("prepare", "fox.txt", cwd=folder)
    call(*TRAIN, "--run", "runs/r", "--steps", "2", cwd=folder)
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(trained_once, tmp_path / "trained"))


RESUME = ("train", "--steps", "3", "--quiet", "--resume")


@pytest.mark.parametrize("command", [("evaluate",), RESUME])
@pytest.mark.parametrize("where", [".", "data", "runs/r", "..", "../elsewhere"])
@pytest.mark.parametrize("name", ["trained", "moved"])
def test_a_run_finds_its_data(trained: Path, command: tuple[str, ...], where: str, name: str) -> None:
    trained = trained.rename(trained.with_name(name))
    (trained.parent / "elsewhere").mkdir()
    cwd = (trained / where).resolve()
    call(*command, os.path.relpath(trained / "runs" / "r", cwd), cwd=cwd)
    call(*command, trained / "runs" / "r" / "checkpoints" / "last", cwd=cwd)


def test_info_finds_no_fault_with_the_data_of_a_run(trained: Path) -> None:
    assert json.loads(call("info", "runs/r", "--json", cwd=trained))["problems"] == []


def test_a_run_prefers_the_data_that_moved_with_it(trained: Path) -> None:
    other = trained.with_name("other")
    other.mkdir()
    call("prepare", trained / "back.txt", "--out", "data/fox", cwd=other)
    assert f"on val of {Path('../trained/data/fox')}: loss" in call("evaluate", "../trained/runs/r", cwd=other)


def test_a_run_without_its_data_names_both_places(trained: Path) -> None:
    run = (trained / "runs" / "r").rename(trained.with_name("r"))
    assert "loss" in call("evaluate", run, cwd=trained)  # where they were named
    (trained / "data").rename(trained / "gone")
    for command in (("evaluate",), RESUME):
        said = call(*command, run, cwd=trained, code=2)
        assert f"are not in {Path('../../data/fox')} or {Path('data/fox')}. Name them with --data." in said
        call(*command, run, "--data", "gone/fox", cwd=trained)


def test_a_checkpoint_of_before_names_its_data_from_the_working_folder(trained: Path) -> None:
    path = trained / "runs" / "r" / "checkpoints" / "step-000002" / "trainer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["data"].pop("from_run") == "../../data/fox"
    content.pop("sha256")
    write_json(path, content | {"sha256": own_digest(content)})
    assert "on val of data/fox: loss" in call("evaluate", "runs/r", cwd=trained)
    assert "are not in data/fox. Name" in call("evaluate", "../r", cwd=trained / "runs" / "r", code=2)
    call(*RESUME, "runs/r", cwd=trained)


@pytest.mark.parametrize("command", [("evaluate", "runs/r"), ("evaluate",), (*RESUME, "runs/r")])
@pytest.mark.parametrize("change", ["other text", "other part", "other vocabulary"])
def test_other_data_in_the_same_place_are_refused(trained: Path, command: tuple[str, ...], change: str) -> None:
    source = trained / "back.txt"
    if change == "other vocabulary":
        source.write_text(TEXT + "0123456789", encoding="utf-8", newline="")
    fraction = ("--val-fraction", "0.2") if change == "other part" else ()
    call("prepare", source, "--out", "data/fox", "--force", *fraction, cwd=trained)
    said = call(*command, cwd=trained, code=1)
    assert f"Error: {Path('data/fox')} is not the data that" in said
    assert said.endswith("was trained on. Prepare that text again, or name data with --data.")
    problem = f"{Path('data/fox')} is no longer the data that this was trained on."
    assert json.loads(call("info", "runs/r", "--json", cwd=trained))["problems"] == [problem]
    if command[0] == "evaluate":
        code = 2 if change == "other vocabulary" else 0
        said = call(*command, "--data", "data/fox", cwd=trained, code=code)
        assert ("is not that of" if code else "loss") in said


@pytest.mark.parametrize("name", ["runs/r", "runs/r/checkpoints/last", "runs/r/checkpoints/step-000002"])
@pytest.mark.parametrize(
    "command",
    [
        ("encode", "--tokenizer", "{}"),
        ("prepare", "fox.txt", "--out", "new", "--tokenizer", "{}"),
        ("generate", "{}", "--tokens", "1"),
        ("evaluate", "{}"),
        ("surprise", "fox.txt", "--model", "{}"),
    ],
)
def test_a_tokenizer_that_was_exchanged_is_refused(trained: Path, command: tuple[str, ...], name: str) -> None:
    path = trained / "runs" / "r" / "checkpoints" / "step-000002" / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"q"', '"Q"'), encoding="utf-8")
    said = call(*(word.format(name) for word in command), cwd=trained, code=1)
    assert "tokenizer.json was truncated or altered; use another checkpoint." in said


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "{}", "--tokens", "1"),
        ("evaluate", "{}"),
        ("info", "{}"),
        ("export", "{}", "--gguf", "x.gguf", "--force"),
        ("encode", "--tokenizer", "{}"),
        ("train", "--resume", "{}", "--steps", "3", "--quiet"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(
    ("where", "name"), [("checkpoints", "last"), ("checkpoints", "./best"), ("checkpoints/step-000002", "../last")]
)
def test_last_and_best_are_found_from_their_own_folder(
    trained: Path, command: tuple[str, ...], where: str, name: str
) -> None:
    said = call(*(word.format(name) for word in command), cwd=trained / "runs" / "r" / where)
    assert "step-000002" in said or command[0] in ("generate", "encode", "info", "train")


@pytest.mark.parametrize("name", ["data/fox/train.bin", "fox.txt", "m.gguf", "runs/r/log.jsonl", "notes.md"])
def test_a_file_far_from_models_is_not_said_to_be_in_one(trained: Path, name: str) -> None:
    (trained / name).touch()
    said = call("generate", name, cwd=trained, code=2)
    assert said == f"Error: {name} is a file; name a run, a checkpoint or a model's folder."
