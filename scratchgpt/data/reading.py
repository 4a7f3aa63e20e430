"""From bytes to texts: plain text, JSON lines, JSON, CSV and TSV, Parquet.

Texts come in pieces, so that one of any size is read in constant memory. Rows without text are passed over and counted.
"""

import enum
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from scratchgpt.data.documents import Document, Tally
from scratchgpt.data.json_rows import json_entries, json_lines
from scratchgpt.data.plain import ADVICE, PLAIN, text_of
from scratchgpt.data.table_rows import MOST_NAMES, listed, parquet_rows, table_rows
from scratchgpt.data.unpacking import Contents, Place, tar_members
from scratchgpt.errors import DataError
from scratchgpt.kinds import PARQUET, TAR, ZIP, kind_of, mark_of

PACKED = (".gz", ".gzip", ".zst", ".zstd", ".xz", ".bz2", ".bzip2")
"""Ends of the names of packed files."""


class Reading(NamedTuple):
    """How files are read."""

    field: str = "text"  # of JSON, or the column of CSV and Parquet
    errors: str = "strict"  # or "replace": bytes that are no text become U+FFFD
    strip_gutenberg: bool = False
    separator: str | None = None  # ends a document; None: a line that holds only <|endoftext|>; empty: nothing
    strict: bool = False  # whether a row without text is an error


class Stored(NamedTuple):
    """A text as a file holds it."""

    text: Document
    is_row: bool  # or all that a plain file has


class Form(enum.Enum):
    """How a file holds text."""

    TEXT = enum.auto()
    JSON_LINES = enum.auto()
    JSON = enum.auto()  # an array, or objects one after another
    TABLE = enum.auto()  # CSV or TSV
    PARQUET = enum.auto()
    TAR = enum.auto()
    ZIP = enum.auto()


SUFFIXES = {
    ".jsonl": Form.JSON_LINES,
    ".ndjson": Form.JSON_LINES,
    ".json": Form.JSON,
    ".csv": Form.TABLE,
    ".tsv": Form.TABLE,
    ".parquet": Form.PARQUET,
}


def bare_name(name: str) -> str:
    """Return a file's name without the ends that say how it is packed."""
    while name.lower().endswith(PACKED):
        name = name.rpartition(".")[0]
    return name


def form_of(start: bytes, place: Place) -> Form:
    """Return how an unpacked file holds text: by its first bytes, then by its name. Raises DataError for no text."""
    kind = kind_of(start)
    if kind in (PARQUET, TAR, ZIP):
        return {PARQUET: Form.PARQUET, TAR: Form.TAR, ZIP: Form.ZIP}[kind]
    if kind:
        raise place.refused(kind)
    name = bare_name(place.name).lower()
    form = next((form for end, form in SUFFIXES.items() if name.endswith(end)), Form.TEXT)
    mark, encoding = mark_of(start)
    begins = start[len(mark) :].decode(encoding, "ignore").lstrip()[:1]
    return Form.JSON if form is Form.JSON_LINES and begins == "[" else form


def stored_in(contents: Contents, place: Place, how: Reading, tally: Tally) -> Iterator[Stored]:
    """Yield the texts of a file that is read from its beginning. Raises DataError and UsageError."""
    match form_of(contents.start, place):
        case Form.TEXT:
            yield Stored(text_of(contents, how.errors, advice=ADVICE), is_row=False)
        case Form.JSON_LINES:
            yield from _texts(json_lines(contents, how.errors), "Line", place, how, tally)
        case Form.JSON:
            yield from _texts(json_entries(contents, how.errors), "Entry", place, how, tally)
        case Form.TABLE:
            yield from _texts(table_rows(contents, place, how.field, how.errors), "Row", place, how, tally)
        case Form.TAR if not place.member:
            for inside, member in tar_members(contents, place):
                yield from stored_in(member, inside, how, tally)
        case other:
            raise inside_another(other, place)


def inside_another(form: Form, place: Place) -> DataError:
    """Return the error for what is read only where it is a file of its own."""
    name = {Form.PARQUET: "a Parquet file", Form.TAR: "a tar archive", Form.ZIP: "a ZIP archive"}[form]
    return DataError(f"{place} is {name} inside another file; unpack it first.")


def stored_in_parquet(place: Place, how: Reading, tally: Tally) -> Iterator[Stored]:
    """Yield the texts of a Parquet file. Raises DataError and UsageError."""
    yield from _texts(parquet_rows(place, how.field), "Row", place, how, tally)


def _texts(rows: Iterator[tuple[int, Any]], what: str, place: Place, how: Reading, tally: Tally) -> Iterator[Stored]:
    """Yield the text of each row, an object with the field or the text itself, that has any. Raises DataError.

    `what` is how messages call a row.
    """
    others: dict[str, None] = {}  # fields of the rows, until one has the field of the text
    is_there = False
    for number, content in rows:
        text = content
        if isinstance(content, dict):
            if not is_there:
                is_there = how.field in content
                others |= dict.fromkeys([] if len(others) > MOST_NAMES else content)
            text = content.get(how.field)
        if not isinstance(text, str | None):
            raise DataError(
                f"{what} {number:,} of {place} has no text in a field {how.field!r}, but {_type(text)}.",
                advice=f"Name another field with --field. {PLAIN}",
                page=f'Each row must be like {{"text": "..."}}. {PLAIN}',
            )
        if text:
            yield Stored(iter((_without_surrogates(text, what, number, place, how),)), is_row=True)
        elif how.strict:
            raise DataError(
                f"{what} {number:,} of {place} has no text in a field {how.field!r}.",
                advice="Name its field with --field, or leave out --strict to pass over such rows.",
                page="",
            )
        else:
            tally.skipped_rows += 1
    if others and not is_there:
        raise DataError(
            f"No row of {place} has a field {how.field!r}, only {listed(others)}.",
            advice=f"Name one with --field. {PLAIN}",
            page=f'Each row must be like {{"text": "..."}}. {PLAIN}',
        )


def _type(content: Any) -> str:
    """Return what JSON or Parquet calls the type of a value."""
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(content), "another type")


def _without_surrogates(text: str, what: str, number: int, place: Place, how: Reading) -> str:
    """Return a text without halves of surrogate pairs, which JSON can have. Raises DataError if they are an error."""
    if how.errors == "replace":
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    if re.search("[\ud800-\udfff]", text):
        raise DataError(
            f"{what} {number:,} of {place} has half a surrogate pair, which is no character.",
            advice="Put U+FFFD in such places with --errors replace.",
            page="Save the text without it.",
        )
    return text
