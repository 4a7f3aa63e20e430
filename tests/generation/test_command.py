"""`scratchgpt generate` as it is typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from scratchgpt.cli import cli
from scratchgpt.cli.generate import _converse as converse
from scratchgpt.cli.generate import _write_text as write_text
from scratchgpt.generation import Text
from scratchgpt.tokenizer import CharTokenizer
from tests.world import TEXT, scratchgpt

SMALL = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--eval-windows", "4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "fox.txt").write_text(TEXT, encoding="utf-8", newline="")
    assert scratchgpt("prepare", "fox.txt", cwd=folder).returncode == 0
    result = scratchgpt("train", "--lanes", "1", "--run", "runs/a", "--steps", "2", *SMALL, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def made(*typed: str, cwd: Path, given: str | None = None) -> str:
    """Return what is written by 20 tokens."""
    result = scratchgpt("generate", "--tokens", "20", *typed, cwd=cwd, standard_input=given)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def refused(*typed: str, cwd: Path, given: str | None = None) -> str:
    """Return why it is refused."""
    result = scratchgpt("generate", *typed, cwd=cwd, standard_input=given)
    assert (result.returncode, result.stdout, "Traceback" in result.stderr) == (2, "", False)
    return " ".join(result.stderr.split())


def test_samples_do_not_depend_on_each_other(trained: Path) -> None:
    three = made("--prompt", "the fox", "--samples", "3", cwd=trained).split("\n" + "-" * 80 + "\n")
    two = made("--prompt", "the fox", "--samples", "2", cwd=trained).split("\n" + "-" * 80 + "\n")
    assert len({text.strip("\n") for text in three}) == 3
    assert all(text.startswith("the fox") for text in three)
    assert three[:2] == [two[0], two[1].removesuffix("\n")]
    lines = [
        json.loads(line) for line in made("--prompt", "the fox", "--samples", "18", "--json", cwd=trained).splitlines()
    ]
    assert [line["sample"] for line in lines] == list(range(18))
    assert ["the fox" + line["text"] for line in lines[:2]] == three[:2]
    assert {(line["prompt"], line["end"], len(line["tokens"])) for line in lines} == {("the fox", "length", 20)}


def test_the_prompt_from_a_file_and_from_standard_input(trained: Path) -> None:
    (trained / "prompt.txt").write_text("the fox", encoding="utf-8")
    expected = made("--prompt", "the fox", cwd=trained)
    assert made("--prompt-file", "prompt.txt", cwd=trained) == expected
    assert made("--prompt-file", "-", cwd=trained, given="the fox") == expected
    assert made("--prompt-file", "-", cwd=trained, given="\ufeffthe fox") == expected


def test_log_probabilities(trained: Path) -> None:
    record = json.loads(made("--json", "--logprobs", cwd=trained))
    assert len(record["logprobs"]) == 20
    assert all(-20 < value < 0 for value in record["logprobs"])
    lines = made("--logprobs", cwd=trained).splitlines()
    shown = [line.split(maxsplit=1) for line in lines]
    assert [float(value) for value, _ in shown] == pytest.approx(record["logprobs"], abs=1e-4)
    assert (
        "".join(map(str.strip, (text for _, text in shown)))
        .replace("''", "")
        .strip("'")
        .encode()
        .decode("unicode_escape")
        == (record["text"])
    )


def test_where_texts_end(trained: Path) -> None:
    whole = json.loads(made("--json", cwd=trained))
    stop = whole["text"][5:7]
    ended = json.loads(made("--json", "--stop", "nonsense", "--stop", stop, cwd=trained))
    assert ended["text"] == whole["text"][: whole["text"].index(stop)]
    assert ended["end"] == "string"
    character = whole["text"][3]
    ended = json.loads(made("--json", "--stop-token", character, cwd=trained))
    assert ended["text"] == whole["text"][: whole["text"].index(character)]
    assert (ended["end"], "logprobs" in ended) == ("token", False)
    first = json.loads(made("--json", "--logprobs", "--stop-token", whole["text"][0], cwd=trained))
    assert (first["text"], first["tokens"], first["logprobs"]) == ("", [], [])


def test_what_the_vocabulary_does_not_have(trained: Path) -> None:
    message = refused("--prompt", "fox=2", cwd=trained)
    assert "'=' (U+003D, at position 3)" in message
    assert "Use --skip-unknown" in message
    assert made("--prompt", "fox=2", "--skip-unknown", cwd=trained) == made("--prompt", "fox", cwd=trained)
    assert "prompt is empty" in refused("--prompt", "=2", "--skip-unknown", cwd=trained)


def test_a_prompt_longer_than_the_context(trained: Path) -> None:
    long, short = "the quick brown fox jumps", "ick brown fox jumps"[-16:]
    result = scratchgpt("generate", "--tokens", "20", "--prompt", long, cwd=trained)
    assert result.returncode == 0
    assert result.stderr == "The prompt has 25 tokens; the model sees the last 16 of them.\n"
    assert result.stdout.removeprefix(long) == made("--prompt", short, cwd=trained).removeprefix(short)


def test_prompts_one_after_the_other(trained: Path) -> None:
    result = scratchgpt(
        "generate", "--tokens", "5", "--interactive", cwd=trained, standard_input="fox\n\n==\nthe dog\nfox\n"
    )
    assert result.returncode == 0
    texts = result.stdout.splitlines()
    assert "prompt is empty" in result.stderr.splitlines()[0]
    assert "'='" in result.stderr.splitlines()[1]
    assert texts[0].startswith("fox")
    assert any(text.startswith("the dog") for text in texts)


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_person_is_asked_on_a_terminal_only(
    is_seen: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What goes to a file holds no questions, and after the last one the shell has a line of its own."""
    asked: list[str] = []

    def end(question: str) -> str:
        asked.append(question)
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_seen)
    converse(lambda *_: None, 1)
    assert (asked, capsys.readouterr().out) == ((["> "], "\n") if is_seen else ([""], ""))


