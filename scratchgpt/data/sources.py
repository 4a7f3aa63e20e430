"""Where text comes from: files of plain text, JSON lines or Parquet, as documents in bounded pieces.

A document is an iterator of pieces of text, so that one of any size is read in constant memory; no token is cut. A
plain file is one document; JSON lines are one a line, Parquet one a row. .gz and .zst are unpacked on the way.
"""

import codecs
import contextlib
import enum
import gzip
import hashlib
import importlib
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scratchgpt.data.documents import Count, Document, divided, whole_words, without_gutenberg
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import file_identity, file_record
from scratchgpt.tokenizer.cutting import Cut

CHUNK = 2**20
"""Bytes read at once."""

LONGEST_LINE = 2**26
"""Bytes that a line of JSON may have: it is held in memory, several times over."""

ROWS = 256
"""Rows of Parquet read at once."""

OTHER_KINDS = {
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive, or a document of an office program",
    b"\xd0\xcf\x11\xe0": "a document of an office program",
    b"\x89PNG\r\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF87a": "a GIF picture",
    b"GIF89a": "a GIF picture",
    b"\x1f\x8b": "packed by gzip, which its name must say by ending in .gz",
    b"\x28\xb5\x2f\xfd": "packed by zstd, which its name must say by ending in .zst",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x7fELF": "a program",
    b"SQLite format 3\0": "an SQLite database",
}
"""First bytes of files that people take for text, and what they are."""


class Reading(NamedTuple):
    """How files are read."""

    field: str = "text"  # of JSON lines, or the column of Parquet
    errors: str = "strict"  # or "replace": what is not UTF-8 becomes U+FFFD
    strip_gutenberg: bool = False
    separator: str | None = None  # ends a document; None: a line that holds only <|endoftext|>; empty: nothing


class Kind(enum.Enum):
    """What a file holds, by its name."""

    TEXT = enum.auto()
    JSON_LINES = enum.auto()
    PARQUET = enum.auto()


def _kind(path: Path) -> Kind:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return Kind.PARQUET
    is_json = name.removesuffix(".gz").removesuffix(".zst").endswith((".jsonl", ".ndjson"))
    return Kind.JSON_LINES if is_json else Kind.TEXT


class TextFile:
    """A file that is read more than once, and must be the same each time."""

    def __init__(self, path: Path, root: Path) -> None:
        """Name the file, and what was asked for: itself or a folder that it is in. Raises DataError."""
        if not path.is_file():
            raise DataError(f"{path} is neither a regular file nor a link to one; give a text file in its place.")
        self.path = path
        self.root = root
        self.kind = _kind(path)
        self.record: dict[str, Any] = {}  # name, bytes and sha256: known after the first reading

    def documents(
        self, how: Reading, *, cut: Cut | None, read: Count, dropped: Count, ended: Count
    ) -> Iterator[Document]:
        """Yield the documents; each must be read to its end before the next. Raises DataError and UsageError.

        They come in pieces as `cut` allows. `read` receives how many bytes were read, `dropped` how many characters
        were left out, and `ended` how many separators ended a document.
        """
        is_divided = self.kind is Kind.TEXT or how.separator  # a row is a document already
        for stored in self.as_stored(how, read):
            for document in divided(stored, how.separator if is_divided else "", ended):
                text = without_gutenberg(document, dropped) if how.strip_gutenberg else document
                yield whole_words(text, cut, str(self.path))

    def as_stored(self, how: Reading, read: Count) -> Iterator[Document]:
        """Yield the documents whole, in pieces that may cut words. Raises DataError and UsageError."""
        if self.kind is Kind.PARQUET:
            identity = file_identity(self.path)
            yield from _parquet(self.path, how.field)
            record = file_record(self.path)
            if file_identity(self.path) != identity:
                raise self._changed()
            self._remember(record)
            read(record["bytes"])
            return
        with _failures_named(self.path):
            file = self.path.open("rb", buffering=0)
        with file, _Watched(file, self.path, read) as raw:
            stream, damage = _unpacked(raw, self.path)
            if self.kind is Kind.JSON_LINES:
                yield from _json_lines(stream, self.path, how, damage)
            else:
                yield _text(stream, self.path, how.errors, damage)
            self._remember(raw.record())

    def _remember(self, record: dict[str, Any]) -> None:
        """Keep what was read, or compare with what was read before."""
        name = self.path.name if self.path == self.root else self.path.relative_to(self.root).as_posix()
        record = {"name": name, **record}
        if self.record not in ({}, record):
            raise self._changed()
        self.record = record

    def _changed(self) -> DataError:
        return DataError(f"{self.path} changed while it was being read; prepare it again.")


