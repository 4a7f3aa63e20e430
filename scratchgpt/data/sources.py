"""Where text comes from: files of many kinds, as documents in bounded pieces.

A document is an iterator of pieces of text, so that one of any size is read in constant memory; no token is cut. A
plain file is one document; JSON, CSV and Parquet have one a row. Packed files and archives are unpacked on the way.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scratchgpt.data.documents import Count, Document, Tally, divided, whole_words, without_gutenberg
from scratchgpt.data.reading import Form, Reading, Stored, form_of, inside_another, stored_in, stored_in_parquet
from scratchgpt.data.unpacking import (
    Contents,
    Place,
    Watched,
    failures_named,
    is_hidden,
    most_bytes,
    open_zip,
    unpacked,
    zip_members,
)
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import file_identity, file_record
from scratchgpt.tokenizer.cutting import Cut, before_white_space


class TextFile:
    """A file that is read more than once, and must be the same each time."""

    def __init__(self, path: Path, root: Path) -> None:
        """Look at the file that was asked for, or that is in the folder `root`. Raises DataError if it is no text."""
        if not path.is_file():
            pipe = " Name a pipe itself, or read it as -." if path.is_fifo() else ""
            raise DataError(f"{path} is neither a regular file nor a link to one; give a text file in its place.{pipe}")
        self.path = path
        self.root = root
        self.record: dict[str, Any] = {}  # name, bytes and sha256: known after the first reading
        self._place = Place(path, root)
        with failures_named(path):
            self._most = most_bytes(path)
            file = path.open("rb")
        with file:
            first = Contents(file, self._place, most=self._most).start
            file.seek(0)
            start = unpacked(file, self._place, most=self._most).start
        self.form = form_of(start, self._place)
        if self.form in (Form.PARQUET, Form.ZIP) and start != first:
            raise inside_another(self.form, self._place)
        if self.form is Form.ZIP:
            with open_zip(self._place):
                pass

    def documents(self, how: Reading, *, cut: Cut | None, read: Count, tally: Tally) -> Iterator[Document]:
        """Yield the documents; each must be read to its end before the next. Raises DataError and UsageError.

        They come in pieces as `cut` allows. `read` receives how many bytes were read.
        """
        for stored in self._stored(how, read, tally):
            is_divided = not stored.is_row or how.separator  # a row is a document already
            for document in divided(stored.text, how.separator if is_divided else "", tally):
                text = without_gutenberg(document, tally) if how.strip_gutenberg else document
                yield whole_words(text, cut, str(self.path))

    def _stored(self, how: Reading, read: Count, tally: Tally) -> Iterator[Stored]:
        """Yield the texts of plain files and of rows, in pieces that may cut words. Raises DataError and UsageError."""
        if self.form in (Form.PARQUET, Form.ZIP):  # which are not read from beginning to end
            with failures_named(self.path):
                identity = file_identity(self.path)
            if self.form is Form.PARQUET:
                yield from stored_in_parquet(self._place, how, tally)
            else:
                for place, member in zip_members(self._place):
                    yield from stored_in(member, place, how, tally)
            with failures_named(self.path):
                record = file_record(self.path)
                if file_identity(self.path) != identity:
                    raise self._changed()
            self._remember(record)
            read(record["bytes"])
            return
        with failures_named(self.path):
            file = self.path.open("rb", buffering=0)
        with file, Watched(file, self.path, read) as raw:
            yield from stored_in(unpacked(raw, self._place, most=self._most), self._place, how, tally)
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
    visible = [name for name in inside if not any(map(is_hidden, name.parts))]
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
    forms = {file.form for file in files}
    if forms == {Form.TEXT}:
        rows = (
            "for rows of JSON, CSV and Parquet, and here is only plain text; leave it out, or end the names of files "
            "with rows in .jsonl, .json, .csv or .tsv."
        )
        if how.field != Reading().field:
            raise UsageError(f"--field is {rows}")
        if how.strict:
            raise UsageError(f"--strict is {rows}")
    if how.errors != Reading().errors and forms == {Form.PARQUET}:
        raise UsageError("--errors is for text that may not be UTF-8; Parquet always is, so leave it out.")


def measure(files: Sequence[TextFile], how: Reading, *, longest: float, read: Count) -> tuple[int, int, int]:
    """Return how many documents, characters and rows without text there are.

    Raises DataError if there is no text, or more than `longest` characters.
    """
    n_documents = n_characters = 0
    tally = Tally()
    for file in files:
        for document in file.documents(how, cut=before_white_space, read=read, tally=tally):
            n_before = n_characters
            for piece in document:
                n_characters += len(piece)
                if n_characters > longest:
                    raise DataError(f"{file.path} has more than {longest:,} characters; divide it.")
            n_documents += n_characters > n_before
    if not n_characters:
        raise DataError(f"{files[0].root} is empty{without_text(tally.skipped_rows)}; choose a file with text in it.")
    return n_documents, n_characters, tally.skipped_rows


def without_text(n_rows: int) -> str:
    """Return how many rows without text were passed over, as the end of a sentence; nothing if there are none."""
    return f"; {n_rows:,} row{'s' if n_rows > 1 else ''} without text passed over" if n_rows else ""
