"""The patterns by which a file says how a text is cut into pieces: those that are understood, and the cutting."""

import itertools
import time
from collections.abc import Iterable

import regex

from scratchgpt.errors import DataError

PATIENCE = 10.0
"""Seconds that a file's patterns may take to cut a text, and 10 µs a character more: patterns can be without end."""

LONGEST_PATTERN = 10_000
"""Characters; a pattern of a megabyte takes `regex` minutes to understand."""

_ESCAPE = r"\\(?:[^\p{L}\p{N}]|[rntfvsSdDwWbB]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[pP]\{\^?[\w ]+\})"

COMMON = (
    rf"(?:[^\\\[\](){{}}^$]|{_ESCAPE}"
    rf"|\[\^?\]?(?:[^\\\[\]&]|&(?!&)|{_ESCAPE})*\]"  # a class without classes in it
    r"|\((?!\?)|\)|\(\?(?::|=|!|>|<=|<!)"
    r"|\(\?i:(?:'s\|'t\|'re\|'ve\|'m\|'ll\|'d|\[sdmt\]\|ll\|ve\|re)\)"  # where no ß could stand for ss
    r"|\{[0-9]+(?:,[0-9]*)?\}(?![+*?{]))*+"
)
"""Patterns that mean the same to `regex` and to Oniguruma, which the `tokenizers` library uses.

To Oniguruma, `^` and `$` are at each line, `[a[b]]` and `&&` are sets of sets, `{1,3}+` repeats `{1,3}`, and `\\h` is a
hexadecimal digit.
"""


def split(text: str, patterns: Iterable[str]) -> list[str]:
    """Cut a text into pieces: a pattern's matches and what lies between them, each cut again by the next pattern.

    Raises DataError if a pattern takes too long.
    """
    pieces = [text]
    deadline = time.monotonic() + PATIENCE + len(text) / 100_000
    for pattern in patterns:
        compiled = regex.compile(pattern)
        try:
            pieces = [part for piece in pieces for part in _cut(piece, compiled, deadline - time.monotonic())]
        except (TimeoutError, MemoryError) as error:
            raise DataError(
                f"The vocabulary's split pattern {pattern!r} is too slow or too large for this text; use another "
                "tokenizer."
            ) from error
    return pieces


def _cut(text: str, pattern: regex.Pattern[str], seconds: float) -> list[str]:
    """Return the matches of one pattern and what lies between them, in order, without empty ones.

    Raises TimeoutError if there are no `seconds` left, or not enough.
    """
    if seconds <= 0:
        raise TimeoutError
    matches = pattern.finditer(text, timeout=seconds)
    edges = [0, *itertools.chain.from_iterable(match.span() for match in matches), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges) if start < end]


def checked(pattern: str) -> str:
    """Return a pattern that `regex` understands. Raises ValueError."""
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"a split pattern of its pre_tokenizer has more than {LONGEST_PATTERN:,} characters")
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"its split pattern {pattern!r} cannot be used: {error}") from error
    if compiled.flags & regex.REVERSE:
        raise ValueError(f"its split pattern {pattern!r} cannot be used: it searches backwards")
    if (same := regex.match(COMMON, pattern)) and same.end() < len(pattern):
        raise ValueError(
            f"its split pattern {pattern!r} cannot be used: from {pattern[same.end() :]!r} on, it may mean something "
            "else here than in the tokenizers library"
        )
    return pattern
