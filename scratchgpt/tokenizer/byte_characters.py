"""The 256 characters that stand for the bytes of tokens in files."""

import itertools


def _byte_characters() -> str:
    """Return the 256 characters that stand for the bytes in files: printable ASCII and Latin-1 for themselves.

    The others (control characters, spaces, the soft hyphen) get the characters from U+0100 on, in their order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = itertools.count(0x100)
    return "".join(chr(byte if byte in printable else next(substitutes)) for byte in range(256))


BYTE_CHARACTERS = _byte_characters()

BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}

_LATIN_1 = {point: chr(BYTE_OF_CHARACTER.get(chr(point), 0xFFFF)) for point in range(ord(max(BYTE_CHARACTERS)) + 1)}
"""For `str.translate`: to the character whose Latin-1 is the byte, or to one that Latin-1 does not have."""

ALPHABET = [bytes([byte]) for byte in sorted(range(256), key=BYTE_CHARACTERS.__getitem__)]
"""The single bytes in the order of their characters: the first tokens of every vocabulary."""


def to_characters(token: bytes) -> str:
    """Return how files write a token: one printable character for each byte."""
    return token.decode("latin-1").translate(BYTE_CHARACTERS)


def to_bytes(word: str) -> bytes:
    """Return the bytes that a word in a file stands for. Raises ValueError if it has other characters."""
    try:
        return word.translate(_LATIN_1).encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(f"its token {word!r} is not written in the characters that stand for bytes") from error
