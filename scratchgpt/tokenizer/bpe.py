"""Byte-level BPE: a text is cut into pieces, a piece is a run of bytes, and neighbours are joined in a learnt order.

The derivation and the cost are in bpe.md; `bpe_training` learns the order from a text.
"""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import regex

from scratchgpt.errors import DataError, UsageError
from scratchgpt.tokenizer.bpe_arrays import ArrayEncoder
from scratchgpt.tokenizer.cutting import Cut, cut_of
from scratchgpt.tokenizer.splitting import GPT2_PATTERN

END_OF_TEXT = "<|endoftext|>"

PATIENCE = 10.0
"""Seconds that a file's patterns may take to cut a text, and 10 µs a character more: patterns can be without end."""
LONGEST_PATTERN = 10_000
"""Characters; a pattern of a megabyte takes `regex` minutes to understand."""

NO_ID = -1
NEVER = 2**62
"""The rank of a pair that no merge joins."""


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


def utf8(text: str) -> bytes:
    """Return a text's bytes. Raises UsageError for a lone surrogate, saying where it is."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The text has half a character (the lone surrogate U+{ord(text[error.start]):04X}) at position "
            f"{error.start}; UTF-8 cannot hold it, so remove it."
        ) from error


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


def encode_piece(
    piece: bytes, byte_ids: Sequence[int], ranks: Mapping[tuple[int, int], int], merged: Sequence[int]
) -> list[int]:
    """Return the ids of one piece: of all neighbours, those of the lowest rank are joined first, leftmost first.

    `ranks` gives the rank of a pair of ids, `merged` the id that a rank joins its pair to. The time grows with the
    square of the piece's length. `bpe_arrays` gives the same ids many times as fast, and is what a tokenizer uses.
    """
    ids = [byte_ids[byte] for byte in piece]
    while len(ids) > 1:
        rank, at = min((ranks.get(pair, NEVER), at) for at, pair in enumerate(itertools.pairwise(ids)))
        if rank == NEVER:
            break
        ids[at : at + 2] = [merged[rank]]
    return ids


class BPETokenizer:
    """A vocabulary of byte strings, the merges that make them, and special tokens that stand for no text."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Sequence[tuple[int, int]],
        *,
        special: Mapping[str, int],
        patterns: Sequence[str] = (GPT2_PATTERN,),
    ) -> None:
        """Make the vocabulary.

        Args:
            tokens: The bytes of each token, by id; of a special token, those of its name.
            merges: The pairs of ids that are joined, the first learnt first. What they join must be a token.
            special: Names and ids of the tokens that text alone never gives.
            patterns: How a text is cut into pieces, see `split`.

        Raises ValueError if the parts do not fit together.
        """
        self.tokens, self.merges, self.special = list(tokens), list(merges), dict(special)
        self.patterns = tuple(patterns)
        reserved = set(self.special.values())
        plain = {token: index for index, token in enumerate(self.tokens) if index not in reserved}
        if len(plain) + len(reserved) < len(self.tokens):
            raise ValueError("some tokens are there twice")
        for name in self.special:
            if BYTE_OF_CHARACTER.keys() >= set(name) and to_bytes(name) in plain:
                raise ValueError(f"its special token {name!r} is written as another token is; rename it")
        self.byte_ids = [plain.get(bytes([byte]), NO_ID) for byte in range(256)]
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        if len(self.ranks) < len(self.merges):
            raise ValueError("some merges are there twice")
        try:
            self.merged = [plain[self.tokens[left] + self.tokens[right]] for left, right in self.merges]
        except KeyError as error:
            raise ValueError(f"a merge makes {error}, which is no token") from error
        self._plain = plain
        self._unknown_bytes = {byte for byte, index in enumerate(self.byte_ids) if index == NO_ID}

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, special ones included."""
        return len(self.tokens)

    @property
    def cut(self) -> Cut | None:
        """Where a long text may be cut without a change of its ids; None if the patterns do not show it."""
        return cut_of(self.patterns)

    def __contains__(self, token: str) -> bool:
        """Tell whether this is a token, special ones included."""
        return token in self.special or token.encode("utf-8", "surrogatepass") in self._plain

    def encode(self, text: str, *, special: bool = False) -> npt.NDArray[np.uint32]:
        """Return the ids (N,) of a text.

        The names of special tokens are text like any other, so that nobody ends a document by writing about it;
        with `special` they become those tokens. Raises UsageError for a lone surrogate, which UTF-8 cannot hold, and
        for a byte that is not in the vocabulary, and DataError if a file's own pattern takes too long.
        """
        if special and self.special:
            utf8(text)  # so that what is wrong with it is told with its place in the whole text
            names = sorted(self.special, key=len, reverse=True)  # where two begin, the longer one counts
            parts = regex.split(f"({'|'.join(map(regex.escape, names))})", text)
        else:
            parts = [text]
        ids = [
            np.array([self.special[part]], np.uint32) if number % 2 else self._encode_plain(part)
            for number, part in enumerate(parts)
        ]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Return the ids (N,) of each text as `encode` does: of short ones together, which is many times as fast."""
        if self.patterns != (GPT2_PATTERN,) or self._unknown_bytes:
            return [self.encode(text) for text in texts]
        return self._arrays.encode_batch([utf8(text) for text in texts])

    @cached_property
    def _arrays(self) -> ArrayEncoder:
        """What does the work of `encode_piece` on whole arrays."""
        triples = [(*pair, new) for pair, new in zip(self.merges, self.merged, strict=True)]
        return ArrayEncoder(self.tokens, self.byte_ids, triples)

    def _encode_plain(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the ids (N,) of a text without special tokens. Raises UsageError or DataError."""
        data = utf8(text)
        if unknown := self._unknown_bytes.intersection(data):
            raise UsageError(f"The byte 0x{min(unknown):02X} of the text's UTF-8 is not in the vocabulary.")
        if self.patterns == (GPT2_PATTERN,):
            return self._arrays.encode_bytes(data)
        return self._arrays.encode_pieces([piece.encode("utf-8") for piece in split(text, self.patterns)])

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Return the bytes of ids (N,), special tokens by their names. Raises UsageError if one is out of range."""
        indices = np.asarray(ids, dtype=np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.vocab_size:
            raise UsageError(f"There are ids outside the vocabulary of {self.vocab_size} tokens.")
        return self._arrays.decode_bytes(indices)

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids (N,); bytes that are not UTF-8 become U+FFFD. Raises UsageError as above."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary in the format of the `tokenizers` library, which gives the same ids from it."""
        names = {index: name for name, index in self.special.items()}
        words = [names.get(index) or to_characters(token) for index, token in enumerate(self.tokens)]
        splits = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.patterns
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": index, "content": name, **dict.fromkeys(_ADDED_FLAGS, False), "special": True}
                for index, name in sorted(names.items())
            ],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, _byte_level(use_regex=False)]},
            "post_processor": None,
            "decoder": _byte_level(use_regex=False),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {word: index for index, word in enumerate(words)},
                "merges": [f"{words[left]} {words[right]}" for left, right in self.merges],
            },
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read a byte-level BPE's tokenizer.json. Raises ValueError naming what is wrong."""
        model = _part(content, "model", dict)
        for part in ("normalizer", "truncation", "padding"):
            _refuse(f"its {part}", content.get(part))
        for part in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
            _refuse(f"its model's {part}", model.get(part))
        if _kind(content.get("decoder")) != "ByteLevel":
            raise ValueError("its decoder is not ByteLevel")
        match content.get("post_processor"):
            case None | {"type": "ByteLevel"} | {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}:
                pass  # none of them adds tokens to a text
            case other:
                raise ValueError(f"its post_processor {_kind(other)} is not supported")
        special: dict[str, int] = {}
        for added in _part({"added_tokens": [], **content}, "added_tokens", list):
            name = _part(added, "content", str, "added token's ")
            for flag in ("lstrip", "rstrip", "single_word"):
                _refuse(f"{flag} of its added token {name!r}", added.get(flag))
            _refuse(f"its added token {name!r}, which is not special,", not added.get("special"))
            if name in special:
                raise ValueError(f"its added token {name!r} is there twice")
            special[name] = _part(added, "id", int, "added token's ")
        return cls.from_words(
            _part(model, "vocab", dict, "model's "),
            _part(model, "merges", list, "model's "),
            special=special,
            patterns=_read_patterns(content.get("pre_tokenizer")),
        )

    @classmethod
    def from_words(
        cls,
        vocabulary: Mapping[str, int],
        merges: Iterable[str | Sequence[str]],
        *,
        special: Mapping[str, int],
        patterns: Sequence[str] = (GPT2_PATTERN,),
    ) -> Self:
        """Make the vocabulary as files hold it: a character for each byte, merges as "left right" or two strings.

        Raises ValueError naming what is wrong.
        """
        for name, index in special.items():
            if vocabulary.get(name, index) != index:
                raise ValueError(f"its special token {name!r} is written as another token is; rename it")
        ids = dict(vocabulary) | dict(special)
        if any(type(index) is not int for index in ids.values()) or sorted(ids.values()) != [*range(len(ids))]:
            raise ValueError("its ids do not count from 0 without gaps or repetition")
        tokens = [b""] * len(ids)
        for word, index in ids.items():
            tokens[index] = word.encode("utf-8") if word in special else to_bytes(word)
        if not all(tokens):
            raise ValueError("a token is empty")
        pairs, plain = [], ids.keys() - special.keys()
        for rank, merge in enumerate(merges):
            words = merge.split(" ") if isinstance(merge, str) else merge
            match words:
                case [str(left), str(right)] if left in plain and right in plain:
                    pairs.append((ids[left], ids[right]))
                case _:
                    raise ValueError(f"its merge {rank}, {merge!r}, does not join two tokens")
        return cls(tokens, pairs, special=special, patterns=patterns)