def text_files(path: Path) -> list[TextFile]:
    """Return a file, or all files below a folder in the order of their names; hidden ones are left out.

    Raises DataError if there are none, or something else, such as a link to a folder, which might have no end.
    """
    if not path.is_dir():
        return [TextFile(path, path)]
    inside = [found.relative_to(path) for found in path.rglob("*") if found.is_symlink() or not found.is_dir()]
    visible = [name for name in inside if not any(part.startswith(".") for part in name.parts)]
    if not visible:
        raise DataError(f"{path} holds no files; there is nothing to learn from.")
    if {Path("train.bin"), Path("vocab.json")}.issubset(visible):
        raise DataError(
            f"{path} holds the tokens of nanogpt-rusted.",
            advice=f"Bring them with `scratchgpt import --rusted-data {path}`, or name the text itself.",
            page=f"In a terminal, `scratchgpt import --rusted-data {path}` brings them; or choose the text itself.",
        )
    return [TextFile(path / name, path) for name in sorted(visible, key=lambda name: name.parts)]


def check_reading(files: Iterable[TextFile], how: Reading) -> None:
    """Raise UsageError for a setting that means nothing for any of the files."""
    kinds = {file.kind for file in files}
    if how.field != Reading().field and kinds == {Kind.TEXT}:
        raise UsageError("--field is for files named .jsonl, .ndjson or .parquet; there is none, so leave it out.")
    if how.errors != Reading().errors and kinds == {Kind.PARQUET}:
        raise UsageError("--errors is for text that may not be UTF-8; Parquet always is, so leave it out.")


def measure(files: Sequence[TextFile], how: Reading, *, longest: float, read: Count) -> tuple[int, int]:
    """Return how many documents and characters there are. Raises DataError for none, or more than `longest`."""
    n_documents = n_characters = 0
    for file in files:
        for document in file.as_stored(how, read):
            n_before = n_characters
            for piece in document:
                n_characters += len(piece)
                if n_characters > longest:
                    raise DataError(f"{file.path} has more than {longest:,} characters; divide it.")
            n_documents += n_characters > n_before
    if not n_characters:
        raise DataError(f"{files[0].root} is empty; choose a file with text in it.")
    return n_documents, n_characters


class _Watched(io.RawIOBase):
    """A file being read, whose bytes are counted and hashed."""

    def __init__(self, file: io.FileIO, path: Path, read: Count) -> None:
        self._file = file
        self._path = path
        self._read = read
        self._hash = hashlib.sha256()
        self._n_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _failures_named(self._path):
            n_bytes = self._file.readinto(buffer) or 0
        self._hash.update(memoryview(buffer)[:n_bytes])
        self._n_bytes += n_bytes
        self._read(n_bytes)
        return n_bytes

    def record(self) -> dict[str, Any]:
        """Return the size and hash of what was read."""
        return {"bytes": self._n_bytes, "sha256": self._hash.hexdigest()}


Damage = tuple[type[Exception], ...]
"""What a stream raises when its compressed file is damaged."""


def _unpacked(raw: _Watched, path: Path) -> tuple[io.BufferedIOBase, Damage]:
    """Return the stream of a file's contents."""
    name = path.name.lower()
    buffered = io.BufferedReader(raw, CHUNK)
    if name.endswith(".gz"):
        return gzip.open(buffered), (EOFError, zlib.error, gzip.BadGzipFile)
    if name.endswith(".zst"):
        zstd = _extra("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd", "zstd", path)
        return zstd.open(buffered), (EOFError, zstd.ZstdError)
    return buffered, ()


