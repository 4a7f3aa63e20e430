"""Byte-level BPE with GPT-2's pattern, on whole arrays: what the plain encoder does, many times as fast.

Python spends some 100 ns on each step of a loop, and a text has a piece every four bytes or so. So nothing here loops
over pieces, save over rare ones; every step is one NumPy call for all the pieces of a chunk:

1. `splitting` finds where pieces start, on the UTF-8 bytes themselves.
2. A piece of up to 15 bytes is two machine words, its bytes and its length, that are looked up in a hash table of the
   pieces seen before (`hashing`). Longer ones are rare in most texts, and looked up in a dict.
3. Those not seen before are merged together (`merging`), and remembered: their tokens stand in a pool, and of each
   piece is known where there and how many.
4. The tokens are taken from the pool for all pieces at once.

The memory is bounded: a chunk at a time, and when the table or the pool is full, all is forgotten. No vocabulary is
loaded into the table, for a token's bytes alone do not tell that merging gives this token.

More in docs/bpe-arrays.md.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from scratchgpt.tokenizer.hashing import HashTable, Words
from scratchgpt.tokenizer.merging import Ids, Indices, Merged, Merges
from scratchgpt.tokenizer.splitting import PADDING, piece_starts

CHUNK = 2**19
"""Bytes encoded at once: enough to make a NumPy call's own time small, and few enough for the processor's cache."""
MOST_PIECES = 2**17
"""Pieces encoded at once."""
GAP = b"\n" * len(PADDING)
"""Stands between two texts: white space, in front of which a text ends as ever, and of which the next one gets none."""
TABLE_BITS = 19
"""The table has 2^19 slots in 12 MB. It is full when half of them are taken, and then has room for a chunk more."""
MOST_LONG = 2**16
"""When more of the pieces longer than `SHORT` are remembered than this, it is time to forget."""
MOST_POOLED = 2**22
"""When more tokens of pieces are remembered than this, too."""
DECODED = 2**16
"""Ids decoded at once."""

SHORT = 15
"""Bytes of a piece that is looked up in the table: two words, less one byte for the length."""
# What of the two words from a piece's start on belongs to it, and its length, by the length. The length tells "a" from
# "a" and NUL, and makes the second word different from 0. All longer pieces are one and the same here.
_OWN = np.array([[0xFF] * n + [0] * (16 - n) for n in (*range(SHORT + 1), 0)], np.uint8).view("<u8").astype(np.uint64)
_OWN_LOW, _OWN_HIGH = np.ascontiguousarray(_OWN.T)
_LENGTH = np.arange(SHORT + 2, dtype=np.uint64) << np.uint64(56)


class ArrayEncoder(threading.local):
    """The way from UTF-8 to ids and back for one vocabulary. It remembers pieces, for each thread its own."""

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        byte_ids: npt.ArrayLike,
        merges: npt.ArrayLike,
        whole: Mapping[bytes, int] = MappingProxyType({}),
    ) -> None:
        """Take each token's bytes by id, the id of each byte (256,), and of each merge in order three ids (M, 3).

        Those are the left token's, the right one's, and that of both together. `whole` are pieces that are one token,
        whatever the merges give.
        """
        self._merges, self._whole = Merges(byte_ids, merges), whole
        self._forget()
        # The bytes of all tokens, each filled up to whole words; for decoding.
        self._lengths = np.array([len(token) for token in token_bytes], np.intp)
        n_words = np.maximum(-(-self._lengths // 8), 1)
        filled = b"".join(map(bytes.ljust, token_bytes, (8 * n_words).tolist(), repeat(b"\0")))
        self._words = np.frombuffer(filled, np.uint64)
        self._first_word = np.cumsum(n_words) - n_words
        self._heads = self._words[self._first_word]

    def encode_bytes(self, data: bytes) -> Ids:
        """Return the ids (N,) of a text in valid UTF-8."""
        parts = [self._encode(padded, bounds)[0] for padded, bounds in chunks(data)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint32), *parts])

    def encode_batch(self, texts: Sequence[bytes]) -> list[Ids]:
        """Return the ids (N,) of each text in valid UTF-8: of short ones together, which is many times as fast."""
        ids: list[Ids] = []
        ends = np.cumsum([len(text) for text in texts])
        while len(ids) < len(texts):
            first = len(ids)
            begin = ends[first - 1] if first else 0
            end = max(int(np.searchsorted(ends, begin + MOST_PIECES, side="right")), first + 1)
            several = texts[first:end]
            ids += self._encode_together(several) if len(several) > 1 else [self.encode_bytes(several[0])]
        return ids

    def _encode_together(self, texts: Sequence[bytes]) -> list[Ids]:
        """Return the ids of each of some short texts."""
        lengths = np.array([len(text) for text in texts])
        ends = np.cumsum(lengths)
        begins = ends - lengths
        # The pieces are found in the texts with gaps between, and then the gaps taken out.
        starts = piece_starts(GAP.join(texts) + PADDING)
        shifts = len(GAP) * np.arange(len(texts))
        text = np.searchsorted(begins + shifts, starts, side="right") - 1
        places = starts - shifts[text]
        bounds = np.unique(np.concatenate([places[places < ends[text]], begins, ends]))
        ids, edges = self._encode(b"".join(texts) + PADDING, bounds)
        return np.split(ids, edges[np.searchsorted(bounds, ends[:-1])])

    def encode_pieces(self, pieces: Sequence[bytes]) -> Ids:
        """Return the ids (N,) of a text that has been cut into pieces already, by another pattern."""
        parts = [np.empty(0, np.uint32)]
        for at in range(0, len(pieces), MOST_PIECES):
            some = pieces[at : at + MOST_PIECES]
            parts.append(self._encode(b"".join(some) + PADDING, np.cumsum([0, *map(len, some)]))[0])
        return np.concatenate(parts)

    def decode_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Return the bytes of ids (N,), each of which must be in the vocabulary."""
        indices = np.asarray(ids)
        return b"".join(self._decode(indices[at : at + DECODED]) for at in range(0, len(indices), DECODED))

    def _forget(self) -> None:
        """Start with an empty memory."""
        self._table = HashTable(TABLE_BITS)
        self._long: dict[bytes, int] = {}
        n_slots = self._table.size + MOST_LONG + MOST_PIECES  # after the table's slots come those of the dict
        self._first = np.zeros(n_slots, np.int32)
        self._count = np.zeros(n_slots, np.int32)
        self._pool = np.empty(CHUNK, np.uint32)
        self._n_pooled = 0

    def _encode(self, padded: bytes, bounds: Indices) -> tuple[Ids, npt.NDArray[np.int32]]:
        """Return the ids (N,) of the pieces between neighbouring bounds (P + 1,), and where in them the bounds are."""
        if self._table.n_keys > self._table.size // 2 or len(self._long) > MOST_LONG or self._n_pooled > MOST_POOLED:
            self._forget()
        starts, lengths = bounds[:-1], np.diff(bounds)
        slots = self._slots(padded, bounds, lengths)
        counts = self._count[slots]
        unseen = np.flatnonzero(counts == 0)
        if len(unseen):
            new, where = np.unique(slots[unseen], return_index=True)
            pieces = unseen[where]
            self._learn(new, self._merged(padded, starts[pieces], lengths[pieces]))
            counts[unseen] = self._count[slots[unseen]]
        # A token is as far behind its piece's first in the pool as it is in the output.
        edges = np.zeros(len(bounds), np.int32)
        np.cumsum(counts, out=edges[1:])
        places = np.repeat(self._first[slots] - edges[:-1], counts)
        places += np.arange(len(places), dtype=np.int32)
        return self._pool[places], edges

    def _merged(self, padded: bytes, starts: Indices, lengths: Indices) -> Merged:
        """Return the tokens of the pieces (N,) that start at `starts` and have `lengths` bytes."""
        merged = self._merges.merge(np.frombuffer(padded, np.uint8), starts, lengths)
        if not self._whole:
            return merged
        tokens = [part.tolist() for part in np.split(merged.ids, np.cumsum(merged.counts)[:-1])]
        for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            if (index := self._whole.get(padded[start : start + length])) is not None:
                tokens[number] = [index]
        return Merged(np.array(list(chain(*tokens)), np.uint32), np.array(list(map(len, tokens)), np.intp))

    def _slots(self, padded: bytes, bounds: Indices, lengths: Indices) -> Indices:
        """Return each piece's index in what is remembered; those not seen before get one."""
        slots = self._table.insert(*keys(padded, bounds[:-1], lengths))
        for piece in np.flatnonzero(lengths > SHORT).tolist():
            key = padded[bounds[piece] : bounds[piece + 1]]
            slots[piece] = self._table.size + self._long.setdefault(key, len(self._long))
        return slots

    def _learn(self, slots: Indices, merged: Merged) -> None:
        """Remember the tokens of new pieces."""
        end = self._n_pooled + len(merged.ids)
        if end > len(self._pool):
            self._pool = np.concatenate([self._pool, np.empty(end, np.uint32)])
        self._pool[self._n_pooled : end] = merged.ids
        self._first[slots] = self._n_pooled + np.cumsum(merged.counts) - merged.counts
        self._count[slots] = merged.counts
        self._n_pooled = end

    def _decode(self, ids: Indices) -> bytes:
        """Return the bytes of some ids (N,).

        Each token is written as whole words, which is many times as fast as byte by byte. What is written beyond its
        end is written over by the tokens after it, for NumPy writes in order. A long token's later words come first:
        nobody's first word reaches beyond the first eight bytes of the next token, so none of those is damaged.
        """
        lengths = self._lengths[ids]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        n_bytes = int(ends[-1])
        written = np.empty(n_bytes + 8, np.uint8)
        places = np.ndarray(n_bytes + 1, np.uint64, written, strides=(1,))  # the eight bytes from each byte on
        n_more = 1
        longer = np.flatnonzero(lengths > 8)
        while len(longer):
            places[starts[longer] + 8 * n_more] = self._words[self._first_word[ids[longer]] + n_more]
            n_more += 1
            longer = longer[lengths[longer] > 8 * n_more]
        places[starts] = self._heads[ids]
        return written[:n_bytes].tobytes()