@pytest.mark.parametrize(("is_seen", "shown"), [(True, "\u241b[31ma\t\u241b[0m\n"), (False, "\x1b[31ma\t\x1b[0m\n")])
def test_a_text_does_nothing_to_a_terminal(
    is_seen: bool,  # noqa: FBT001
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_seen)
    write_text("\x1b[31m", {0: Text(CharTokenizer("a"))}, iter([["a\t"], ["\x1b[0m"]]))
    assert capsys.readouterr().out == shown


@pytest.mark.skipif(os.name != "posix", reason="closes standard input as a POSIX shell does")
@pytest.mark.parametrize("options", [["--interactive"], ["--prompt-file", "-"]])
def test_standard_input_that_is_closed(options: list[str], trained: Path) -> None:
    command = ["sh", "-c", 'exec "$0" -m scratchgpt generate "$@" <&-', sys.executable, *options]
    result = subprocess.run(command, cwd=trained, capture_output=True, encoding="utf-8", check=False)
    assert (result.stdout, "Traceback" in result.stderr) == ("", False)
    assert (result.returncode, result.stderr == "") == ((0, True) if "--interactive" in options else (2, False))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--prompt a --prompt-file fox.txt", "one way"),
        ("--prompt a --interactive", "one way"),
        ("--prompt-file none.txt", "none.txt"),
        ("--prompt=", "prompt is empty"),
        ("--stop=", "--stop is empty"),
        ("--stop-token ab", "'ab' is not one token"),
        ("--stop-token <|endoftext|>", "'<|endoftext|>' is not one token"),
        ("--temperature=-0.1", "temperature"),
        ("--temperature nan", "temperature"),
        ("--top-p 0", "top-p"),
        ("--top-p 1.01", "top-p"),
        ("--top-p nan", "top-p"),
        ("--min-p 2", "min-p"),
        ("--repetition-penalty 0", "repetition penalty"),
        ("--frequency-penalty inf", "frequency penalty"),
        ("--presence-penalty inf", "presence penalty"),
    ],
)
def test_what_cannot_be_meant(typed: str, message: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    result = CliRunner().invoke(cli, ["generate", *typed.split()])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_prompt_that_is_not_utf8(trained: Path) -> None:
    (trained / "latin1.txt").write_bytes("déjà".encode("latin-1"))
    result = scratchgpt("generate", "--prompt-file", "latin1.txt", cwd=trained)
    assert result.returncode == 1
    assert "The prompt is not UTF-8 text: the byte 0xe9 at offset 1" in " ".join(result.stderr.split())


@pytest.mark.parametrize("options", ["", "--json --samples 500", "--samples 500"])
def test_a_reader_that_leaves(options: str, trained: Path) -> None:
    """It has all that it wanted."""
    command = [sys.executable, "-m", "scratchgpt", "generate", "--tokens", "2000", *options.split()]
    with subprocess.Popen(command, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert len(process.stdout.read(5)) == 5
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