def _extra(module: str, extra: str, path: Path) -> Any:
    """Import a module that not everybody has. Raises UsageError."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        install = f"`pip install 'scratchgpt[{extra}]'`"
        raise UsageError(
            f"Reading {path} needs one more package.",
            advice=f"Install it: {install}.",
            page=f"Whoever started this page can install it in a terminal: {install}.",
        ) from error


@contextlib.contextmanager
def _failures_named(path: Path, damage: Damage = ()) -> Iterator[None]:
    """Turn what goes wrong while a file is read into DataError."""
    try:
        yield
    except damage as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _text(stream: io.BufferedIOBase, path: Path, errors: str, damage: Damage) -> Document:
    """Yield plain text as it is, line ends and byte order mark included; no character is cut."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset = 0
    with _failures_named(path, damage):
        while True:
            data = stream.read(CHUNK)
            if offset == 0 and (found := [kind for start, kind in OTHER_KINDS.items() if data.startswith(start)]):
                raise DataError(f"{path} is {found[0]}. Save its text as a file of plain text in UTF-8.")
            pending = len(decoder.getstate()[0])
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, error, offset - pending) from error
            offset += len(data)
            if not data:
                return


def _not_utf8(path: Path, error: UnicodeDecodeError, offset: int) -> DataError:
    """Say where the text is not UTF-8; what was decoded began at `offset` in the unpacked text."""
    guess = " (it looks like UTF-16)" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
    return DataError(
        f"{path} is not UTF-8 text: the byte 0x{error.object[error.start]:02x} at offset {offset + error.start:,} does "
        "not belong.",
        advice=f"Save the text as UTF-8 first{guess}, or put U+FFFD in such places with --errors replace.",
        page=f"Save the text as UTF-8 first{guess}.",
    )


def _json_lines(stream: io.BufferedIOBase, path: Path, how: Reading, damage: Damage) -> Iterator[Document]:
    """Yield the text of each line that is not blank."""
    offset = 0
    for number in itertools.count(1):
        with _failures_named(path, damage):
            line = stream.readline(LONGEST_LINE)
        where = f"Line {number:,} of {path}"
        if not line:
            return
        if len(line) == LONGEST_LINE:
            raise DataError(f"{where} is longer than {LONGEST_LINE:,} bytes; is it JSON lines?")
        start, offset = offset, offset + len(line)
        if line.isspace():
            continue
        try:
            content = json.loads(line.decode("utf-8", how.errors).removeprefix("\ufeff"))
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error, start) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON: {error}.") from error
        if text := _field(content, how, where):
            yield iter((text,))


def _field(content: Any, how: Reading, where: str) -> str:
    """Return the text in a line of JSON. Raises DataError."""
    text = content.get(how.field) if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise DataError(
            f"{where} has no text in a field {how.field!r}.",
            advice="Name its field with --field.",
            page='Each line must be like {"text": "..."}.',
        )
    if how.errors == "replace":
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    if re.search("[\ud800-\udfff]", text):
        raise DataError(
            f"{where} has half a surrogate pair, which is no character.",
            advice="Put U+FFFD in such places with --errors replace.",
            page="Save the text without it.",
        )
    return text


def _parquet(path: Path, field: str) -> Iterator[Document]:
    """Yield the text of each row."""
    parquet = _extra("pyarrow.parquet", "parquet", path)
    number = 0
    damage = (ValueError, _extra("pyarrow", "parquet", path).ArrowException)
    with _failures_named(path, damage), parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if field not in names:
            raise DataError(
                f"{path} has no column {field!r}, only {', '.join(names)}.",
                advice="Name one with --field.",
                page="Name the column of the text so.",
            )
        for batch in file.iter_batches(batch_size=ROWS, columns=[field]):
            for text in batch.column(0).to_pylist():
                number += 1
                if not isinstance(text, str):
                    raise DataError(f"Row {number:,} of {path} has no text in its column {field!r}.")
                if text:
                    yield iter((text,))
