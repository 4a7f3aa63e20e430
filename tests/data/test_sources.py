"""Sources: every kind of file gives its documents whole, and what is wrong with a file is said with its place."""

import bz2
import csv
import gzip
import importlib
import json
import lzma
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.data import documents as documents_module
from scratchgpt.data import plain, unpacking
from scratchgpt.data.documents import Tally
from scratchgpt.data.mix import source_name
from scratchgpt.data.reading import Reading
from scratchgpt.data.sources import TextFile, check_reading, text_files
from scratchgpt.errors import DataError, UsageError
from scratchgpt.tokenizer.cutting import GPT4_PATTERNS, before_white_space, cut_of
from scratchgpt.tokenizer.patterns import split
from scratchgpt.tokenizer.splitting import GPT2_PATTERN
from tests.test_kinds import tar, zipped

# That of Llama 3, whose kin is in most files of today.
TEXTS = ["Ünder the sea", "日本語の文\nand more", "third 🙂"]


def documents(path: Path, how: Reading = Reading()) -> list[str]:  # noqa: B008 - it cannot change
    """Return the documents of a file."""
    return ["".join(document) for document in read(TextFile(path, path), how)]


def read(file: TextFile, how: Reading = Reading()) -> Any:  # noqa: B008
    return file.documents(how, cut=before_white_space, read=lambda _: None, tally=Tally())


def write_lines(path: Path, texts: list[str], field: str = "text") -> Path:
    content = "".join(json.dumps({"id": 1, field: text}) + "\n" for text in texts)
    path.write_bytes(gzip.compress(content.encode("utf-8")) if path.suffix == ".gz" else content.encode("utf-8"))
    return path


def test_packed_lines_that_are_cut(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl.gz", [str(number) for number in range(9_999)])
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is damaged"):
        documents(path)


@pytest.mark.parametrize("chunk", [1, 5, 2**20])
def test_packed_text(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "CHUNK", chunk)
    text = "\n".join(TEXTS) * 9
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode("utf-8")))
    assert documents(tmp_path / "a.txt.gz") == [text]


def test_zstandard(tmp_path: Path) -> None:
    zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    path = tmp_path / "a.txt.zst"
    whole = zstd.compress(TEXTS[0].encode("utf-8")) + zstd.compress(TEXTS[1].encode("utf-8"))  # frames may follow
    path.write_bytes(whole)
    assert documents(path) == [TEXTS[0] + TEXTS[1]]
    for broken in (whole[:-3], whole + b"no zstandard at all"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.txt\.zst is damaged"):
            documents(path)


def test_zstandard_with_the_longest_window(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    text = TEXTS[0].encode("utf-8")
    # RFC 8878: a frame of a raw block, with a window of 2^31 bytes and without a size or checksum.
    path.write_bytes(b"\x28\xb5\x2f\xfd\0" + bytes([21 << 3]) + (len(text) << 3 | 1).to_bytes(3, "little") + text)
    pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    assert documents(path) == [TEXTS[0]]


@pytest.mark.parametrize(
    "name",
    [
        *("a.jsonl", "a.jsonl.gz", "a.JSONL.GZ", "a.jsonl.gzip", "a.jsonl.zst", "a.jsonl.zstd", "a.jsonl.bzip2"),
        *("a.jsonl.gz.gz", "a.jsonl.bz2.xz.gz"),
    ],
)
def test_names_of_packed_lines(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(LINES))
    assert documents(tmp_path / name) == TEXTS
    assert source_name(tmp_path / name) == "a"


def test_json_lines(tmp_path: Path) -> None:
    assert documents(write_lines(tmp_path / "a.jsonl", TEXTS)) == TEXTS
    assert documents(write_lines(tmp_path / "b.jsonl.gz", TEXTS, "body"), Reading(field="body")) == TEXTS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": 5}', "Line 3 of .* has no text in a field 'text'"),
        (b"[1]", "Line 3 of .* has no text"),
        (b"{text}", "Line 3 of .* is not JSON"),
        (b"[" * 100_000, "Line 3 of .* is not JSON"),
        (b'{"text": "\xff"}', "0xff at offset 46 "),
        (b'{"text": "\\ud83d"}', "Line 3 of .* half a surrogate pair"),
        (b"x" * 301, "Line 3 of .* is longer than 300 characters"),
    ],
)
def test_a_line_that_is_wrong(line: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "LONGEST_ROW", 200_000 if line.startswith(b"[") else 300)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one", "more": {"a": 2}}\r\n\n' + line + b"\n")
    with pytest.raises(DataError, match=message):
        documents(tmp_path / "a.jsonl")


