"""Windows: sequences of block_size tokens and the one that follows, numbered so that any can be asked for.

They lie within stretches of tokens that none may leave: a whole part, or its documents. In random order a window may
begin anywhere in a stretch. In sequential order each begins where the one before it ends, so that each token but the
first of a stretch is a target once, save those at its end that fill no window.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.data.shards import ShardReader

CHUNK = 2**22
"""Tokens that are read at once in search of separators."""

Places = npt.NDArray[np.int64]


class Stretches(NamedTuple):
    """Tokens that belong together."""

    begins: Places  # (N,)
    sizes: Places  # (N,)


def whole(tokens: ShardReader) -> Stretches:
    """Return all tokens as one stretch."""
    return Stretches(np.zeros(1, np.int64), np.array([tokens.size]))


def documents(tokens: ShardReader, separator: int, *, longer_than: int) -> Stretches:
    """Return the documents of more than so many tokens; the separator that ends one is a part of it.

    Reads everything once. What is kept grows with the number of documents found only. Raises DataError.
    """
    begin = 0
    found = [Stretches(np.empty(0, np.int64), np.empty(0, np.int64))]
    for at in range(0, tokens.size, CHUNK):
        is_last = tokens.read(at, at + CHUNK) == separator
        is_last[-1] |= at + CHUNK >= tokens.size
        borders = np.concatenate([[begin], at + 1 + np.flatnonzero(is_last)])
        sizes = np.diff(borders)
        is_long = sizes > longer_than
        found.append(Stretches(borders[:-1][is_long], sizes[is_long]))
        begin = borders[-1]
    return Stretches(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


class Windows:
    """The windows of one part. Window `number` is the same at every call."""

    def __init__(self, stretches: Stretches, block_size: int, *, stride: int) -> None:
        """Let a window begin at each `stride` tokens of a stretch, as long as it fits in."""
        counts = np.maximum((stretches.sizes - 1 - block_size) // stride + 1, 0)
        self._ends = np.cumsum(counts)  # numbers of windows up to the end of each stretch
        self._origins = stretches.begins - (self._ends - counts) * stride
        self._stride = stride
        self.count = int(counts.sum())

    def starts(self, numbers: Places) -> Places:
        """Return where the windows of these numbers (B,) begin: places (B,)."""
        return self._origins[np.searchsorted(self._ends, numbers, side="right")] + numbers * self._stride
