"""Names of files and folders are text and nothing else: not markup, not UTF-8 in all cases, and harmless when shown."""

import ast
import contextlib
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import scratchgpt as package
from scratchgpt.cli import cli
from scratchgpt.cli.serve import _name
from scratchgpt.wording import shown
from tests.world import TEXT, scratchgpt

SMALL = ("--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--block-size", "8", "--batch-size", "2")
TRAIN = ("train", *SMALL, "--eval-windows", "2", "--lanes", "1", "--no-tune", "--steps", "1")
NAMES = {
    "not UTF-8": os.fsdecode(b"caf\xe9 \xff\xfe"),
    "half a character": os.fsdecode("€".encode()[:2]),
    "closing tag": "x[/b]",  # which is b] in a folder x[
    "tag": "[b]bold[bold]",
    "link": "[link=x]y[@click=app.exit]",
    "emoji": "a :smile: :warning:",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "two lines": "a\nError: b\r c",
    "turned around": "a\u202egnp.\u2066txt",
    "mathematics": r"_$\frac{x$ ${",
    "HTML": "<img src=x onerror=alert(1)> &amp;",
}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some of these names")


def call(*typed: str, cwd: Path, code: int = 0, **environment: str) -> str:
    """Run a command in this process; return what it says."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(cli, list(typed), env=environment)
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("terminal", ["", "1"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_goes_through_all_commands(tmp_path: Path, name: str, terminal: str) -> None:
    folder = tmp_path / name
    (folder / f"{name}.txt").parent.mkdir(parents=True)
    (folder / f"{name}.txt").write_text(TEXT, encoding="utf-8", newline="")
    (folder / f"{name}.toml").write_text("[train]\nlearning_rate = 0.1\n", encoding="utf-8")
    data, run, recipe = f"data/{name}", f"runs/{name}", f"{name}.toml"
    commands = [
        ("prepare", f"{name}.txt", f"{name}.txt", "--out", data),
        ("prepare", f"{name}.txt", f"{name}.txt", "--out", data),
        ("info", data),
        ("config", "--config", recipe),
        (*TRAIN, "--data", data, "--run", run, "--config", recipe, "--log", "csv", "--sample-every", "1"),
        ("train", "--resume", run, "--steps", "2", "--plain"),
        ("train", "--resume", run, "--steps", "2"),
        ("runs", str(Path(run).parent)),
        ("info", run),
        ("evaluate", run),
        ("surprise", f"{name}.txt", "--model", run),
        ("plot", run, "-o", f"{name}.svg"),
        ("logs", "export", run, "--to", "csv", "-o", f"{name}.csv"),
        ("prepare", f"{name}.txt", "--tokenizer", run, "--out", f"{data} 2"),
    ]
    for command in commands:
        said = call(*command, cwd=folder, FORCE_COLOR=terminal, COLUMNS="300")
        assert not {"\x1b]", "\x1b[31mred", "\u202e", "\u2066", "\r c"}.intersection(said), said
        assert not any("\ud800" <= letter <= "\udfff" for letter in said)
        if command[0] in ("evaluate", "surprise", "plot", "logs"):
            assert shown(name) in said
    for command in (("runs", str(Path(run).parent), "--json"), ("info", run, "--json"), ("evaluate", run, "--json")):
        assert [*map(json.loads, call(*command, cwd=folder).splitlines())]
    missing = call("info", f"nothing {name}", cwd=folder, code=2)
    assert missing == f"Error: There is no file or folder nothing {shown(name)}.\n"


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("inside", ["", "checkpoints/step-000001"])
def test_any_name_can_be_served(tmp_path: Path, name: str, inside: str) -> None:
    served = _name(tmp_path / name / inside, is_run=True)
    assert served == shown(name.rpartition("/")[2])
    assert served.isprintable()
    assert served.encode("utf-8")


def test_names_in_a_locale_of_ascii_only(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"d\xe9p")
    folder.mkdir()
    (folder / "Straße.txt").write_text(TEXT, encoding="utf-8", newline="")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    for command in (("prepare", "Straße.txt"), (*TRAIN, "--lanes", "2"), ("runs",), ("train", "--help")):
        result = scratchgpt(*command, cwd=folder, environment=os.environ | ascii_only)
        assert (result.returncode, result.stderr) == (0, "")
    assert (folder / "data" / "Straße").is_dir()
    with contextlib.chdir(folder):  # and what was written there is read in any locale
        assert CliRunner().invoke(cli, ["evaluate"]).exit_code == 0


def test_one_function_makes_consoles() -> None:
    """Others would take names for markup and emoji."""
    made = [
        (path.name, node.lineno)
        for path in sorted(Path(package.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console"
    ]
    assert [name for name, _ in made] == ["console.py"]
