"""Sources: every kind of file gives its documents whole, and what is wrong with a file is said with its place."""

import gzip
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.data import documents as documents_module
from scratchgpt.data import reading
from scratchgpt.data.reading import Reading
from scratchgpt.data.sources import TextFile, check_reading, text_files
from scratchgpt.errors import DataError, UsageError
from scratchgpt.tokenizer.bpe import split
from scratchgpt.tokenizer.cutting import GPT4_PATTERNS, before_white_space, cut_of
from scratchgpt.tokenizer.splitting import GPT2_PATTERN

# That of Llama 3, whose kin is in most files of today.
TEXTS = ["Ünder the sea", "日本語の文\nand more", "third 🙂"]


def documents(path: Path, how: Reading = Reading()) -> list[str]:  # noqa: B008 - it cannot change
    """Return the documents of a file."""
    return ["".join(document) for document in read(TextFile(path, path), how)]


def read(file: TextFile, how: Reading = Reading()) -> Any:  # noqa: B008
    counts = dict.fromkeys(("read", "dropped", "ended", "skipped"), lambda _: None)
    return file.documents(how, cut=before_white_space, **counts)


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
    monkeypatch.setattr(reading, "CHUNK", chunk)
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
    monkeypatch.setattr(reading, "LONGEST_ROW", 200_000 if line.startswith(b"[") else 300)
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
        (["a.txt", "b.md.gz"], Reading(field="body"), "--field is for JSON, CSV and Parquet"),
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
    for name in ("b.txt", "a/z.txt", "a/b/c.txt", ".git/config", "a/.DS_Store", "a.txt"):
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
    path.write_bytes(b"to be or not\n" * reading.CHUNK)
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
    dropped: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK", len(HEADER) + at)
        file = TextFile(path, path)
        how = Reading(strip_gutenberg=True)
        counts = dict.fromkeys(("read", "ended", "skipped"), lambda _: None)
        found = file.documents(how, cut=before_white_space, dropped=dropped.append, **counts)
        (kept,) = ["".join(text) for text in found]
    assert kept == text
    assert sum(dropped) == len(HEADER + FOOTER)


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
