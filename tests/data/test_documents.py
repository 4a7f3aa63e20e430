"""Documents inside one text: the separators end them, whatever pieces the text comes in, and nothing else is lost."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.data import documents
from scratchgpt.data.documents import Tally, divided
from scratchgpt.data.prepare import prepare
from scratchgpt.data.prepared import Prepared
from scratchgpt.data.reading import Reading
from scratchgpt.data.shards import PARTS, ShardReader
from scratchgpt.data.vocabulary import Pieces
from scratchgpt.errors import DataError
from scratchgpt.tokenizer import END_OF_TEXT, load

E = END_OF_TEXT
LINES = rf"(?m)^[ \t]*{re.escape(E)}[ \t]*\r?(?:\n|\Z)"


def cut(pieces: list[str], separator: str | None) -> tuple[list[str], int]:
    """Return the documents of a text, and how many separators ended one."""
    tally = Tally()
    found = ["".join(document) for document in divided(iter(pieces), separator, tally)]
    return found, tally.separators


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"a\n{E}\nb\n", ["a\n", "b\n"]),
        (f"a\r\n{E}\r\nb", ["a\r\n", "b"]),
        (f"{E}\na\n{E}", ["", "a\n", ""]),
        (f"a\n  {E}\t\nb", ["a\n", "b"]),
        (f"a\n{E}\n{E}\nb", ["a\n", "", "b"]),
        (f"a{E}\nb", [f"a{E}\nb"]),
        (f"a\n{E}b\n", [f"a\n{E}b\n"]),
        (f"a\n{E} {E}\nb", [f"a\n{E} {E}\nb"]),
        ("a\n<|endoftext|\n>", ["a\n<|endoftext|\n>"]),
        ("", [""]),
    ],
)
def test_a_line_of_its_own_ends_a_document(text: str, found: list[str]) -> None:
    for size in (1, 2, 5, 14, 100):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert cut(pieces, None) == (found, len(found) - 1)
        assert cut(pieces, "") == ([text], 0)


@pytest.mark.parametrize(
    ("text", "separator", "found"),
    [
        (f"a{E}b{E}", E, ["a", "b", ""]),
        ("a\n\nb\nc", "\n\n", ["a", "b\nc"]),
        ("aaaaa", "aa", ["", "", "a"]),
        ("one---two--three----", "---", ["one", "two--three", "-"]),
        ("x</s>y</s", "</s>", ["x", "y</s"]),
        ("日本。語", "。", ["日本", "語"]),
    ],
)
def test_a_separator_ends_a_document(text: str, separator: str, found: list[str]) -> None:
    for size in (1, 2, 3, 100):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert cut(pieces, separator) == (found, len(found) - 1)


@given(
    parts=st.lists(st.sampled_from([E, "\n", " ", "\t", "\r\n", "a", "<|", "|>", ""]), max_size=20),
    longest=st.integers(1, 40),
)
def test_pieces_do_not_matter(parts: list[str], longest: int) -> None:
    text = "".join(parts)
    assert cut(parts, None)[0] == re.split(LINES, text)
    assert cut(parts, E)[0] == text.split(E)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "LONGEST_LINE", longest)  # lines that are cut lose nothing
        assert "".join(cut(parts, E)[0]) == text.replace(E, "")


@given(parts=st.lists(st.sampled_from(["\n", "a", "bcd", "\r\n", "e\n", ""]), max_size=20), longest=st.integers(0, 9))
def test_lines_are_whole_unless_they_are_long(parts: list[str], longest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "LONGEST_LINE", longest)
        *pieces, last = documents.whole_lines(iter(parts))
    assert "".join([*pieces, last]) == "".join(parts)
    assert all(piece.endswith("\n") or len(piece) > longest for piece in pieces)
    assert "\n" not in last


def prepared(folder: Path, text: str, **how: Any) -> Prepared:
    (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
    return prepare(folder / "text.txt", folder / "out", vocabulary=Pieces(300), how=Reading(**how))


def test_the_token_stands_where_the_separator_stood(tmp_path: Path) -> None:
    stories = [f"Once there was number {number}.\n" for number in range(80)]
    made = prepared(tmp_path, f"{E}\n".join(stories))
    (part,) = made.meta["parts"]
    assert (part["documents"], part["separators"], part["ends_spelled"]) == (80, 79, 0)
    tokenizer = load(made.folder)
    readers = [ShardReader(made.folder, part, np.dtype("<u2")) for part in PARTS]
    ids = np.concatenate([reader.read(0, reader.size) for reader in readers])
    assert np.count_nonzero(ids == tokenizer.special[E]) == 79
    assert tokenizer.decode(ids) == E.join(stories)


def test_a_separator_inside_lines_stays_text_and_is_counted(tmp_path: Path) -> None:
    (part,) = prepared(tmp_path, f"one{E}two{E}three " * 20).meta["parts"]
    assert (part["documents"], part["separators"], part["ends_spelled"]) == (1, 0, 40)


def test_the_same_separators_are_prepared_before_and_others_not(tmp_path: Path) -> None:
    text = f"to be\n{E}\nor not\n" * 20
    assert prepared(tmp_path, text).is_new
    assert not prepared(tmp_path, text).is_new
    with pytest.raises(DataError, match="from something else"):
        prepared(tmp_path, text, separator="")


def test_a_text_without_separators_is_known_from_before(tmp_path: Path) -> None:
    assert prepared(tmp_path, "to be or not to be\n" * 20).is_new
    assert not prepared(tmp_path, "to be or not to be\n" * 20, separator="").is_new
