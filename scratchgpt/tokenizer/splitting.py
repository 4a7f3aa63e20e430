"""Where GPT-2's pattern cuts a text into pieces, found on whole arrays of UTF-8 bytes.

The pattern sorts characters into four classes and cuts where the class changes, with two exceptions: a space goes with
what follows it, and `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` and `'d` are pieces of their own.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import regex

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]

LETTER, NUMBER, SPACE, OTHER = range(4)

CLASS_OF_ASCII = bytes(
    LETTER if chr(byte).isalpha() else NUMBER if chr(byte).isdigit() else SPACE if byte in b"\t\n\v\f\r " else OTHER
    for byte in range(128)
).ljust(256, b"\0")
"""The class of each ASCII character, as a table for `bytes.translate`; that of other bytes takes more looking."""

PADDING = b" " * 16
"""Stands after a text, so that looking a few bytes ahead needs no care; white space, for it changes no piece."""


@cache
def class_of_code_points() -> Bytes:
    """Return the class of each code point (0x110000,), as the installed `regex` package knows Unicode: 25 ms."""
    classes = np.full(0x110000, OTHER, np.uint8)
    # Surrogates, which UTF-8 cannot hold, are left out: a text of all the others has its own positions.
    points = np.concatenate([np.arange(0xD800, dtype="<u4"), np.arange(0xE000, 0x110000, dtype="<u4")])
    text = points.tobytes().decode("utf-32-le")
    start = 0
    for run in regex.finditer(r"(\p{L}+)|(\p{N}+)|(\s+)|[^\p{L}\p{N}\s]+", text):
        kind = (OTHER, LETTER, NUMBER, SPACE)[run.lastindex or 0]
        classes[points[start : run.end()]] = kind
        start = run.end()
    return classes


def piece_starts(padded: bytes) -> Indices:
    """Return where the pieces of a text start (N,), in bytes; the first is 0.

    `padded` is the text in valid UTF-8 and after it `PADDING`, which belongs to no piece.
    """
    data = np.frombuffer(padded, np.uint8)
    classes = np.frombuffer(padded.translate(CLASS_OF_ASCII), np.uint8)
    if not padded.isascii():
        classes = _with_other_scripts(data, classes)
    is_start = np.empty(len(data), np.bool_)
    is_start[0] = True
    np.not_equal(classes[1:], classes[:-1], out=is_start[1:])

    # White space in front of something else loses its last character, and if that is U+0020, the next piece gets it.
    is_space = classes == SPACE
    is_last = is_space[:-1] & ~is_space[1:]
    is_start[1:] &= ~(is_last & (data[:-1] == ord(" ")))
    is_start[:-1] |= is_last
    if not padded.isascii():
        inside = np.flatnonzero(is_last & (data[:-1] >= 0x80))  # the last byte, not the first, of a character
        is_start[inside] = False
        while len(inside):
            inside -= 1
            is_continued = (data[inside] & 0xC0) == 0x80
            is_start[inside[~is_continued]] = True
            inside = inside[is_continued]

    _cut_contractions(data, is_start)
    return np.flatnonzero(is_start[: len(padded) - len(PADDING)])


def _with_other_scripts(data: Bytes, classes: Bytes) -> Bytes:
    """Return the classes, with those of all bytes of each character beyond ASCII set to the character's."""
    classes = classes.copy()
    table = class_of_code_points()
    for n_more, first, end in ((1, 0xC0, 0xE0), (2, 0xE0, 0xF0), (3, 0xF0, 0xF8)):
        leads = np.flatnonzero((data >= first) & (data < end))
        points = (data[leads] & (0x3F >> n_more)).astype(np.intp)
        for more in range(1, n_more + 1):
            points = points << 6 | data[leads + more] & 0x3F
        kinds = table[points]
        for more in range(n_more + 1):
            classes[leads + more] = kinds
    return classes


def _cut_contractions(data: Bytes, is_start: npt.NDArray[np.bool_]) -> None:
    """Cut behind contractions instead of behind their apostrophes, in place.

    The pattern tries them only where a piece starts: not after a space or another apostrophe, which has a longer match.
    """
    apostrophes = np.flatnonzero((data == ord("'")) & is_start)
    if not len(apostrophes):
        return
    first, second = data[apostrophes + 1], data[apostrophes + 2]
    is_short = np.isin(first, np.frombuffer(b"stmd", np.uint8))
    is_long = ((first == ord("r")) | (first == ord("v"))) & (second == ord("e"))
    is_long |= (first == ord("l")) & (second == ord("l"))
    is_start[apostrophes[is_short | is_long] + 1] = False
    is_start[apostrophes[is_short] + 2] = True
    is_start[apostrophes[is_long] + 3] = True
