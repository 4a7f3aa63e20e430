"""How sentences show counts, times, names and texts: the same on the command line, on the page and in logs."""

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
