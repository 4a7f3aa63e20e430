"""Tokens as a person can read them."""

import unicodedata

from scratchgpt.tokenizer import Tokenizer

VISIBLE = {" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5"}
"""What stands for white space where it could not be seen."""

LONGEST = 16
"""Characters of a token that are shown."""

MOVING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Directions that turn the text behind them around."""


def label(tokenizer: Tokenizer, token: int) -> str:
    """Return a token in one short, visible piece; U+FFFD for parts of characters and what cannot be shown."""
    text = tokenizer.decode_bytes([token]).decode("utf-8", "replace")
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "\u2026"
    return "".join(VISIBLE.get(character) or harmless(character) for character in text)


def harmless(text: str) -> str:
    """Return a text that can be shown anywhere: nothing in it but newlines and tabs does something.

    Other control characters become their pictures, and what turns text around U+FFFD.
    """
    return "".join(map(_harmless, text))


def _harmless(character: str) -> str:
    if character in "\n\t":
        return character
    if character < " ":
        return chr(0x2400 + ord(character))
    is_control = unicodedata.category(character) in {"Cc", "Cs"}
    return "\ufffd" if is_control or unicodedata.bidirectional(character) in MOVING else character
