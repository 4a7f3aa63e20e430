"""`prepare`: every character arrives, the split is where it should be, nothing is overwritten unasked."""

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.data import plain
from scratchgpt.data.dataset import Dataset, token_dtype
from scratchgpt.data.mix import find_sources
from scratchgpt.data.prepare import prepare
from scratchgpt.errors import DataError, UsageError


def write(folder: Path, content: bytes) -> Path:
    source = folder / "text.txt"
    source.write_bytes(content)
    return source


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=10, max_size=60),
    chunk=st.integers(1, 7),
)
def test_every_character_arrives_whatever_the_chunks(
    text: str, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("prepare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "CHUNK", chunk)  # cuts characters of several bytes in two
        prepared = prepare(write(folder, text.encode("utf-8")), folder / "out")
    dataset = Dataset.open(prepared.folder)
    parts = [dataset.tokenizer.decode(part.read(0, part.size)) for part in (dataset.train, dataset.val)]
    assert parts == [text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_line_ends_are_kept_and_a_byte_order_mark_is_not(encoding: str, tmp_path: Path) -> None:
    text = "one\r\ntwo\rthree \ufeff\n" * 5
    dataset = Dataset.open(prepare(write(tmp_path, text.encode(encoding)), tmp_path / "out").folder)
    whole = np.concatenate([dataset.train.read(0, dataset.train.size), dataset.val.read(0, dataset.val.size)])
    assert dataset.tokenizer.decode(whole) == text


def test_the_files_are_nanogpts(tmp_path: Path) -> None:
    """nanoGPT's prepare.py: the sorted characters, 90 %, uint16."""
    text = "hello there, general kenobi\n" * 20
    prepared = prepare(write(tmp_path, text.encode("utf-8")), tmp_path / "out")
    index = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = np.array([index[character] for character in text], np.uint16)
    n_train = int(len(text) * 0.9)
    assert (prepared.folder / "train.bin").read_bytes() == ids[:n_train].astype("<u2").tobytes()
    assert (prepared.folder / "val.bin").read_bytes() == ids[n_train:].astype("<u2").tobytes()


def test_the_fraction_for_validation(tmp_path: Path) -> None:
    meta = prepare(write(tmp_path, b"abcdefghij" * 10), tmp_path / "out", val_fraction=0.25).meta
    assert (meta["train_tokens"], meta["val_tokens"]) == (75, 25)
    for wrong in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="fraction"):
            prepare(tmp_path / "text.txt", tmp_path / "other", val_fraction=wrong)
    for extreme in (5e-324, 1e-30, 2**-54, 0.999, 1 - 2**-53):  # 1 - 1e-30 is 1
        with pytest.raises(DataError, match="too few to split"):
            prepare(tmp_path / "text.txt", tmp_path / "other", val_fraction=extreme)


@pytest.mark.parametrize(("vocab_size", "name"), [(1, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_ids_are_as_wide_as_the_vocabulary_needs(vocab_size: int, name: str) -> None:
    assert token_dtype(vocab_size).name == name


def test_the_same_text_again_is_done_already(tmp_path: Path) -> None:
    source = write(tmp_path, b"to be or not to be\n" * 9)
    first = prepare(source, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = prepare(source, tmp_path / "out")
    assert first.is_new
    assert not again.is_new
    assert again.meta == first.meta
    assert {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def test_another_text_needs_force(tmp_path: Path) -> None:
    folder = prepare(write(tmp_path, b"to be or not to be\n" * 9), tmp_path / "out").folder
    other = write(tmp_path, b"something else entirely\n" * 9)
    before = (folder / "train.bin").read_bytes()
    with pytest.raises(DataError, match="--force"):
        prepare(other, folder)
    assert (folder / "train.bin").read_bytes() == before
    assert prepare(other, folder, force=True).is_new
    assert Dataset.open(folder).tokenizer.vocab_size == len(set("something else entirely\n"))


def test_foreign_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "val.bin").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"val\.bin"):
        prepare(write(tmp_path, b"abc" * 20), tmp_path / "out")
    assert (tmp_path / "out" / "val.bin").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("content", "offset", "byte"),
    [(b"abc\xffdef", 3, "ff"), (b"ab\xc3", 2, "c3"), (b"x" * 9 + b"\xe2\x82", 9, "e2"), (b"caf\xe9 noir", 3, "e9")],
)
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 100])
def test_what_is_not_utf8_is_named_with_its_offset(
    content: bytes, offset: int, byte: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "CHUNK", chunk)
    with pytest.raises(DataError, match=f"0x{byte} at offset {offset} "):
        prepare(write(tmp_path, content), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("content", "reason"), [(b"", "is empty"), (b"a", "too few")])
def test_too_little_text(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason):
        prepare(write(tmp_path, content), tmp_path / "out")


def test_utf16_without_a_mark_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UTF-16 or UTF-32 without a byte order mark"):
        prepare(write(tmp_path, "to be or not to be".encode("utf-16-le")), tmp_path / "out")


def test_text_and_folder_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out"):
        prepare(write(tmp_path, b"abc" * 99), tmp_path / "text.txt")


def test_a_place_that_can_be_no_folder(tmp_path: Path) -> None:
    source = write(tmp_path, b"abc" * 99)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path(tmp_path.anchor)):
        with pytest.raises(UsageError, match="cannot be the folder"):
            prepare(source, place)


def test_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, b"abc" * 99)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert prepare(source, Path()).meta["train_tokens"] == 267
    assert not list(tmp_path.glob(".*"))


