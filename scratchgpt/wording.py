"""How sentences show counts, times, names and texts: the same on the command line, on the page and in logs."""

import math
import unicodedata


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, as in `1 line` and `2 lines`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def shown(text: str) -> str:
    """Return a text with names in it as a person can read it, on one line.

    U+FFFD stands for bytes that are not UTF-8, and for what moves the cursor or turns text around.
    """
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else "\ufffd" for letter in text
    )


def printable(text: str) -> str:
    """Return the text with U+FFFD for invisible characters: a model may write what moves the cursor."""
    if text.replace("\n", "").isprintable():  # as nearly all is; a long one is looked at again and again
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


MINUTE, HOUR, DAY, YEAR = 60, 3600, 86_400, 31_557_600
"""Seconds."""


def duration(seconds: float | None) -> str:
    """Return how long something took, in the largest two units that count: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return ""
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), MINUTE)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def time_left(seconds: float) -> str:
    """Return how long something will take: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / MINUTE)
    return rough_duration(seconds) if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def rough_duration(seconds: float) -> str:
    """Return how long something may take, in one unit: 40 s, 12 min, 3 h, 10 days, 4 years."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    for limit, unit_seconds, unit in ((100, MINUTE, "min"), (72, HOUR, "h"), (600, DAY, "days"), (1000, YEAR, "years")):
        if round(seconds / unit_seconds) < limit:
            return f"{round(seconds / unit_seconds)} {unit}"
    return "over 1,000 years"
