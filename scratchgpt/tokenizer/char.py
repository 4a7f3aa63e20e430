"""One token for each character: the vocabulary is a text's characters in the order of their code points."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scratchgpt.errors import UsageError
from scratchgpt.tokenizer.cutting import Cut, before_white_space

UNKNOWN = np.uint32(0xFFFFFFFF)


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """Return the code points (N,) of a text of N characters."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class CharTokenizer:
    """A vocabulary of characters. The same text gives the same ids, always."""

    special: Mapping[str, int] = MappingProxyType({})

    def __init__(self, characters: Iterable[str], vocab_size: int = 0) -> None:
        """Make the vocabulary of the given characters; order and repetition do not matter.

        With a larger `vocab_size`, the ids behind those of the characters are unused.
        """
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = max(len(self.characters), vocab_size)
        self.unused = range(len(self.characters), self.vocab_size)
        points = code_points(self.characters)
        self._id_of_point = np.full(int(points.max(initial=0)) + 1, UNKNOWN)  # uint32, by code point
        self._id_of_point[points] = np.arange(len(points))
        self._points = points

    def padded(self, vocab_size: int) -> "CharTokenizer":
        """Return the same vocabulary with `vocab_size` ids; the new ids are unused."""
        return CharTokenizer(self.characters, vocab_size)

    @property
    def cut(self) -> Cut:
        """Where a text may be cut: as each character is a token, here, too."""
        return before_white_space

    def __contains__(self, token: str) -> bool:
        """Tell whether this character is in the vocabulary."""
        return len(token) == 1 and token in self.characters

    def encode(self, text: str, *, special: bool = False) -> npt.NDArray[np.uint32]:  # noqa: ARG002 - there are none
        """Return the id of each character (N,). Raises UsageError naming the first that is not known."""
        points = code_points(text)
        ids = np.full(len(points), UNKNOWN)
        inside = points < len(self._id_of_point)
        ids[inside] = self._id_of_point[points[inside]]
        unknown = np.flatnonzero(ids == UNKNOWN)
        if len(unknown):
            character = text[unknown[0]]
            raise UsageError(
                f"The character {character!r} (U+{ord(character):04X}, at position {unknown[0]}) is not in the "
                f"vocabulary, which has {len(self.characters)} characters: {_shown(self.characters)}."
            )
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Return the ids (N,) of each text. Raises UsageError as above."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids (N,). Raises UsageError if one is not of this vocabulary."""
        indices = np.asarray(ids, dtype=np.intp)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self.characters):
            raise UsageError(f"There are ids outside the vocabulary of {len(self.characters)} characters.")
        points = self._points[indices]
        return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Return the UTF-8 of ids (N,). Raises UsageError as above."""
        return self.decode(ids).encode("utf-8", "surrogatepass")

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary in the format of the `tokenizers` library, which gives the same ids from it."""
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            # `.` would not match a newline.
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"[\s\S]"},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            # The format demands an unk_token; it is not in the vocabulary, so an unknown character is an error.
            "model": {
                "type": "WordLevel",
                "vocab": {character: index for index, character in enumerate(self.characters)},
                "unk_token": "<unk>",
            },
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `to_json` gave. Raises ValueError, KeyError or TypeError if it is anything else."""
        vocabulary = content["model"]["vocab"]
        if any(len(character) != 1 or "\ud800" <= character <= "\udfff" for character in vocabulary):
            raise ValueError("its tokens are not single characters")
        tokenizer = cls(vocabulary)
        expected = tokenizer.to_json()
        if not vocabulary:
            raise ValueError("it is empty")
        for added in content.get("added_tokens", []):
            is_same = vocabulary.get(added["content"]) == added["id"]  # the same id as without it
            if not is_same or added.get("lstrip") or added.get("rstrip"):
                raise ValueError(f"its added token {added['content']!r} is not supported next to characters")
        for part in ("normalizer", "pre_tokenizer", "model", "decoder"):
            if content[part] != expected[part]:
                raise ValueError(f"its {part} is not that of one id a character in the order of the code points")
        return tokenizer


def _shown(characters: str, limit: int = 80) -> str:
    """Return the characters as one printable piece of text, cut if there are many."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in characters[:limit])
    return text + ("..." if len(characters) > limit else "")
