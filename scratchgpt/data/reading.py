"""From bytes to texts: plain text, JSON lines, JSON, CSV and TSV, Parquet.

Texts come in pieces, so that one of any size is read in constant memory. Rows without text are passed over and counted.
"""

import codecs
import csv
import enum
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from scratchgpt.data.documents import Document, Tally
from scratchgpt.data.unpacking import Contents, Place, extra, failures_named, tar_members
from scratchgpt.errors import DataError
from scratchgpt.kinds import BINARY, PARQUET, TAR, ZIP, kind_of, mark_of

CHUNK = 2**20
"""Bytes decoded at once."""

LONGEST_ROW = 2**26
"""Characters that a row of JSON or CSV may have: it is held in memory, several times over."""

ROWS = 256
"""Rows of Parquet read at once."""

MOST_NAMES = 20
"""Fields that a message names."""

PACKED = (".gz", ".gzip", ".zst", ".zstd", ".xz", ".bz2", ".bzip2")
"""Ends of the names of packed files."""

DELIMITERS = ",\t;|"
"""Between the fields of a table; the one that the header has counts."""

HEADER_LINES = 16
"""Lines in which the header of a table must end: blank lines may come first, and names may have line ends."""

LONGEST_TOKEN = 16
"""Characters that a word, an escape or a sign of JSON has at most: a text that is cut inside one seems to be wrong."""

PLAIN = "Or end its name in .txt to read it as plain text."


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
            yield from _texts(_json_lines(contents, how), "Line", place, how, tally)
        case Form.JSON:
            yield from _texts(_json_entries(contents, how), "Entry", place, how, tally)
        case Form.TABLE:
            yield from _texts(_table_rows(contents, place, how), "Row", place, how, tally)
        case Form.TAR if not place.member:
            for inside, member in tar_members(contents, place):
                yield from stored_in(member, inside, how, tally)
        case other:
            raise inside_another(other, place)


def inside_another(form: Form, place: Place) -> DataError:
    """Return the error for what is read only where it is a file of its own."""
    name = {Form.PARQUET: "a Parquet file", Form.TAR: "a tar archive", Form.ZIP: "a ZIP archive"}[form]
    return DataError(f"{place} is {name} inside another file; unpack it first.")


ADVICE = "Save the text as UTF-8 first, or put U+FFFD in such places with --errors replace."
PAGE_ADVICE = "Save the text as UTF-8 first."


def text_of(contents: Contents, errors: str, *, advice: str = PAGE_ADVICE, may_have_nul: bool = False) -> Document:
    """Yield plain text without its byte order mark; line ends stay, and no character is cut. Raises DataError.

    It is UTF-8, or what its mark says. A NUL byte is no text, unless it may be there.
    """
    place = contents.place
    mark, encoding = mark_of(contents.start)
    stream = contents.buffered()
    stream.read(len(mark))
    if not (mark or may_have_nul) and (kind := kind_of(contents.start)) is BINARY:
        raise DataError(f"{place} is {kind.name}. {kind.advice}")
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    offset = len(mark)
    while True:
        data = stream.read(CHUNK)
        begin = offset - len(decoder.getstate()[0])
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            kind = kind_of(contents.start)
            guess = f" It is {kind.name}." if kind else ""
            raise DataError(
                f"{place} is not {encoding.upper()} text: the byte 0x{error.object[error.start]:02x} at offset "
                f"{begin + error.start:,} does not belong.{guess}",
                advice=advice,
                page=PAGE_ADVICE,
            ) from error
        if not may_have_nul and b"\0" in data and "\0" in text:  # to search bytes is much faster
            if errors == "strict":
                at = begin + len(text[: text.index("\0")].encode(encoding))
                raise DataError(
                    f"{place} is not text: it has a NUL byte at offset {at:,}.", advice=advice, page=PAGE_ADVICE
                )
            text = text.replace("\0", "\ufffd")
        offset += len(data)
        yield text
        if not data:
            return


def _lines(document: Document, newline: str, place: Place | str) -> Iterator[str]:
    """Yield the lines of a text with their ends, which `newline` chooses as `open` does. Raises DataError."""
    number, rest = 1, ""
    for piece in document:
        *lines, rest = io.StringIO(rest + piece, newline=newline) if rest or piece else [""]
        for line in lines:
            yield _bounded(line, "Line", number, place)
            number += 1
        _bounded(rest, "Line", number, place)
    yield rest


def _bounded(text: str, what: str, number: int, place: Place | str) -> str:
    """Return the text of a row. Raises DataError if it is too long."""
    if len(text) > LONGEST_ROW:
        raise DataError(f"{what} {number:,} of {place} is longer than {LONGEST_ROW:,} characters; divide it.")
    return text


