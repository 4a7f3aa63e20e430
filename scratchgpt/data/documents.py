"""Texts in pieces of bounded size: their documents, and the parts that are left out."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scratchgpt.errors import DataError
from scratchgpt.tokenizer import END_OF_TEXT
from scratchgpt.tokenizer.cutting import Cut

LONGEST_LINE = 2**20
"""Characters of a line that are held in memory."""

LONGEST_WORD = 2**22
"""Characters without the end of a word that are held in memory."""

MARK = re.compile(
    r"^\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG E(?:[^*]{0,300}\*\*\*)?.*\n?", re.IGNORECASE | re.MULTILINE
)
"""The lines around a text of Project Gutenberg; a long title runs over several."""

ALONE = re.compile(rf"^[ \t]*{re.escape(END_OF_TEXT)}[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
"""A line that holds only <|endoftext|>, which cannot be meant as text."""

Document = Iterator[str]
"""The pieces of a text."""

Count = Callable[[int], None]
"""Receives amounts that sum to the whole."""

Progress = Callable[[str, int, int], None]
"""Receives a stage, how much of it was done since the last call, and how much there is of it in all."""


@dataclass
class Tally:
    """Counts of one reading."""

    dropped_characters: int = 0  # of Project Gutenberg
    separators: int = 0  # that ended a document
    skipped_rows: int = 0  # without text


def divided(text: Document, separator: str | None, tally: Tally) -> Iterator[Document]:
    """Yield the documents of a text; read each to its end before the next. The separators are counted.

    A document ends at each `separator`. If that is None, it ends at each line that holds only <|endoftext|>; if it is
    empty, nothing ends a document. Separators belong to no document.
    """
    if separator == "":
        yield text
        return
    pieces = _cut_at_lines(text) if separator is None else _cut_at(text, separator)
    is_over = False

    def document() -> Document:
        nonlocal is_over
        for piece in pieces:
            if piece is None:
                tally.separators += 1
                return
            yield piece
        is_over = True

    while not is_over:
        yield (unread := document())
        for _ in unread:  # the caller may have stopped before its end
            pass


def _cut_at_lines(text: Document) -> Iterator[str | None]:
    """Yield the text, and None in the place of each line that holds only <|endoftext|>."""
    begins_line = True
    for lines in whole_lines(text):
        at = 0
        for line in ALONE.finditer(lines) if END_OF_TEXT in lines else ():  # to search for it alone is faster
            if line.start() or begins_line:
                yield lines[at : line.start()]
                yield None
                at = line.end()
        yield lines[at:]
        begins_line = lines.endswith("\n") if lines else begins_line


def _cut_at(text: Document, separator: str) -> Iterator[str | None]:
    """Yield the text, and None in the place of each separator."""
    held = ""
    for piece in text:
        *ended, held = (held + piece).split(separator)
        for rest in ended:
            yield rest
            yield None
        at = max(len(held) - len(separator) + 1, 0)  # from here on, a separator may have begun
        yield held[:at]
        held = held[at:]
    yield held


def without_gutenberg(document: Document, tally: Tally) -> Document:
    """Leave out what Project Gutenberg put before and after a text. Without its marks, everything stays."""
    keep = True
    for number, lines in enumerate(whole_lines(document)):
        marks = list(MARK.finditer(lines))
        if number == 0 and marks and marks[0][1].upper() == "START":
            keep = False
        at = 0
        for mark in marks:
            if keep:
                yield lines[at : mark.start()]
            tally.dropped_characters += mark.end() - (mark.start() if keep else at)
            at = mark.end()
            keep = mark[1].upper() == "START"
        if keep:
            yield lines[at:]
        else:
            tally.dropped_characters += len(lines) - at


def whole_lines(document: Document) -> Document:
    """Yield the same text, cut after line ends unless a line is very long."""
    rest = ""
    for piece in document:
        if end := piece.rfind("\n") + 1:
            yield rest + piece[:end]
            rest = piece[end:]
        else:
            rest += piece
        if len(rest) > LONGEST_LINE:
            yield rest
            rest = ""
    yield rest


def whole_words(document: Document, cut: Cut | None, name: str) -> Document:
    """Yield the same text in pieces whose tokens, one after another, are those of the whole.

    `cut` knows the places for that. Text without such a place is cut where it must be. Without `cut`, the whole text is
    one piece, and DataError is raised if it is too long: it calls the source `name`.
    """
    held, at = "", 0
    for piece in document:
        if at:
            yield held[:at]
        held = held[at:] + piece
        is_long = len(held) > LONGEST_WORD
        if cut is None:
            if is_long:
                raise DataError(
                    f"{name} has a text of more than {LONGEST_WORD:,} characters, and the split pattern of the "
                    "vocabulary does not show where to cut it without other tokens; divide it into several texts."
                )
            continue
        new_places = range(len(held) - 1, max(len(held) - len(piece), 1) - 1, -1)
        at = next((at for at in new_places if cut(held[at - 1], held[at])), len(held) if is_long else 0)
    yield held