def test_a_byte_order_mark_before_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}', encoding="utf-8-sig")
    assert documents(tmp_path / "a.jsonl") == ["one"]


def test_replacing_what_is_wrong(tmp_path: Path) -> None:
    how = Reading(errors="replace")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 noir")
    assert documents(tmp_path / "a.txt", how) == ["caf\ufffd noir"]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xe9 \\ud83d"}')
    assert documents(tmp_path / "a.jsonl", how) == ["\ufffd \ufffd"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2, 3], "text": TEXTS}), path)
    assert documents(path) == TEXTS
    for how, message in ((Reading(field="body"), "no column 'body', only id, text"), (Reading(field="id"), "Row 1 ")):
        with pytest.raises(DataError, match=message):
            documents(path, how)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged"):
        documents(path)


def test_parquet_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """Its hash is known only after its rows: without care it would be that of another file."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, texts in (("a.parquet", TEXTS), ("new.parquet", ["others"])):
        parquet.write_table(pyarrow.table({"text": texts}), tmp_path / name)
    reading = read(TextFile(tmp_path / "a.parquet", tmp_path))
    assert "".join(next(reading)) == TEXTS[0]
    (tmp_path / "new.parquet").replace(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="changed while it was being read"):
        list(reading)


@pytest.mark.parametrize(
    ("names", "how", "message"),
    [
        (["a.txt", "b.md.gz"], Reading(field="body"), "--field is for rows of JSON, CSV and Parquet"),
        (["a.PARQUET"], Reading(errors="replace"), "--errors is for text that may not be UTF-8"),
        (["a.txt", "b.jsonl.gz"], Reading(field="body", errors="replace"), None),
        (["a.parquet", "b.txt"], Reading(field="body", errors="replace"), None),
        (["a.txt"], Reading(strip_gutenberg=True), None),
        (["a.parquet"], Reading(), None),
    ],
)
def test_settings_that_mean_nothing(names: list[str], how: Reading, message: str | None, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    if message is None:
        check_reading(text_files(tmp_path), how)
    else:
        with pytest.raises(UsageError, match=message):
            check_reading(text_files(tmp_path), how)


@pytest.mark.parametrize(("name", "extra"), [("a.parquet", "parquet"), ("a.txt.zst", "zstd")])
def test_an_extra_that_is_missing(name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError

    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd" if extra == "zstd" else b"PAR1")
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=rf"pip install 'scratchgpt\[{extra}\]'"):
        documents(tmp_path / name)


def test_a_packed_file_that_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    packed = gzip.compress(b"to be or not to be" * 99)
    for content in (packed[:-9], packed + b"no gzip at all", packed[:-6] + packed[:6]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.txt\.gz is damaged"):
            documents(path)


def test_folders_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", ".git/config", "a/.DS_Store", "a/Thumbs.db", "desktop.ini", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    names = [file.path.relative_to(tmp_path).as_posix() for file in text_files(tmp_path)]
    assert names == ["a/b/c.txt", "a/z.txt", "a.txt", "b.txt"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        text_files(tmp_path / "none")


def test_a_file_that_changes_between_readings(tmp_path: Path) -> None:
    file = TextFile(write_lines(tmp_path / "a.jsonl", TEXTS), tmp_path)
    assert ["".join(document) for document in read(file)] == TEXTS
    assert file.record["name"] == "a.jsonl"
    write_lines(tmp_path / "a.jsonl", [TEXTS[0], TEXTS[2], TEXTS[1]])
    with pytest.raises(DataError, match=r"a\.jsonl changed while it was being read"):
        _ = [list(document) for document in read(file)]


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"to be or not\n" * plain.CHUNK)
    file = TextFile(path, path)
    for document in read(file):
        next(document)
        with path.open("ab") as more:
            more.write(b"to be")
        assert sum(map(len, document)) > 0
    path.write_bytes(path.read_bytes() + b"?")
    with pytest.raises(DataError, match=r"a\.txt changed while it was being read"):
        _ = [list(document) for document in read(file)]


HEADER = (
    "The Project Gutenberg eBook of Ecce\r\n\r\n*** START OF THE PROJECT GUTENBERG EBOOK ECCE,\r\nA LONG TITLE ***\r\n"
)
FOOTER = "*** END OF THIS PROJECT GUTENBERG EBOOK ECCE ***\r\n\r\nSection 1. General Terms\r\n"


@given(text=st.text("a*\n ", max_size=90), at=st.integers(0, 90))
def test_gutenbergs_header_and_footer(text: str, at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("gutenberg") / "ecce.txt"
    text += "\n"
    path.write_text(HEADER + text + FOOTER, encoding="utf-8", newline="")
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "CHUNK", len(HEADER) + at)
        file = TextFile(path, path)
        how = Reading(strip_gutenberg=True)
        found = file.documents(how, cut=before_white_space, read=lambda _: None, tally=tally)
        (kept,) = ["".join(text) for text in found]
    assert kept == text
    assert tally.dropped_characters == len(HEADER + FOOTER)


PATTERNS = [
    (GPT2_PATTERN,),
    (r"\p{N}", GPT2_PATTERN),
    *((pattern,) for pattern in sorted(GPT4_PATTERNS)),
    (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", min(GPT4_PATTERNS)),
    (GPT2_PATTERN, "a b|a+"),  # what follows splits only pieces
    (),
    ("a b",),
]


@pytest.mark.parametrize("patterns", PATTERNS, ids=range(len(PATTERNS)))
@given(pieces=st.lists(st.text("asAé1.'/ \n\r\t。中\u0301", max_size=9), max_size=9), longest=st.integers(0, 9))
def test_no_word_is_cut(patterns: tuple[str, ...], pieces: list[str], longest: int) -> None:
    cut = cut_of(patterns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "LONGEST_WORD", longest)
        if cut or len("".join(pieces)) <= longest:
            assert "".join(documents_module.whole_words(iter(pieces), cut, "x.txt")) == "".join(pieces)
        else:
            with pytest.raises(DataError, match=f"x.txt has a text of more than {longest} characters, and the split"):
                list(documents_module.whole_words(iter(pieces), cut, "x.txt"))
    whole = list(documents_module.whole_words(iter(pieces), cut, "x.txt"))
    assert "".join(whole) == "".join(pieces)
    assert [part for piece in whole for part in split(piece, patterns)] == split("".join(pieces), patterns)


@pytest.mark.parametrize("patterns", PATTERNS[:-2], ids=range(len(PATTERNS) - 2))
def test_a_long_text_is_cut(patterns: tuple[str, ...]) -> None:
    for text in ("12 13", "it's a\nline"):
        assert len(list(documents_module.whole_words(iter([text] * 9), cut_of(patterns), "x.txt"))) == 9


def test_a_text_without_gutenbergs_marks_stays(tmp_path: Path) -> None:
    text = "*** to be ***\nor not to be"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert documents(tmp_path / "a.txt", Reading(strip_gutenberg=True)) == [text]


@pytest.mark.parametrize("target", ["nowhere", "folder", "texts"])
def test_a_link_that_leads_to_no_file_is_not_passed_over(target: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("folder/a.txt", "texts/a.txt"):
        (tmp_path / name).write_text("text", encoding="utf-8")
    try:
        (tmp_path / "texts" / "link").symlink_to(tmp_path / target)
    except OSError:
        pytest.skip("links are not allowed here")
    with pytest.raises(DataError, match="link is neither a regular file nor a link to one"):
        text_files(tmp_path / "texts")


def skipping(path: Path, how: Reading = Reading()) -> tuple[list[str], int]:  # noqa: B008
    """Return the documents of a file, and the number of its rows without text."""
    tally = Tally()
    found = TextFile(path, path).documents(how, cut=before_white_space, read=lambda _: None, tally=tally)
    return ["".join(document) for document in found], tally.skipped_rows


PLAIN = "\n".join(TEXTS)
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode("ascii")
ARRAY = json.dumps([{"text": text} for text in TEXTS], indent=1, ensure_ascii=False)
TABLE = 'id,text\r\n1,"Ünder the sea"\r\n2,"日本語の文\nand more"\r\n3,third 🙂\r\n'


def packed_by(name: str, content: bytes) -> bytes:
    if name == "zstd":
        zstd: Any = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
        return bytes(zstd.compress(content[:9]) + zstd.compress(content[9:]))
    if name == "gzip":
        return gzip.compress(content[:9]) + gzip.compress(content[9:])
    compress = lzma.compress if name == "xz" else bz2.compress
    return compress(content[:9]) + compress(content[9:])


@pytest.mark.parametrize("packed", ["gzip", "xz", "bzip2", "zstd"])
@pytest.mark.parametrize(
    "name", ["a.txt", "a.txt.gz", "a", "a.jsonl", "a.jsonl.xz", "a.json.bz2", "a.csv.zst", "a.tar"]
)
@pytest.mark.parametrize("piece", [1, 7, 2**20])
def test_packed_files_are_known_by_their_bytes(
    packed: str, name: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "PIECE", piece)
    kinds = {
        "jsonl": LINES,
        "json": ARRAY.encode("utf-8"),
        "csv": TABLE.encode("utf-8"),
        "tar": tar({"a.jsonl": LINES}),
    }
    content = kinds.get(name.split(".")[1] if "." in name else "", PLAIN.encode("utf-8"))
    (tmp_path / name).write_bytes(packed_by(packed, content))
    assert documents(tmp_path / name) == ([PLAIN] if content == PLAIN.encode("utf-8") else TEXTS)


@pytest.mark.parametrize("packed", ["gzip", "xz", "bzip2", "zstd"])
@pytest.mark.parametrize("damage", ["cut", "followed", "second", "turned"])
def test_packed_files_that_are_damaged(packed: str, damage: str, tmp_path: Path) -> None:
    whole = packed_by(packed, PLAIN.encode("utf-8") * 99)
    content = {
        "cut": whole[:-5],
        "followed": whole + b"something else",
        "second": whole + whole[:20],
        "turned": whole[:-20] + bytes(byte ^ 255 for byte in whole[-20:]),
    }[damage]
    (tmp_path / "a").write_bytes(content)
    if (packed, damage) == ("zstd", "turned"):
        content = b""  # it need not have a sum
    else:
        with pytest.raises(DataError, match="a is damaged"):
            documents(tmp_path / "a")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv"])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_encodings(encoding: str, name: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "CHUNK", chunk)
    content = {
        "txt": PLAIN,
        "jsonl": LINES.decode("ascii"),
        "json": ARRAY,
        "csv": TABLE,
        "tsv": TABLE.replace(",", "\t"),
    }
    text = content[name[2:]]
    mark = "\ufeff" if encoding.endswith("be") else ""
    (tmp_path / name).write_bytes((mark + text).encode(encoding))
    assert documents(tmp_path / name) == ([PLAIN] if name == "a.txt" else TEXTS)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("to be".encode("utf-16-le"), "binary, or UTF-16 or UTF-32 without a byte order mark"),
        ("to be".encode("utf-16-be"), "binary, or UTF-16 or UTF-32 without a byte order mark"),
        ("to be".encode("utf-32-le"), "binary, or UTF-16 or UTF-32 without a byte order mark"),
        (b"\1\0\2\0\3\0", "is binary"),
        (b"to be\n" * 1000 + b"\0", "has a NUL byte at offset 6,000"),
        ("\ufeffto \0be".encode("utf-16"), "has a NUL byte at offset 10"),
        ("to be".encode("utf-16")[:-1], "is not UTF-16-LE text"),
        (b"<!DOCTYPE html><p>to be", "is a web page"),
        (b"%PDF-1.7\n", "is a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"GGUF\3\0\0\0" + bytes(99), "is a GGUF file"),
        (b"\x93NUMPY\1\0v\0", "is an array of NumPy"),
        (b"\x89PNG\r\n\x1a\n\0", "is a PNG picture"),
        (b"\0\0\0\1Bud1", "is the .DS_Store of a folder"),
        (gzip.compress(b"\x89PNG\r\n\x1a\n\0", mtime=0), "is a PNG picture"),
        (gzip.compress(b"PAR1\0", mtime=0), "is a Parquet file inside another file"),
        (gzip.compress(zipped({"a.txt": b"a"}), mtime=0), "is a ZIP archive inside another file"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_what_is_no_text(content: bytes, sentence: str, errors: str, tmp_path: Path) -> None:
    for name in ("a.txt", "a"):
        (tmp_path / name).write_bytes(content)
        if errors == "replace" and ("offset" in sentence or "UTF-16-LE" in sentence):
            assert documents(tmp_path / name, Reading(errors=errors))[0].count("\ufffd") == 1
            continue
        with pytest.raises(DataError, match=sentence):
            documents(tmp_path / name, Reading(errors=errors))


@pytest.mark.parametrize("other", ["cover.jpg", "letter.doc", "book.pdf", "page.html", "train.bin"])
def test_a_folder_with_another_kind_of_file(other: str, tmp_path: Path) -> None:
    starts = {"jpg": b"\xff\xd8\xff", "doc": b"\xd0\xcf\x11\xe0", "pdf": b"%PDF-", "html": b"<html>", "bin": b"\1\0"}
    (tmp_path / "a.txt").write_text("to be", encoding="utf-8")
    (tmp_path / other).write_bytes(starts[other.rpartition(".")[2]])
    with pytest.raises(DataError, match=rf"{re.escape(other)} is .* Or leave it out of {re.escape(str(tmp_path))}\."):
        text_files(tmp_path)


MEMBERS = {
    "t/a.txt": PLAIN.encode("utf-8"),
    "t/b.jsonl": LINES,
    "t/c.json.gz": gzip.compress(ARRAY.encode("utf-8")),
    "t/.DS_Store": b"\0\0\0\1Bud1",
    "t\\.DS_Store": b"\0\0\0\1Bud1",  # as some programs of Windows write names
    "__MACOSX\\t\\._a.txt": b"\0\5\x16\7",
    "__MACOSX/t/._a.txt": b"\0\5\x16\7",
    "t/d.csv": TABLE.encode("utf-16"),
}


@pytest.mark.parametrize("kind", ["zip", "tar", "gzip", "xz", "bzip2", "zstd"])
def test_archives(kind: str, tmp_path: Path) -> None:
    content = zipped(MEMBERS) if kind == "zip" else tar(MEMBERS)
    path = tmp_path / "a.archive"
    path.write_bytes(content if kind in ("zip", "tar") else packed_by(kind, content))
    file = TextFile(path, path)
    for _ in range(2):
        assert ["".join(document) for document in read(file)] == [PLAIN, *TEXTS * 3]
    assert file.record["bytes"] == path.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"changed while it was being read|is damaged"):
        list(map(list, read(file)))


def encrypted() -> bytes:
    content = bytearray(zipped({"a.txt": b"a"}))
    content[6] |= 1  # the flag, in the header of the file and in the directory
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


def overlapping() -> bytes:
    content = bytearray(zipped({"a.txt": b"a" * 999, "b.txt": b"a" * 999}))
    at = content.rindex(b"PK\1\2") + 42
    content[at : at + 4] = bytes(4)  # both begin at 0
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (encrypted, "is encrypted"),
        (overlapping, "its files overlap"),
        (lambda: zipped({"[Content_Types].xml": b"<a/>", "word/document.xml": b"<a/>"}), "office program"),
        (lambda: zipped({"mimetype": b"application/epub+zip"}), "office program"),
        (
            lambda: zipped({"a.txt": b"a", "b/c.png": b"\x89PNG\r\n\0"}),
            r"b/c.png in .* is a PNG picture.* out of .*a\.",
        ),
        (lambda: tar({"weights.npy": b"\x93NUMPY\1\0v\0"}), "weights.npy in .*an array of NumPy"),
        (lambda: tar({"a.txt": b"a\xff"}), "a.txt in .* is not UTF-8 text"),
        (lambda: tar({"a\nb.txt": b"a\xff"}), r"'a\\nb.txt' in .* is not UTF-8 text"),
        (lambda: zipped({"": b"a\xff"}), "a file without a name in .* is not UTF-8 text"),
        (lambda: zipped({"b.zip": zipped({"a.txt": b"a"})}), "b.zip in .* is a ZIP archive inside another file"),
        (lambda: tar({"b.tar.gz": gzip.compress(tar({"a.txt": b"a"}))}), "is a tar archive inside another file"),
        (lambda: tar({"a.txt": b"a" * 9999})[:-10_240], "is damaged"),
        (lambda: tar({"a.txt": b"a", "b.txt": b"b"})[:1024] + b"\1" * 1024 + bytes(1024), "is damaged"),
        (lambda: zipped({"a.txt": b"abc" * 99})[:-9], "is damaged"),
        (lambda: zipped({"a.jsonl": b'{"body": "a"}'}), "No row of a.jsonl in .* has a field 'text', only body"),
    ],
)
def test_archives_that_cannot_be_read(content: Any, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content())
    with pytest.raises(DataError, match=sentence):
        documents(tmp_path / "a")


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zip", "tar.gz", "zip.gz"])
def test_bombs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MOST_BYTES", 2**16)
    text = b"a" * 2**21
    content = {
        "zip": lambda: zipped({"a.txt": text}),
        "tar.gz": lambda: gzip.compress(tar({"a.txt": text})),
        "zip.gz": lambda: zipped({"a.txt": gzip.compress(text)}),
    }.get(kind, lambda: packed_by(kind, text))()
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match="unpacks to more than 500 times its size"):
        documents(tmp_path / "a")


def test_a_file_that_is_packed_again_and_again(tmp_path: Path) -> None:
    content = b"to be"
    for _ in range(3):
        content = gzip.compress(content)
    (tmp_path / "a").write_bytes(content)
    assert documents(tmp_path / "a") == ["to be"]
    (tmp_path / "a").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="is packed 4 times or more"):
        documents(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('["a", "b"]', ["a", "b"]),
        ("[]", []),
        ("[ ]\n", []),
        ('[{"text": "a"}\n,\n"b"]', ["a", "b"]),
        ('{"text": "a"}', ["a"]),
        ('{\n "id": [1, 22],\n "text": "a, [b] {c}"\n}', ["a, [b] {c}"]),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('{"text": "a"}{"text": "b"}', ["a", "b"]),
        ('["a",]', "Entry 2 of .* is not JSON"),
        ('["a" "b"]', "Entry 2 of .* a comma or ] is missing"),
        ('["a"', "Entry 2 of .* is missing"),
        ('["a"] ["b"]', "Entry 2 of .* after the end of the array"),
        ('["a", 12]', "Entry 2 of .* has no text in a field 'text', but a number"),
        ('{"data": [{"text": "a"}]}', "No row of .* has a field 'text', only data"),
        ("to be or not", "Entry 1 of .* is not JSON.*end its name in .txt"),
        ("[" * 10_000, "Entry 1 of .* is not JSON"),
        ('["' + "a" * 999 + '"]', "Entry 1 of .* is longer than 300 characters"),
        ('[{"text": "a" "id": 1}' + ', "b"' * 99 + "]", "Entry 1 of .* is not JSON: Expecting ',' delimiter"),
        ('[{"text": "a", id: 1}' + ', "b"' * 99 + "]", "Entry 1 of .* is not JSON: Expecting property name"),
        ('["a", tru' + ', "b"' * 99 + "]", "Entry 2 of .* is not JSON: Expecting value"),
        ('["a\\x41"' + ', "b"' * 99 + "]", "Entry 1 of .* is not JSON: Invalid .*escape"),
        ('["a\nb"' + ', "b"' * 99 + "]", "Entry 1 of .* is not JSON: Invalid control character"),
        ('["a", ' + "1" * 5000 + "]", "Entry 2 of .* is"),
        ('["\\ud83d\\ude00", {"id": -Infinity, "text": "\\u00e9"}, {"id": null, "text": "b"}]', ["😀", "é", "b"]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 2**20])
def test_json(
    content: str, expected: list[str] | str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "CHUNK", chunk)
    monkeypatch.setattr(plain, "LONGEST_ROW", 20_000 if content.startswith("[[") else 300)
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    if isinstance(expected, list):
        assert documents(tmp_path / "a.json") == expected
    elif "longer" not in expected or chunk < 300:
        with pytest.raises(DataError, match=expected):
            documents(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text\na\nb\n", ["a", "b"]),
        ("id;text\n1;a\n2;b", ["a", "b"]),
        ("id\ttext\n1\ta, b\n", ["a, b"]),
        ('id,text\n1,"a ""b"", c"\n', ['a "b", c']),
        ('id,text\r1,"a\rb"\r2,c\r', ["a\rb", "c"]),
        ("\ufeff" + '"text",id\n\n"a",1\n\n', ["a"]),
        ('text,id\n"' + "a" * 200_000 + '",1\n', ["a" * 200_000]),
        ("", []),
        ("\n\n", []),
        ("\n\r\n\nid,text\n\n1,a\n", ["a"]),
        ('"a\nname",text\n1,a\n2,b\n', ["a", "b"]),
        ('text;"a\r\n\r\nname; of, two"\r\na;1\r\nb;2', ["a", "b"]),
        ('"the\n\ntext"\ttext\t"and\rmore"\n1\ta\t"2\n"\n', ["a"]),
        ('id,"a ""name"",\n\nlong",text\n1,2,"a\nb"\n', ["a\nb"]),
        ('"a\nname",body\n1,a\n', r"has no column 'text', only 'a\\nname', body\."),
        ('text,"a"name\na,1\n', "The header of .*line 1, cannot be read"),
        ("body\na\n", "has no column 'text', only body.*--field"),
        ("id,text\n1,a, b\n", "Row 1 of .* has 3 fields, and the header 2"),
        ('id,text\n1,"a\n2,b\n', "Row 1 of .* cannot be read"),
        ('id,text\n1,"a"b\n', "Row 1 of .*line 2, cannot be read"),
    ],
)
@pytest.mark.parametrize("chunk", [2**20, 1])
def test_tables(
    content: str, expected: list[str] | str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "CHUNK", chunk if len(content) < 999 else 2**16)
    (tmp_path / "a.csv").write_text(content, encoding="utf-8", newline="")
    if isinstance(expected, list):
        assert documents(tmp_path / "a.csv") == expected
        return
    with pytest.raises(DataError, match=expected):
        documents(tmp_path / "a.csv")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the name says."""
    if path.suffix == ".parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        names = sorted({name for row in rows for name in row})
        parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(sorted({name for row in rows for name in row}))
            table.writerows([row[name] for name in sorted(row)] for row in rows)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    return path


ROWS_WITHOUT = [{"id": 1}, {"id": 1, "text": None}, {"id": 1, "text": ""}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("without", ROWS_WITHOUT)
def test_rows_without_text_are_passed_over(name: str, without: dict[str, Any], tmp_path: Path) -> None:
    rows = [without, *({"id": 2, "text": text} for text in TEXTS), without]
    path = write_rows(tmp_path / name, rows)
    assert skipping(path) == (TEXTS, 2)
    with pytest.raises(DataError, match=r"(Line|Entry|Row) 1 of .* has no text in a field 'text'.*--strict"):
        documents(path, Reading(strict=True))
    write_rows(path, rows[1:-1])
    assert documents(path, Reading(strict=True)) == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_field_that_no_row_has(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / name, [{"body": "a", "id": 1}, {"body": "b", "id": 2}])
    with pytest.raises(DataError, match=r"has no column 'text', only body, id|has a field 'text', only body, id"):
        documents(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize("value", [5, 0.5, True, ["a"], {"a": "b"}])
def test_a_field_that_is_no_text(name: str, value: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / name, [{"text": value}, {"text": value}])
    with pytest.raises(DataError, match=r"(Line|Entry|Row) 1 of .* has no text in a field 'text', but "):
        documents(path)