def _json_lines(contents: Contents, how: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the number and content of each line that is not blank. Raises DataError."""
    place = contents.place
    for number, line in enumerate(_lines(text_of(contents, how.errors, advice=ADVICE), "\n", place), 1):
        if line and not line.isspace():
            try:
                content = json.loads(line.removeprefix("\ufeff"))  # files may have been joined
            except (ValueError, RecursionError) as error:
                raise DataError(f"Line {number:,} of {place} is not JSON: {error}.") from error
            yield number, content


SPACE = re.compile(r"[ \t\r\n]*")


def _end_of_failure(error: Exception, n_characters: int) -> int:
    """Return where the part of a text ends that is not JSON: at the end of the text if more of it may mend that."""
    if not isinstance(error, json.JSONDecodeError):
        return 0
    is_cut = error.msg.startswith("Unterminated") or error.pos > n_characters - LONGEST_TOKEN
    return n_characters if is_cut else error.pos


class _JSONText:
    """The text of JSON, of which as much is held as an entry takes."""

    def __init__(self, document: Document, place: Place | str) -> None:
        self._pieces = document
        self._place = place
        self._text = ""
        self._at = 0
        self._scan = json.JSONDecoder().raw_decode

    def next_character(self) -> str:
        """Return the next character that is no space; at the end, nothing. Raises DataError."""
        while True:
            self._at = SPACE.match(self._text, self._at).end()  # type: ignore[union-attr] # it matches everything
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more(1):
                return ""

    def skip(self) -> None:
        """Pass over a character."""
        self._at += 1

    def entry(self, number: int) -> Any:
        """Return the next entry. Raises DataError."""
        while True:
            try:
                content, end = self._scan(self._text, self._at)
                failure: Exception | None = None
            except (ValueError, RecursionError) as error:
                end, failure = _end_of_failure(error, len(self._text)), error
            # A number may go on in the next piece, and what is cut may become JSON.
            if end < len(self._text) or not self._read_more(number):
                if failure:
                    raise self.wrong(number, getattr(failure, "msg", str(failure))) from failure
                self._at = end
                return content

    def wrong(self, number: int, reason: str) -> DataError:
        """Return the error for an entry that is no JSON."""
        return DataError(f"Entry {number:,} of {self._place} is not JSON: {reason}. {PLAIN}")

    def _read_more(self, number: int) -> bool:
        """Hold twice as much; return whether there was any more. Raises DataError."""
        held = [_bounded(self._text[self._at :], "Entry", number, self._place)]
        n_held, n_new = len(held[0]), 0
        for piece in self._pieces:
            held.append(piece)
            n_new += len(piece)
            if n_new > n_held:
                break
        self._text, self._at = "".join(held), 0
        return n_new > 0


def _json_entries(contents: Contents, how: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the number and content of each entry of an array, or of values one after another. Raises DataError."""
    text = _JSONText(text_of(contents, how.errors, advice=ADVICE), contents.place)
    number = 1
    if text.next_character() != "[":
        while text.next_character():
            yield number, text.entry(number)
            number += 1
        return
    text.skip()
    while (character := text.next_character()) != "]":
        if number > 1:
            if character != ",":
                raise text.wrong(number, "a comma or ] is missing before it")
            text.skip()
            text.next_character()
        yield number, text.entry(number)
        number += 1
    text.skip()
    if text.next_character():
        raise text.wrong(number, "it stands after the end of the array")


def _table_rows(contents: Contents, place: Place, how: Reading) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each row after the header, and its text. Raises DataError."""
    lines = _lines(text_of(contents, how.errors, advice=ADVICE), "", place)
    head = list(itertools.islice(lines, HEADER_LINES))
    headers = {each: next(_records(head, each, place), []) for each in DELIMITERS}
    delimiter = next((each for each, names in headers.items() if how.field in names), None)
    if delimiter is None:
        if names := max(headers.values(), key=len):
            raise DataError(
                f"{place} has no column {how.field!r}, only {_listed(names)}.",
                advice=f"Name one with --field. {PLAIN}",
                page=f"Name the column of the text so. {PLAIN}",
            )
        return
    rows = _records(itertools.chain(head, lines), delimiter, place, strict=True)
    header = next(rows)
    column = header.index(how.field)
    for number, row in enumerate(rows, 1):
        if len(row) > len(header):
            raise DataError(
                f"Row {number:,} of {place} has {len(row):,} fields, and the header {len(header):,}. Put quotation "
                "marks around fields that have delimiters."
            )
        yield number, {how.field: row[column]} if column < len(row) else {}


def _records(lines: Iterable[str], delimiter: str, place: Place, *, strict: bool = False) -> Iterator[list[str]]:
    """Yield the fields of the header and of each row of a table that is not blank. Raises DataError."""
    csv.field_size_limit(LONGEST_ROW)
    reader = csv.reader(lines, delimiter=delimiter, strict=strict)
    number = 0
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            what = f"Row {number:,}" if number else "The header"
            raise DataError(
                f"{what} of {place}, which ends in line {reader.line_num:,}, cannot be read: {error}. Put "
                "quotation marks around fields that have quotation marks, and double those inside."
            ) from error
        if row is None:
            return
        if row:
            yield row
            number += 1


def stored_in_parquet(place: Place, how: Reading, tally: Tally) -> Iterator[Stored]:
    """Yield the texts of a Parquet file. Raises DataError and UsageError."""
    parquet = extra("pyarrow.parquet", "parquet", place)
    damage = (ValueError, extra("pyarrow", "parquet", place).ArrowException)

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        with failures_named(place, damage), parquet.ParquetFile(place.path) as file:
            names = file.schema_arrow.names
            if how.field not in names:
                raise DataError(
                    f"{place} has no column {how.field!r}, only {_listed(names)}.",
                    advice="Name one with --field.",
                    page="Name the column of the text so.",
                )
            for batch in file.iter_batches(batch_size=ROWS, columns=[how.field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield number, {how.field: text}

    yield from _texts(rows(), "Row", place, how, tally)


def _listed(names: Iterable[str]) -> str:
    """Return names for a message."""
    shown = [f"{name:.40}" if name.isprintable() else repr(name[:40]) for name in names]
    return ", ".join(shown[:MOST_NAMES]) + (", ..." if len(shown) > MOST_NAMES else "")


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
            f"No row of {place} has a field {how.field!r}, only {_listed(others)}.",
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
