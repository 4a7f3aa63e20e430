"""`prepare` as a person uses it: own texts of many kinds, mixtures, and what is wrong with them."""

import errno
import gzip
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from scratchgpt.cli import cli
from scratchgpt.cli.options import read_text, text_pieces
from scratchgpt.errors import DataError
from tests.cli.test_bad_input import FAILURE, USAGE, refused
from tests.world import scratchgpt

TEXTS = {
    "25_gedichte/nacht.txt": "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch.\n",
    "75_стихи/утро.txt": "Мороз и солнце; день чудесный! Ещё ты дремлешь, друг прелестный.\n",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mixture in data/mix, JSON lines and a packed text."""
    folder = tmp_path_factory.mktemp("world")
    for name, text in TEXTS.items():
        path = folder / "data" / "mix" / name
        path.parent.mkdir(parents=True)
        path.write_text(text * 100, encoding="utf-8", newline="")
    (folder / "poems.txt.gz").write_bytes(gzip.compress(("春眠不觉晓，处处闻啼鸟。\n" * 100).encode("utf-8")))
    lines = [json.dumps({"body": f"document {number}, its words"}) for number in range(50)]
    (folder / "lines.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "bad.txt").write_bytes(b"caf\xe9 noir\n" * 20)
    return folder


def meta(folder: Path) -> dict[str, int]:
    content: dict[str, int] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return content


def test_a_mixture(world: Path) -> None:
    for word in ("is ready", "was prepared from this text before"):
        result = scratchgpt("prepare", "data/mix", "--mix-folders", cwd=world)
        assert result.returncode == 0, result.stderr
        header, german, russian, titles, *mixture, last = result.stdout.splitlines()
        assert header.split()[:4] == ["source", "documents", "characters", "tokens"]
        assert german.split()[:5] == ["gedichte", "1", "7,400", "7,400", "1.00"]
        assert russian.split()[-1] == "0"
        assert titles.split()[:3] == ["mixture", "asked", "taken"]
        assert [row.split()[:3] for row in mixture] == [["gedichte", "25.00%", "25.00%"], ["стихи", "75.00%", "75.00%"]]
        assert last.startswith(f"data/mix-tokens {word}: ")  # not into the folder of the texts
    assert scratchgpt("train", "--steps", "2", "--block-size", "16", "--eval-windows", "2", cwd=world).returncode == 0


def test_a_check_counts_the_documents_of_separators(world: Path) -> None:
    (world / "poems.txt").write_text("a\n<|endoftext|>\nb\n" * 99, encoding="utf-8")
    for options, documents in ((), "100 documents"), (("--separator", ""), "1 document"):
        result = CliRunner().invoke(cli, ["prepare", str(world / "poems.txt"), "--check", *options])
        assert f": {documents}, " in result.output


def test_all_text_is_kept_unless_a_mixture_is_asked_for(world: Path) -> None:
    result = scratchgpt("prepare", "data/mix", "--out", "data/whole", cwd=world)
    assert result.returncode == 0, result.stderr
    assert "use --mix-folders" in result.stdout
    found = meta(world / "data" / "whole")
    assert found["train_tokens"] + found["val_tokens"] >= sum(len(text) * 100 for text in TEXTS.values())


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a\n<|endoftext|>\nb\n", (), "Documents end at lines that hold only <|endoftext|>, found 99 times."),
        ("a\n<|endoftext|>\nb\n", ("--separator", ""), None),
        ("a b<|endoftext|>c\n", (), "<|endoftext|> 99 times inside lines"),
        ("a b<|endoftext|>c\n", ("--separator", "<|endoftext|>"), "'<|endoftext|>', found 99 times"),
        ("a b---c\n", ("--separator", "---"), "'---', found 99 times"),
        ("a b c\n", ("--separator", "---"), "'---', found 0 times"),
        ("a b c\n", (), None),
    ],
)
def test_separators(text: str, options: tuple[str, ...], said: str | None, world: Path) -> None:
    (world / "stories.txt").write_text(text * 99, encoding="utf-8")
    result = CliRunner().invoke(
        cli, ["prepare", str(world / "stories.txt"), "--out", str(world / "s"), "--force", *options]
    )
    assert result.exit_code == 0, result.output
    assert said in result.output if said else "endoftext" not in result.output


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("a\n<|endoftext|>\nb\n", (), "<|endoftext|>, found 1 time."),
        ("a b<|endoftext|>c\n", (), "<|endoftext|> 1 time inside lines"),
        ("a b---c\n", ("--separator", "---"), "found 1 time."),
        ("abc", ("--check",), ": 1 document, 3 characters."),
        ("a", ("--check",), ": 1 document, 1 character."),
        ("a\n<|endoftext|>\nb", ("--check",), ": 2 documents, 3 characters."),
    ],
)
def test_one_is_no_plural(text: str, options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(cli, ["prepare", str(tmp_path / "one.txt"), "--out", str(tmp_path / "one"), *options])
    assert result.exit_code == 0, result.output
    assert said in result.output


class _Unreadable(io.BytesIO):
    """A stream that its system does not let be read."""

    def read(self, _size: int | None = -1) -> bytes:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@pytest.mark.parametrize("name", ["The prompt", "The text", "Standard input", "a b.txt", "caf\udce9.txt"])
def test_a_sentence_begins_with_what_cannot_be_read(name: str) -> None:
    with pytest.raises(DataError) as caught:
        list(text_pieces(_Unreadable(), name))
    assert str(caught.value) == f"{name} cannot be read: {os.strerror(errno.EBADF)}."


def test_weights_that_are_typed(world: Path) -> None:
    options = ("--mix", "poems=1", "--mix", "lines=3", "--field", "body", "--out", "data/typed")
    result = scratchgpt("prepare", "poems.txt.gz", "lines.jsonl", *options, cwd=world)
    assert result.returncode == 0, result.stderr
    assert "The weights sum to 4, not 100" in result.stdout
    assert "75.0" in result.stdout


def test_standard_input(world: Path) -> None:
    for name, options in (("poems.txt.gz", ()), ("lines.jsonl", ("--field", "body"))):
        data = (world / name).read_bytes()
        result = subprocess.run(
            [sys.executable, "-m", "scratchgpt", "prepare", "-", "--out", f"data/{name}", *options],
            input=gzip.decompress(data) if name.endswith(".gz") else data,
            cwd=world,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert meta(world / "data" / "poems.txt.gz")["vocab_size"] == 12
    assert "50" in result.stdout.decode("utf-8").split()
    assert not list((world / "data").glob(".*"))


PIPED = {
    "pipe.txt": ("to be or not to be\n" * 20).encode("utf-8"),
    "pipe.gz": gzip.compress(b"to be or not to be\n" * 20),
    "pipe.jsonl": b'{"text": "to be or not"}\n{"text": " to be\\n"}\n' * 20,
    "pipe": ("to be or not to be\n" * 20).encode("utf-16"),
}


def write_and_close(target: str | int, content: bytes) -> None:
    with open(target, "wb") as file:  # noqa: PTH123 - a path or an open file
        file.write(content)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", PIPED)
@pytest.mark.parametrize("place", ["FILE", "--val", "/dev/fd"])
def test_pipes_are_read_once(name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.txt").write_text("to be or not to be\n" * 20, encoding="utf-8")
    os.mkfifo(name)
    reader, writer = os.pipe()
    text = f"/dev/fd/{reader}" if place == "/dev/fd" else name
    names = ["plain.txt", "--val", text] if place == "--val" else [text]
    options = ("--field", "text") if text != name and name == "pipe.jsonl" else ()
    with ThreadPoolExecutor() as pool:
        written = pool.submit(write_and_close, name if text == name else writer, PIPED[name])
        result = CliRunner().invoke(cli, ["prepare", *names, "--out", "out", *options])
        written.result()
    os.close(reader)
    assert result.exit_code == 0, result.output
    assert meta(tmp_path / "out")["vocab_size"] == len(set("to be or not to be\n"))
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted({"plain.txt", name, "out"})


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero")
@pytest.mark.parametrize("arguments", ["/dev/zero", "-", "/dev/stdin", "/dev/fd/0", "plain.txt --val -", "folder"])
def test_a_device_is_not_read_for_ever(arguments: str, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("to be or not to be", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "zero").symlink_to("/dev/zero")
    with Path("/dev/zero").open("rb") as zero:
        command = [sys.executable, "-m", "scratchgpt", "prepare", *arguments.split(), "--out", "out"]
        result = subprocess.run(command, stdin=zero, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert "name a text in its place" in refused(result, FAILURE).replace("give a text file", "name a text")


@pytest.mark.parametrize(("source", "message"), [("lines.jsonl", "goes on from there"), ("-", "has to be given again")])
def test_interrupted(source: str, message: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(world)
    monkeypatch.setattr("scratchgpt.data.prepare.prepare", interrupt)
    result = CliRunner().invoke(cli, ["prepare", source, "--out", "data/never"], input="some text")
    assert result.exit_code == 130
    assert message in result.output


def test_validation_text_and_replaced_bytes(world: Path) -> None:
    result = scratchgpt(
        "prepare", "bad.txt", "--errors", "replace", "--val", "lines.jsonl", "--field", "body", cwd=world
    )
    assert result.returncode == 0, result.stderr
    assert meta(world / "data" / "bad")["train_tokens"] == 200


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("bad.txt", FAILURE, "0xe9 at offset 3 does not belong"),
        ("bad.txt", FAILURE, "--errors replace"),
        ("lines.jsonl", FAILURE, "No row of lines.jsonl has a field 'text', only body. Name one with --field"),
        ("lines.jsonl bad.txt", USAGE, "name the folder for their tokens with --out"),
        ("poems.txt.gz --val bad.txt --val-fraction 0.2", USAGE, "leave out --val-fraction"),
        (
            "lines.jsonl poems.txt.gz --val poems.txt.gz --out data/x",
            USAGE,
            "poems.txt.gz is text to train on and to validate",
        ),
        ("data/mix --val data/mix/25_gedichte", USAGE, "name each for one of them only"),
        ("- - --out data/x", USAGE, "Standard input can be read only once"),
        ("poems.txt.gz --mix poem=1", USAGE, "must weigh each source once: poems; it has poem."),
        ("data/mix --mix 25_gedichte=0 --mix 75_стихи=1", USAGE, "weight of 25_gedichte=0 must be a number above 0"),
        ("data/mix --out data/mix/25_gedichte", USAGE, "inside the text"),
    ],
)
def test_what_is_refused(command: str, code: int, message: str, world: Path) -> None:
    assert message in refused(scratchgpt("prepare", *command.split(), cwd=world), code)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("reader", ["prepare", "prepare -", "encode", "--prompt-file"])
def test_a_byte_order_mark_is_no_text(
    encoding: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "to be or not to be\n" * 3
    data = text.encode(encoding)
    (tmp_path / "marked.txt").write_bytes(data)
    if reader == "--prompt-file":
        with (tmp_path / "marked.txt").open("rb") as file:
            assert read_text(file, "text") == text
        return
    (tmp_path / "plain.txt").write_bytes(text.encode("utf-8"))
    run = CliRunner().invoke
    assert run(cli, ["prepare", "plain.txt"]).exit_code == 0
    commands = {
        "prepare": ["prepare", "marked.txt", "--tokenizer", "data/plain"],
        "prepare -": ["prepare", "-", "--tokenizer", "data/plain"],
        "encode": ["encode", "--tokenizer", "data/plain"],
    }
    result = run(cli, commands[reader], input=data)
    assert result.exit_code == 0, result.output
    if reader == "encode":
        assert len(result.stdout.split()) == len(text)


def test_rows_without_text_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": "to be or not"}, {"text": None}, {"id": 1}, {"text": ""}] * 5
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = CliRunner().invoke
    for options in (["--check"], []):
        result = run(cli, ["prepare", "a.jsonl", *options])
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[-1].endswith("; 15 rows without text passed over.")
    content = json.loads((tmp_path / "data" / "a" / "meta.json").read_text(encoding="utf-8"))
    assert content["parts"][0]["skipped_rows"] == 15
    for options in (["--check"], []):
        result = run(cli, ["prepare", "a.jsonl", "--strict", *options])
        assert result.exit_code == 1
        assert "Line 2 of a.jsonl has no text in a field 'text'" in " ".join(result.output.split())
    (tmp_path / "b.jsonl").write_text('{"text": null}\n' * 2, encoding="utf-8")
    assert "b is empty; 2 rows without text passed over" in run(cli, ["prepare", "b.jsonl"]).output
