"""How often each piece of a text occurs under GPT-2's pattern: what a vocabulary is learnt from."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import regex

from scratchgpt.tokenizer.bpe import utf8
from scratchgpt.tokenizer.bpe_arrays import SHORT, TABLE_BITS, chunks, keys, pieces_of_keys
from scratchgpt.tokenizer.hashing import HashTable
from scratchgpt.tokenizer.splitting import GPT2_PATTERN

SMALL = 4096
"""Bytes; a text of fewer is counted sooner piece by piece than on arrays."""


def count_pieces(texts: Iterable[str]) -> Counter[str]:
    """Return how often each piece occurs in some texts; no piece reaches from one text into the next.

    Raises UsageError for a lone surrogate, which UTF-8 cannot hold.
    """
    counter = PieceCounter()
    for text in texts:
        counter.add(text)
    return counter.total()


class PieceCounter:
    """Counts the pieces of one text after another."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._find = regex.compile(GPT2_PATTERN).findall
        self._counts: Counter[str] = Counter()
        self._arrays = _ArrayCounter()

    def add(self, text: str) -> None:
        """Count the pieces of a text. Raises UsageError for a lone surrogate."""
        data = utf8(text)
        if len(data) < SMALL:
            self._counts.update(self._find(text))
        else:
            self._arrays.add(data)

    def total(self) -> Counter[str]:
        """Return all counts. No more texts can be added."""
        for piece, count in self._arrays.total().items():
            self._counts[piece.decode("utf-8")] += count
        return self._counts


class _ArrayCounter:
    """Counts the pieces of long texts on whole arrays, a hash table at a time; long pieces one by one."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._counts: Counter[bytes] = Counter()
        self._table = HashTable(TABLE_BITS)
        self._in_table = np.zeros(self._table.size, np.int64)

    def add(self, data: bytes) -> None:
        """Count the pieces of a text in valid UTF-8."""
        for padded, bounds in chunks(data):
            if self._table.n_keys > self._table.size // 2:
                self._empty_table()
            lengths = np.diff(bounds)
            short = lengths <= SHORT
            slots = self._table.insert(*keys(padded, bounds[:-1][short], lengths[short]))
            self._in_table += np.bincount(slots, minlength=self._table.size)
            edges = zip(bounds[:-1][~short].tolist(), bounds[1:][~short].tolist(), strict=True)
            self._counts.update(padded[start:end] for start, end in edges)

    def total(self) -> Counter[bytes]:
        """Return all counts."""
        self._empty_table()
        return self._counts

    def _empty_table(self) -> None:
        """Move what the table has counted into the dictionary, which has no limit."""
        slots = np.flatnonzero(self._in_table)
        for piece, count in zip(pieces_of_keys(*self._table.keys(slots)), self._in_table[slots].tolist(), strict=True):
            self._counts[piece] += count
        self._table = HashTable(TABLE_BITS)
        self._in_table[:] = 0
