"""Byte-level BPE: a text is cut into pieces, a piece is a run of bytes, and neighbours are joined in a learnt order.

The derivation and the cost are in bpe.md; `bpe_training` learns the order from a text.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scratchgpt.errors import UsageError
from scratchgpt.tokenizer.added import FLAGS, Added, AddedTokens, NormalForm
from scratchgpt.tokenizer.bpe_arrays import ArrayEncoder
from scratchgpt.tokenizer.bpe_json import byte_level, parts
from scratchgpt.tokenizer.byte_characters import BYTE_OF_CHARACTER, to_bytes, to_characters
from scratchgpt.tokenizer.cutting import Cut, cut_of
from scratchgpt.tokenizer.patterns import split
from scratchgpt.tokenizer.splitting import GPT2_PATTERN

END_OF_TEXT = "<|endoftext|>"

LARGEST_ID = 2**22
"""Of a token in a file: there is a row in some tables for each id, whether or not it has a token."""


NO_ID = -1
NEVER = 2**62
"""The rank of a pair that no merge joins."""


def utf8(text: str) -> bytes:
    """Return a text's bytes. Raises UsageError for a lone surrogate, saying where it is."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The text has half a character (the lone surrogate U+{ord(text[error.start]):04X}) at position "
            f"{error.start}; UTF-8 cannot hold it, so remove it."
        ) from error


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
    """A vocabulary of byte strings, the merges that make them, and tokens that are found by their names."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Sequence[tuple[int, int]],
        *,
        special: Mapping[str, int] = MappingProxyType({}),
        added: Iterable[Added] = (),
        patterns: Sequence[str] = (GPT2_PATTERN,),
        forms: Sequence[NormalForm] = (),
        space_at: int | None = None,
        ignore_merges: bool = False,
    ) -> None:
        """Make the vocabulary.

        Args:
            tokens: The bytes of each token, by id; of an added token, those of its name; no bytes for an unused id.
            merges: The pairs of ids that are joined, the first learnt first. What they join must be a token.
            special: Names and ids of the tokens that text alone never gives.
            added: The same for other tokens that are found by their names, and for those with rules of their own.
            patterns: How a text is cut into pieces, see `split`.
            forms: Unicode's normal forms that a text gets first.
            space_at: How many of the patterns cut before each piece that begins with no space gets one; None if none
                gets one.
            ignore_merges: Whether a piece that is a token as a whole is this token, whatever the merges give.

        Raises ValueError if the parts do not fit together.
        """
        self.tokens, self.merges, self.patterns, self.forms = list(tokens), list(merges), tuple(patterns), tuple(forms)
        self.space_at, self.ignore_merges = space_at, ignore_merges
        self.added = [*(Added(name, index) for name, index in special.items()), *added]
        self.special = {token.name: token.id for token in self.added if token.special}
        self.unused = [index for index, token in enumerate(self.tokens) if not token]
        not_plain = {token.id for token in self.added}.union(self.unused)
        plain = {token: index for index, token in enumerate(self.tokens) if index not in not_plain}
        if len(plain) + len(not_plain) < len(self.tokens):
            raise ValueError("some tokens are there twice")
        for token in self.added:
            if not token.special:  # a merge may make it, unless another token is the same text
                plain.setdefault(self.tokens[token.id], token.id)
        for name, index in ((token.name, token.id) for token in self.added):
            if BYTE_OF_CHARACTER.keys() >= set(name) and plain.get(to_bytes(name), index) != index:
                raise ValueError(f"its added token {name!r} is written as another token is; rename it")
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
        """How many ids there are: one more than the largest."""
        return len(self.tokens)

    def padded(self, vocab_size: int) -> "BPETokenizer":
        """Return the same vocabulary with `vocab_size` ids; the new ids are unused."""
        if vocab_size == self.vocab_size:
            return self
        return BPETokenizer(
            [*self.tokens, *[b""] * (vocab_size - len(self.tokens))],
            self.merges,
            added=self.added,
            patterns=self.patterns,
            forms=self.forms,
            space_at=self.space_at,
            ignore_merges=self.ignore_merges,
        )

    @property
    def cut(self) -> Cut | None:
        """Where a long text may be cut without a change of its ids; None if the patterns do not show it."""
        added = [token for token in self.added if not token.special]
        return cut_of(self.patterns, added, adds_space=self.space_at is not None)

    @property
    def is_plain(self) -> bool:
        """Whether nothing but GPT-2's pattern and the merges decides about a text, without special tokens."""
        return (
            self.patterns == (GPT2_PATTERN,)
            and self.space_at is None
            and not (self.forms or self.ignore_merges or any(not token.special for token in self.added))
        )

    def __contains__(self, token: str) -> bool:
        """Tell whether this is a token, added ones included."""
        names = {added.name for added in self.added}
        return token in names or token.encode("utf-8", "surrogatepass") in self._plain

    def encode(self, text: str, *, special: bool = False) -> npt.NDArray[np.uint32]:
        """Return the ids (N,) of a text.

        The names of special tokens are text like any other, so that nobody ends a document by writing about it;
        with `special` they become those tokens. Raises UsageError for a lone surrogate, which UTF-8 cannot hold, and
        for a byte that is not in the vocabulary, and DataError if a file's own pattern takes too long.
        """
        if self.is_plain and not special:
            return self._encode_plain(text)
        utf8(text)  # so that an error names the place in the whole text
        ids = [
            np.array([part], np.uint32) if isinstance(part, int) else self._encode_plain(part)
            for part in self._added.divide(text, special=special)
        ]
        return np.concatenate([np.empty(0, np.uint32), *ids])

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Return the ids (N,) of each text as `encode` does: of short ones together, which is many times as fast."""
        if not self.is_plain or self._unknown_bytes:
            return [self.encode(text) for text in texts]
        return self._arrays.encode_batch([utf8(text) for text in texts])

    @cached_property
    def _arrays(self) -> ArrayEncoder:
        """What does the work of `encode_piece` on whole arrays."""
        triples = [(*pair, new) for pair, new in zip(self.merges, self.merged, strict=True)]
        return ArrayEncoder(self.tokens, self.byte_ids, triples, self._plain if self.ignore_merges else {})

    @cached_property
    def _added(self) -> AddedTokens:
        """What finds added tokens in a text."""
        return AddedTokens(self.added, self.forms)

    def _encode_plain(self, text: str) -> npt.NDArray[np.uint32]:
        """Return the ids (N,) of a text without added tokens. Raises UsageError or DataError."""
        if self.space_at == 0:
            text = _after_space(text)
        data = utf8(text)
        if unknown := self._unknown_bytes.intersection(data):
            raise UsageError(f"The byte 0x{min(unknown):02X} of the text's UTF-8 is not in the vocabulary.")
        if self.patterns == (GPT2_PATTERN,):
            return self._arrays.encode_bytes(data)
        pieces = split(text, self.patterns[: self.space_at])
        if self.space_at:
            pieces = [part for piece in pieces for part in split(_after_space(piece), self.patterns[self.space_at :])]
        return self._arrays.encode_pieces([piece.encode("utf-8") for piece in pieces])

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Return the bytes of ids (N,), added tokens by their names. Raises UsageError if one has no token."""
        indices = np.asarray(ids, dtype=np.int64)
        is_outside = indices.size and not 0 <= indices.min() <= indices.max() < self.vocab_size
        if is_outside or (self.unused and np.isin(indices, self.unused).any()):
            raise UsageError(f"There are ids outside the vocabulary of {self.vocab_size - len(self.unused)} tokens.")
        return self._arrays.decode_bytes(indices)

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids (N,); bytes that are not UTF-8 become U+FFFD. Raises UsageError as above."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary in the format of the `tokenizers` library, which gives the same ids from it."""
        names = {token.id: token.name for token in self.added}
        words = [names.get(index) or to_characters(token) for index, token in enumerate(self.tokens)]
        adds_space = self.space_at is not None
        # A space comes in the last step, which also has GPT-2's pattern.
        is_gpt2 = adds_space and self.space_at != len(self.patterns)
        splits = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.patterns[: self.space_at]
        ]
        forms = [{"type": form} for form in self.forms]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": token.id, "content": token.name, **{flag: getattr(token, flag) for flag in FLAGS}}
                for token in sorted(self.added, key=lambda token: token.id)
            ],
            "normalizer": {"type": "Sequence", "normalizers": forms} if len(forms) > 1 else forms[0] if forms else None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [*splits, byte_level(use_regex=is_gpt2, add_prefix_space=adds_space)],
            },
            "post_processor": None,
            "decoder": byte_level(),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": self.ignore_merges,
                "vocab": {word: index for index, word in enumerate(words) if word},
                "merges": [f"{words[left]} {words[right]}" for left, right in self.merges],
            },
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read a byte-level BPE's tokenizer.json. Raises ValueError naming what is wrong.

        What changes no ids of a text without special tokens counts for nothing: padding and truncation, which a program
        asks for when it encodes, the post-processor, which adds special tokens, and what the model does with bytes that
        it does not know: `encode` refuses these.
        """
        return cls.from_words(**parts(content))

    @classmethod
    def from_words(
        cls,
        vocabulary: Mapping[str, int],
        merges: Iterable[str | Sequence[str]],
        *,
        added: Sequence[Added],
        **how: Any,
    ) -> Self:
        """Make the vocabulary as files hold it: a character for each byte, merges as "left right" or two strings.

        Of a merge that is there twice, the last place counts. `how` is what the constructor takes besides. Raises
        ValueError naming what is wrong.
        """
        ids = dict(vocabulary)
        for name, index in ((token.name, token.id) for token in added):
            if ids.setdefault(name, index) != index:
                raise ValueError(f"its added token {name!r} is written as another token is; rename it")
        names = {token.name for token in added}
        if len(names) < len(added):
            raise ValueError("an added token is there twice")
        if any(type(index) is not int or not 0 <= index <= LARGEST_ID for index in ids.values()):
            raise ValueError(f"its ids are not whole numbers from 0 to {LARGEST_ID:,}")
        if len(set(ids.values())) < len(ids):
            raise ValueError("two of its tokens have the same id")
        tokens = [b""] * (max(ids.values(), default=-1) + 1)
        for word, index in ids.items():
            tokens[index] = word.encode("utf-8") if word in names else to_bytes(word)
        if "" in ids:
            raise ValueError("a token is empty")
        pairs: dict[tuple[int, int], None] = {}
        plain = ids.keys() - {token.name for token in added if token.special or token.name not in vocabulary}
        for rank, merge in enumerate(merges):
            words = merge.split(" ") if isinstance(merge, str) else merge
            match words:
                case [str(left), str(right)] if left in plain and right in plain:
                    pairs.pop((ids[left], ids[right]), None)
                    pairs[ids[left], ids[right]] = None
                case _:
                    raise ValueError(f"its merge {rank}, {merge!r}, does not join two tokens")
        return cls(tokens, list(pairs), added=added, **how)


def _after_space(text: str) -> str:
    """Return a text that begins with a space: with its own, or else with one more."""
    return text if text.startswith(" ") else f" {text}"