def to_characters(token: bytes) -> str:
    """Return how files write a token: one printable character for each byte."""
    return token.decode("latin-1").translate(BYTE_CHARACTERS)


def to_bytes(word: str) -> bytes:
    """Return the bytes that a word in a file stands for. Raises ValueError if it has other characters."""
    try:
        return word.translate(_LATIN_1).encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(f"its token {word!r} is not written in the characters that stand for bytes") from error


_ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    """Return the part of tokenizer.json that turns bytes into characters; with its regex it cuts as GPT-2 does."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_KINDS = {dict: "object", list: "list", str: "text", int: "number"}


def _part(whole: Any, name: str, kind: type, of: str = "") -> Any:
    """Return a part of a file. Raises ValueError if it is missing or of another kind."""
    part = whole.get(name) if isinstance(whole, dict) else None
    if isinstance(part, kind):
        return part
    raise ValueError(f"its {of}{name} is missing or no {_KINDS[kind]}")


def _kind(step: Any) -> Any:
    """Return the type that a step of a file names; of what is no step, how Python writes it."""
    return step.get("type") if isinstance(step, dict) else step and repr(step)


def _refuse(part: str, value: Any) -> None:
    """Raise ValueError if a part of the file asks for something."""
    if value:
        raise ValueError(f"{part} is not supported")


def _read_patterns(pre_tokenizer: Any) -> tuple[str, ...]:
    """Return the patterns that cut as a file's pre_tokenizer does. Raises ValueError."""
    is_sequence = _kind(pre_tokenizer) == "Sequence"
    steps = _part(pre_tokenizer, "pretokenizers", list, "pre_tokenizer's ") if is_sequence else [pre_tokenizer]
    if not steps or _kind(steps[-1]) != "ByteLevel":
        raise ValueError("its pre_tokenizer does not end in ByteLevel")
    patterns = []
    for step in steps:
        match step:
            case {"type": "ByteLevel"} if step is steps[-1]:
                _refuse("add_prefix_space of its pre_tokenizer", step.get("add_prefix_space", True))
                patterns += [GPT2_PATTERN] if step.get("use_regex", True) else []
            case {"type": "Digits", "individual_digits": individual}:
                patterns.append(r"\p{N}" if individual else r"\p{N}+")
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
                patterns.append(_checked(pattern))
            case {"type": "Split"}:
                raise ValueError("a Split of its pre_tokenizer other than Isolated by a Regex is not supported")
            case _:
                raise ValueError(f"the step {_kind(step)} of its pre_tokenizer is not supported")
    return tuple(patterns)


def _checked(pattern: str) -> str:
    """Return a pattern that `regex` understands. Raises ValueError."""
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"a split pattern of its pre_tokenizer has more than {LONGEST_PATTERN:,} characters")
    try:
        compiled = regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"its split pattern {pattern!r} cannot be used: {error}") from error
    if compiled.flags & regex.REVERSE:
        raise ValueError(f"its split pattern {pattern!r} cannot be used: it searches backwards")
    return pattern
