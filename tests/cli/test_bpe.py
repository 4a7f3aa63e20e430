"""Words instead of characters, as a person comes by them: learnt, taken from elsewhere, trained on, written, piped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from scratchgpt import tokenizer
from scratchgpt.cli import decode, encode, options
from scratchgpt.data import plain
from tests.cli.test_bad_input import FAILURE, USAGE, refused
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
    (folder / "letters.txt").write_text("ab " * 99, encoding="utf-8", newline="")
    assert scratchgpt("prepare", "letters.txt", cwd=folder).returncode == 0
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
    for place in ("r", "r/checkpoints/step-000002", "data/own"):
        ids = scratchgpt("encode", "--tokenizer", place, cwd=world, standard_input="Größe")
        assert ids.returncode == 0, ids.stderr
        assert ids.stdout.split() == list(map(str, tokenizer.load(world / "data" / "own").encode("Größe")))


@pytest.mark.parametrize("text", ["", "the quick Grüße\n", "no newline, 日本 \n\t", "\0 <|endoftext|>"])
def test_pipes_there_and_back(world: Path, text: str) -> None:
    ids = scratchgpt("encode", "--tokenizer", "data/own", cwd=world, standard_input=text)
    assert ids.returncode == 0, ids.stderr
    back = scratchgpt("decode", "--tokenizer", "data/own", cwd=world, standard_input=ids.stdout)
    assert back.returncode == 0, back.stderr
    assert back.stdout == text


def test_a_small_text_gives_fewer_tokens(world: Path) -> None:
    (world / "small.txt").write_text("the cat sat on the mat\n" * 9, encoding="utf-8")
    result = scratchgpt("prepare", "small.txt", "--bpe", cwd=world)
    assert result.returncode == 0, result.stderr
    n_tokens = tokenizer.load(world / "data" / "small").vocab_size
    assert f"This text gives {n_tokens:,} tokens, fewer than 4,096." in result.stdout


def test_json_lines_there_and_back(world: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("the dog", "two\nlines", "Füße")]
    ids = scratchgpt("encode", "--json", "--tokenizer", "data/own", cwd=world, standard_input="\n".join(lines))
    assert ids.returncode == 0, ids.stderr
    assert all(json.loads(line).keys() == {"ids"} for line in ids.stdout.splitlines())
    back = scratchgpt("decode", "--json", "--tokenizer", "data/own", cwd=world, standard_input=ids.stdout)
    assert [json.loads(line) for line in back.stdout.splitlines()] == [json.loads(line) for line in lines]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100, 2**20])
def test_pipes_do_not_care_for_blocks(world: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "BLOCK", block)
    monkeypatch.setattr(plain, "CHUNK", block)
    vocabulary = ("--tokenizer", str(world / "data" / "own"))
    text = "Grüße , the  quick\r\n\r\n\ufeff日本語 🙂 dog's\n \t end  \n"
    ids = CliRunner().invoke(encode.command, vocabulary, input=f"\ufeff{text}".encode())  # a mark is no text
    assert ids.output.split() == list(map(str, tokenizer.load(world / "data" / "own").encode(text)))
    back = CliRunner().invoke(decode.command, vocabulary, input="\r\n " + ids.output.replace(" ", "\n", 3))
    assert back.stdout_bytes == text.encode("utf-8")


def test_a_pipe_that_is_closed(world: Path) -> None:
    line = json.dumps({"text": "the quick brown fox"}) + "\n"
    for command, data in (("encode", TEXT), ("encode --json", line), ("decode", "5 6 7\n")):
        process = subprocess.Popen(
            [sys.executable, "-m", "scratchgpt", *command.split(), "--tokenizer", "data/own"],
            cwd=world,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout
        process.stdout.close()
        _, errors = process.communicate(data.encode("utf-8") * 9_999)
        assert not errors


def test_json_lines_are_answered_one_by_one(world: Path) -> None:
    command = [sys.executable, "-m", "scratchgpt", "decode", "--json", "--tokenizer", "data/own"]
    with subprocess.Popen(command, cwd=world, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin
        assert process.stdout
        for line in (b'{"ids": []}\n', b'\r\n\xef\xbb\xbf{"ids": [1, 2], "more": null}\r\n'):
            process.stdin.write(line)
            assert json.loads(process.stdout.readline()).keys() == {"text"}
        process.stdin.close()


@pytest.mark.parametrize(
    ("command", "standard_input", "message"),
    [
        ("prepare own.txt --bpe --char", "", "choose one"),
        ("prepare own.txt --vocab-size 300", "", "give both, or neither"),
        ("prepare own.txt --bpe --vocab-size 100 --out data/x", "", "too small"),
        ("prepare own.txt --tokenizer missing", "", "missing"),
        ("decode --tokenizer data/own", "1 2\n\nx 3", "Line 3 of standard input: 'x' is no id; ids are whole numbers"),
        (
            "decode --tokenizer data/own",
            "1 300",
            "Line 1 of standard input: '300' is no id; ids are whole numbers below",
        ),
        ("decode --tokenizer data/own", "1 -3", "'-3' is no id"),
        ("decode --tokenizer data/own", "9" * 9999, "'99999999"),
        (
            "encode --tokenizer data/own --json",
            '{"text": "a"}\n\n{"words": 1}',
            "Line 3 of standard input: It is no JSON",
        ),
        ("encode --tokenizer data/own --json", '{"text": "a"}\n{"text": 1}', "Line 2 of standard input: Its field"),
        ("encode --tokenizer data/own --json", r'{"text": "a\ud800"}', "Line 1 of standard input: The text has half a"),
        ("encode --tokenizer data/own --json", "[" * 99_999, "Line 1 of standard input: It is no JSON"),
        ("decode --tokenizer data/own --json", '{"ids": [1, "a"]}', "Line 1 of standard input: 'a' is no id"),
        ("decode --tokenizer data/own --json", '{"ids": [1, true]}', "True is no id"),
        ("decode --tokenizer data/own --json", '{"ids": [-1]}', "-1 is no id"),
        ("decode --tokenizer data/own --json", '{"ids": [' + "9" * 400 + "]}", "999 is no id"),
        ("encode", "text", "--gpt2 or --tokenizer"),
        ("encode --gpt2 --tokenizer data/own", "text", "--gpt2 or --tokenizer"),
    ],
)
def test_what_is_refused(world: Path, command: str, standard_input: str, message: str) -> None:
    result = scratchgpt(*command.split(), cwd=world, standard_input=standard_input)
    assert message in refused(result, USAGE)


@pytest.mark.parametrize(
    ("command", "data", "code", "message"),
    [
        ("encode --tokenizer .", b"", FAILURE, "no vocabulary, neither tokenizer.json nor vocab.json"),
        (
            "encode",
            b"x" * 2**20 + b"caf\xe9",
            FAILURE,
            "input is not UTF-8 text: the byte 0xe9 at offset 1,048,579 ",
        ),
        ("encode --tokenizer data/letters", b"ab " * 2**20 + b"?", USAGE, "fter the first 3,145,"),
        ("encode --tokenizer data/letters", b"ab?", USAGE, "The character '?' (U+003F, at position 2)"),
        ("encode", b"caf\xe2\x82", FAILURE, "offset 3 "),
        (
            "encode --json",
            b'{"text": "a"}\n{"text": "\xe9"}',
            USAGE,
            "Line 2 of standard input: The byte at offset 10 is",
        ),
        ("decode", b"1 \xe9", USAGE, "is no id"),
        ("decode --json", b"\xff\xfe{", USAGE, "Line 1 of standard input: The byte at offset 0 is not UTF-8"),
    ],
)
def test_bytes_that_are_refused(world: Path, command: str, data: bytes, code: int, message: str) -> None:
    name, *options = command.split()
    result = subprocess.run(
        [sys.executable, "-m", "scratchgpt", name, "--tokenizer", "data/own", *options],
        cwd=world,
        input=data,
        capture_output=True,
        check=False,
    )
    text = subprocess.CompletedProcess[str]([], result.returncode, "", result.stderr.decode("utf-8"))
    assert message in refused(text, code)
