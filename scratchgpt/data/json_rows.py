"""The rows of JSON lines, of an array of JSON, and of objects one after another."""

import json
import re
from collections.abc import Iterator
from typing import Any

from scratchgpt.data.documents import Document
from scratchgpt.data.plain import ADVICE, PLAIN, bounded, lines, text_of
from scratchgpt.data.unpacking import Contents, Place
from scratchgpt.errors import DataError

LONGEST_TOKEN = 16
"""Characters that a word, an escape or a sign of JSON has at most: a text that is cut inside one seems to be wrong."""


def json_lines(contents: Contents, errors: str) -> Iterator[tuple[int, Any]]:
    """Yield the number and content of each line that is not blank. Raises DataError."""
    place = contents.place
    for number, line in enumerate(lines(text_of(contents, errors, advice=ADVICE), "\n", place), 1):
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
        held = [bounded(self._text[self._at :], "Entry", number, self._place)]
        n_held, n_new = len(held[0]), 0
        for piece in self._pieces:
            held.append(piece)
            n_new += len(piece)
            if n_new > n_held:
                break
        self._text, self._at = "".join(held), 0
        return n_new > 0


def json_entries(contents: Contents, errors: str) -> Iterator[tuple[int, Any]]:
    """Yield the number and content of each entry of an array, or of values one after another. Raises DataError."""
    text = _JSONText(text_of(contents, errors, advice=ADVICE), contents.place)
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
