"""From bytes to plain text, and to its lines, in pieces of constant memory."""

import codecs
import io
from collections.abc import Iterator

from scratchgpt.data.documents import Document
from scratchgpt.data.unpacking import Contents, Place
from scratchgpt.errors import DataError
from scratchgpt.kinds import BINARY, kind_of, mark_of

CHUNK = 2**20
"""Bytes decoded at once."""

LONGEST_ROW = 2**26
"""Characters that a row of JSON or CSV may have: it is held in memory, several times over."""

PLAIN = "Or end its name in .txt to read it as plain text."

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


def lines(document: Document, newline: str, place: Place | str) -> Iterator[str]:
    """Yield the lines of a text with their ends, which `newline` chooses as `open` does. Raises DataError."""
    number, rest = 1, ""
    for piece in document:
        *whole, rest = io.StringIO(rest + piece, newline=newline) if rest or piece else [""]
        for line in whole:
            yield bounded(line, "Line", number, place)
            number += 1
        bounded(rest, "Line", number, place)
    yield rest


def bounded(text: str, what: str, number: int, place: Place | str) -> str:
    """Return the text of a row. Raises DataError if it is too long."""
    if len(text) > LONGEST_ROW:
        raise DataError(f"{what} {number:,} of {place} is longer than {LONGEST_ROW:,} characters; divide it.")
    return text
