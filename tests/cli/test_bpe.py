"""Words instead of characters, as a person comes by them: learnt, taken from elsewhere, trained on, written, piped."""

import json
from pathlib import Path

import pytest

from tests.cli.test_bad_input import USAGE, refused
from tests.world import TEXT, scratchgpt

SMALL = ("--block-size", "8", "--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--eval-windows", "2")
UMLAUTS = "Grüße, Jürgen! Schöne Füße.\n" * 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, prepared as data/own with 300 learnt tokens."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "own.txt").write_text(TEXT + UMLAUTS, encoding="utf-8", newline="")
    result = scratchgpt("prepare", "own.txt", "--bpe", "--vocab-size", "300", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "300 different tokens" in result.stdout
    return folder


def test_prepared_again(world: Path) -> None:
    result = scratchgpt("prepare", "own.txt", "--bpe", "--vocab-size", "300", cwd=world)
    assert "was prepared from this text before" in result.stdout


def test_a_vocabulary_from_elsewhere_gives_the_same_tokens(world: Path) -> None:
    for number, place in enumerate(("data/own", "data/own/tokenizer.json")):
        result = scratchgpt("prepare", "own.txt", "--tokenizer", place, "--out", f"data/{number}", cwd=world)
        assert result.returncode == 0, result.stderr
        assert (world / f"data/{number}/train.bin").read_bytes() == (world / "data/own/train.bin").read_bytes()


def test_train_and_generate(world: Path) -> None:
    trained = scratchgpt("train", "--data", "data/own", "--run", "r", "--steps", "2", *SMALL, cwd=world)
    assert trained.returncode == 0, trained.stderr
    made = scratchgpt("generate", "r", "--prompt", "Größe", "--tokens", "30", cwd=world)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("Größe")


@pytest.mark.parametrize("text", ["", "the quick Grüße\n", "no newline, 日本 \n\t", "\0 <|endoftext|>"])
def test_pipes_there_and_back(world: Path, text: str) -> None:
    ids = scratchgpt("encode", "--tokenizer", "data/own", cwd=world, standard_input=text)
    assert ids.returncode == 0, ids.stderr
    back = scratchgpt("decode", "--tokenizer", "data/own", cwd=world, standard_input=ids.stdout)
    assert back.returncode == 0, back.stderr
    assert back.stdout == text


def test_json_lines_there_and_back(world: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("the dog", "two\nlines", "Füße")]
    ids = scratchgpt("encode", "--json", "--tokenizer", "data/own", cwd=world, standard_input="\n".join(lines))
    assert ids.returncode == 0, ids.stderr
    assert all(json.loads(line).keys() == {"ids"} for line in ids.stdout.splitlines())
    back = scratchgpt("decode", "--json", "--tokenizer", "data/own", cwd=world, standard_input=ids.stdout)
    assert [json.loads(line) for line in back.stdout.splitlines()] == [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("command", "standard_input", "message"),
    [
        ("prepare own.txt --bpe --char", "", "choose one"),
        ("prepare own.txt --vocab-size 300", "", "give both, or neither"),
        ("prepare own.txt --bpe --vocab-size 100 --out data/x", "", "too small"),
        ("prepare own.txt --bpe --vocab-size 99999 --out data/x", "", "too large for this text"),
        ("prepare own.txt --tokenizer missing", "", "missing"),
        ("decode --tokenizer data/own", "1 2 x", "'x' is no id"),
        ("decode --tokenizer data/own", "300", "outside the vocabulary"),
        ("encode --tokenizer data/own --json", '{"text": "a"}\n{"words": 1}', "Line 2 of standard input"),
        ("decode --tokenizer data/own --json", '{"ids": [1, "a"]}', "Line 1 of standard input"),
        ("encode", "text", "--gpt2 or --tokenizer"),
        ("encode --gpt2 --tokenizer data/own", "text", "--gpt2 or --tokenizer"),
    ],
)
def test_what_is_refused(world: Path, command: str, standard_input: str, message: str) -> None:
    result = scratchgpt(*command.split(), cwd=world, standard_input=standard_input)
    assert message in refused(result, USAGE)