def chunks(data: bytes) -> Iterator[tuple[bytes, Indices]]:
    """Yield a text in valid UTF-8 in parts.

    Each is some bytes, `PADDING` included, and where their pieces start, and where the last one ends (N + 1,).
    """
    used, size = 0, CHUNK
    while used < len(data):
        end = used + size
        is_end = end >= len(data)
        while not is_end and 0x80 <= data[end] < 0xC0:  # in the middle of a character
            end -= 1
        padded = data[used:end] + PADDING
        bounds = piece_bounds(padded, is_end=is_end)
        if len(bounds) > 1:
            yield padded, bounds
            used += int(bounds[-1])
            size = CHUNK
        else:
            size *= 2  # a piece larger than a chunk


def keys(padded: bytes, starts: Indices, lengths: Indices) -> tuple[Words, Words]:
    """Return the two words (N,) that stand for each piece; all pieces of more than `SHORT` bytes have the same."""
    # The eight bytes from each byte on. Copied once, they lie where a processor expects words: twice as fast.
    words = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,)).astype(np.uint64)
    kinds = np.minimum(lengths, SHORT + 1)
    return words[starts] & _OWN_LOW[kinds], words[starts + 8] & _OWN_HIGH[kinds] | _LENGTH[kinds]


def pieces_of_keys(low: Words, high: Words) -> list[bytes]:
    """Return the pieces (N,) of up to `SHORT` bytes that words stand for."""
    written = np.stack([low, high], axis=1).astype("<u8").tobytes()
    lengths = (high >> np.uint64(56)).tolist()
    return [written[16 * at : 16 * at + length] for at, length in enumerate(lengths)]


def piece_bounds(padded: bytes, *, is_end: bool) -> Indices:
    """Return where the pieces of a text before its `PADDING` start, and where the last ends: (N + 1,), or fewer.

    If the text goes on, its last start is left out, and so the last two pieces: more text may be more of the last
    piece, and a start may be wrong if it is inside a contraction that is cut short.
    """
    starts = piece_starts(padded)
    bounds = np.append(starts, len(padded) - len(PADDING)) if is_end else starts[:-1]
    return bounds[: MOST_PIECES + 1]
