"""Added tokens: found in a text by their names, before and after it is normalised, as the `tokenizers` library does."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import regex

NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]
NORMAL_FORMS = get_args(NormalForm)

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

_ENDS_WORD, _STARTS_WORD = regex.compile(r"(?r)\w"), regex.compile(r"\w")
_SPACE_BEFORE, _SPACE_AFTER = regex.compile(r"(?r)\s+"), regex.compile(r"\s+")


class Added(NamedTuple):
    """A token that is found by its name."""

    name: str
    id: int
    special: bool = True  # found only where names of special tokens are asked for
    single_word: bool = False  # not found within a word
    lstrip: bool = False  # white space before it belongs to it
    rstrip: bool = False  # and white space after it
    normalized: bool = False  # found after normalisation, by its normalised name


def normalized(text: str, forms: Iterable[NormalForm]) -> str:
    """Return a text in Unicode's normal forms, one after another."""
    for form in forms:
        text = unicodedata.normalize(form, text)
    return text


class AddedTokens:
    """Divides a text into added tokens and the text between them."""

    def __init__(self, tokens: Sequence[Added], forms: Sequence[NormalForm]) -> None:
        """Take the tokens, and the normal forms that a text gets."""
        self._forms = forms
        self._finders = [
            _Finder([token for token in tokens if not token.normalized]),
            _Finder([token._replace(name=normalized(token.name, forms)) for token in tokens if token.normalized]),
        ]

    def divide(self, text: str, *, special: bool) -> list[str | int]:
        """Return the parts of a text in order: ids of added tokens, and normalised text. No text is empty.

        Without `special`, the names of special tokens are text.
        """
        raw, normal = self._finders
        parts: list[str | int] = []
        for part in raw.divide(text, special=special):
            parts += [part] if isinstance(part, int) else normal.divide(normalized(part, self._forms), special=special)
        return parts


class _Finder:
    """Finds some names: of several at one place the longest."""

    def __init__(self, tokens: Sequence[Added]) -> None:
        self._tokens = {token.name: token for token in tokens}
        names = sorted(self._tokens, key=len, reverse=True)
        self._pattern = regex.compile("|".join(map(regex.escape, names))) if names else None

    def divide(self, text: str, *, special: bool) -> list[str | int]:
        """Return ids and the text between them, without empty text."""
        parts: list[str | int] = []
        end = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._tokens[match[0]]
            start, stop = match.span()
            if token.special and not special:
                continue
            if token.single_word and (_ENDS_WORD.match(text, 0, start) or _STARTS_WORD.match(text, stop)):
                continue
            if token.lstrip and (space := _SPACE_BEFORE.match(text, 0, start)):
                start = max(space.start(), end)
            if token.rstrip and (space := _SPACE_AFTER.match(text, stop)):
                stop = space.end()
            parts += [text[end:start], token.id]
            end = stop
        parts.append(text[end:])
        return [part for part in parts if part != ""]