def test_the_work_is_done_beside_what_a_link_leads_to(tmp_path: Path) -> None:
    """Elsewhere may be another disk, from which nothing can be moved to its place."""
    source = write(tmp_path, b"abc" * 99)
    (tmp_path / "large" / "disk").mkdir(parents=True)
    try:
        (tmp_path / "out").symlink_to(tmp_path / "large" / "disk", target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")
    places: list[Path] = []
    prepare(source, tmp_path / "out", progress=lambda *_: places.extend(tmp_path.rglob(".*.partial")))
    assert set(places) == {tmp_path / "large" / ".disk.partial"}
    assert (tmp_path / "large" / "disk" / "train.bin").exists()


def test_a_text_that_changes_meanwhile(tmp_path: Path) -> None:
    source = write(tmp_path, b"abcd" * 100)
    passes = iter([None])

    def change_once(*_: object) -> None:
        if next(passes, "done") is None:
            source.write_bytes(b"abcd" * 90)

    with pytest.raises(DataError, match="changed"):
        prepare(source, tmp_path / "out", progress=change_once)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


def test_a_text_for_validation(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("abcd" * 10, encoding="utf-8")
    val = find_sources([tmp_path / "val.txt"])[0]
    meta = prepare(write(tmp_path, b"abc" * 50), tmp_path / "out", val=val).meta
    assert (meta["train_tokens"], meta["val_tokens"], meta["vocab_size"]) == (150, 40, 4)
    assert meta["asked"]["val"]["files"][0]["name"] == "val.txt"
    assert not prepare(tmp_path / "text.txt", tmp_path / "out", val=val).is_new


def test_documents_are_separated(tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "{text}"}}\n' for text in ("one two", "", "three", "four\\n five"))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    prepared = prepare(tmp_path / "a.jsonl", tmp_path / "out", val_fraction=0.5)
    dataset = Dataset.open(prepared.folder)
    train, val = (dataset.tokenizer.decode(part.read(0, part.size)) for part in (dataset.train, dataset.val))
    assert (train, val) == ("one two\nthre", "e\nfour\n five")
    assert prepared.meta["parts"][0]["documents"] == 3


def test_tokens_inside_the_text(tmp_path: Path) -> None:
    write(tmp_path, b"abc" * 50)
    with pytest.raises(UsageError, match="inside the text"):
        prepare(tmp_path, tmp_path / "data" / "out")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    source = tmp_path / "large.txt"
    with source.open("wb") as file:
        for _ in range(90):
            file.write(("Übermut tut selten gut. " * 40000).encode("utf-8"))
    done: Counter[str] = Counter()

    def count(stage: str, n_done: int, _: int) -> None:
        done[stage] += n_done

    tracemalloc.start()
    prepare(source, tmp_path / "out", progress=count)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert done == dict.fromkeys(("Reading", "Encoding"), source.stat().st_size)
    assert peak <= 64 * plain.CHUNK  # the text has 86
