"""Learning a byte-level BPE from a text: join the most frequent pair of neighbours, and again, and again.

bpe.md has the derivation and the cost. The merges, their order and the ids are those of the `tokenizers` library.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from scratchgpt.errors import UsageError
from scratchgpt.tokenizer.bpe import END_OF_TEXT, BPETokenizer, utf8
from scratchgpt.tokenizer.byte_characters import ALPHABET

N_BEFORE_MERGES = len(ALPHABET) + 1
"""Tokens that a vocabulary has before any merge, with one special token."""

NOTHING = -1
"""In place of a symbol: an edge of a piece, or the right half of what was joined."""

MANY = 256
"""From here on an array as long as the vocabulary is a quicker way to add up than a dictionary."""

TOLD = 100
"""Merges between two words of progress: a few hundredths of a second."""

Positions = npt.NDArray[np.intp]


def require_room(vocab_size: int, special: Sequence[str] = (END_OF_TEXT,)) -> None:
    """Raise UsageError if so many tokens are fewer than there must be."""
    n_needed = len(special) + len(ALPHABET)
    if vocab_size < n_needed:
        raise UsageError(
            f"A vocabulary of {vocab_size:,} tokens is too small: the 256 bytes and {len(special)} special "
            f"token{'s' * (len(special) != 1)} make {n_needed}."
        )


def train(
    counts: Mapping[str, int],
    vocab_size: int,
    *,
    special: Sequence[str] = (END_OF_TEXT,),
    progress: Callable[[int], None] = lambda _: None,
) -> BPETokenizer:
    """Learn a vocabulary from the counts of pieces.

    The special tokens have the first ids, then come the 256 bytes and then the merges. Of pairs that occur equally
    often the one with the smallest (left id, right id) is joined first.

    Args:
        counts: How often each piece occurs, see `counting.count_pieces`.
        vocab_size: How many tokens to learn in all; a small text gives fewer.
        special: The names of the special tokens.
        progress: Told now and then how many merges were learnt since it was told last.

    Raises UsageError if the bytes and special tokens are more than `vocab_size`, for a lone surrogate, and if a special
    token's name is that of another token in files.
    """
    require_room(vocab_size, special)
    tokens = [name.encode("utf-8") for name in special] + ALPHABET
    pieces = _Pieces(counts, first_id=len(special))
    id_of = {token: index for index, token in enumerate(tokens) if index >= len(special)}
    merges: list[tuple[int, int]] = []
    while len(tokens) < vocab_size:
        pair = pieces.most_frequent()
        if pair is None:  # every piece is one token
            break
        joined = tokens[pair[0]] + tokens[pair[1]]
        new = id_of.setdefault(joined, len(tokens))
        if new == len(tokens):
            tokens.append(joined)
        merges.append(pair)
        pieces.join(pair, new)
        if len(merges) % TOLD == 0:
            progress(TOLD)
    progress(len(merges) % TOLD)
    try:
        return BPETokenizer(tokens, merges, special={name: index for index, name in enumerate(special)})
    except ValueError as error:
        raise UsageError(f"The names of the special tokens do not fit the vocabulary: {error}.") from error


class _Pieces:
    """All different pieces behind one another in one array of symbols, and the counts of their pairs.

    Joining two symbols writes the new one over the left half and leaves NOTHING in place of the right one; `next` and
    `previous` lead from one symbol that is left to another. A position stays in its symbol's list after the symbol
    has gone from there, until that list is read the next time.
    """

    def __init__(self, counts: Mapping[str, int], first_id: int) -> None:
        """Lay out the pieces with edges around each; the ids of the bytes begin at `first_id`."""
        id_of_byte = np.full(256, NOTHING, np.intp)
        id_of_byte[list(b"".join(ALPHABET))] = np.arange(256) + first_id
        pieces = [utf8(piece) for piece in counts]
        lengths = np.array([len(piece) for piece in pieces], np.intp)
        edges = np.concatenate([[0], np.cumsum(lengths + 1)])
        self.symbols = id_of_byte[np.frombuffer(b"\0" + b"".join(piece + b"\0" for piece in pieces), np.uint8)]
        self.symbols[edges] = NOTHING
        self.weights = np.repeat(np.fromiter(counts.values(), np.int64, len(counts)), lengths + 1)
        self.next = np.arange(1, len(self.symbols) + 1)
        self.previous = np.arange(-1, len(self.symbols) - 1)
        at = np.flatnonzero(self.symbols != NOTHING)
        characters = (self.symbols[at] - first_id).astype(np.uint8)  # which NumPy sorts in one pass
        order = at[np.argsort(characters, kind="stable")]
        ends = np.cumsum(np.bincount(characters, minlength=256))
        self.positions = dict(enumerate(np.split(order, ends[:-1]), first_id))
        self.counts: defaultdict[int, int] = defaultdict(
            int, self._count_all(first_id)
        )  # of left << 32 | right, hashed sooner than a tuple
        self.heap = [-count << 64 | key for key, count in self.counts.items()]  # the most frequent, smallest pair first
        heapq.heapify(self.heap)

    def _count_all(self, first_id: int) -> dict[int, int]:
        """Return how often each pair of neighbours occurs."""
        left, right = self.symbols[:-1], self.symbols[1:]
        inside = (left != NOTHING) & (right != NOTHING)
        sums = np.bincount((left[inside] - first_id) * 256 + right[inside] - first_id, self.weights[inside])
        pairs = np.flatnonzero(sums)
        keys = (pairs // 256 + first_id) << 32 | (pairs % 256 + first_id)
        return dict(zip(keys.tolist(), sums[pairs].astype(np.int64).tolist(), strict=True))

    def most_frequent(self) -> tuple[int, int] | None:
        """Return the pair that occurs most often, of equals the smallest; None if there is none."""
        while self.heap:
            entry = heapq.heappop(self.heap)
            key = entry & 0xFFFFFFFFFFFFFFFF
            count = self.counts[key]
            if count == -(entry >> 64):
                return divmod(key, 2**32)
            if count:  # it has become rarer since it was put there
                heapq.heappush(self.heap, -count << 64 | key)
        return None

    def join(self, pair: tuple[int, int], new: int) -> None:
        """Write the symbol `new` wherever the pair stands, and count the pairs anew that this changes."""
        at = self._find(*pair)
        weights = self.weights[at]
        left, second = self.previous[at], self.next[at]
        right = self.next[second]
        left_symbols, right_symbols = self.symbols[left], self.symbols[right]

        self.symbols[at] = new
        self.symbols[second] = NOTHING
        self.next[at] = right
        self.previous[right] = at
        self.positions[new] = np.sort(np.append(self.positions[new], at)) if new in self.positions else at

        # Where the pair stands twice in a row, the new symbol's neighbour is another new one. Elsewhere the neighbour
        # is what it was.
        first: npt.NDArray[np.bool_] | slice = slice(None)
        last = first
        is_twice = at[1:] == right[:-1]
        if is_twice.any():
            self._move(pair[1] << 32 | pair[0], new << 32 | new, int(weights[1:][is_twice].sum()))
            first, last = np.append(True, ~is_twice), np.append(~is_twice, True)
        for other, weight in _totals(left_symbols[first], weights[first]):
            self._move(other << 32 | pair[0], other << 32 | new, weight)
        for other, weight in _totals(right_symbols[last], weights[last]):
            self._move(pair[1] << 32 | other, new << 32 | other, weight)
        del self.counts[pair[0] << 32 | pair[1]]

    def _move(self, old: int, new: int, weight: int) -> None:
        """Count some occurrences of one pair as those of another."""
        counts = self.counts
        counts[old] -= weight
        counts[new] = count = counts[new] + weight
        heapq.heappush(self.heap, -count << 64 | new)

    def _find(self, left: int, right: int) -> Positions:
        """Return where to join a pair, in order; of a run of three equal symbols, the first two."""
        if len(self.positions[left]) <= len(self.positions[right]):
            at = self._positions_now(left)
            at = at[self.symbols[self.next[at]] == right]
        else:
            at = self.previous[self._positions_now(right)]
            at = at[self.symbols[at] == left]
        if left == right:
            index = np.arange(len(at))
            begins_run = np.append(True, self.next[at[:-1]] != at[1:])
            at = at[(index - np.maximum.accumulate(index * begins_run)) % 2 == 0]
        return at

    def _positions_now(self, symbol: int) -> Positions:
        """Return the positions of a symbol, and forget those that it has left."""
        at = self.positions[symbol]
        self.positions[symbol] = at = at[self.symbols[at] == symbol]
        return at


def _totals(symbols: Positions, weights: npt.NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """Yield every different symbol with the sum of its weights, without NOTHING."""
    totals: defaultdict[int, int] = defaultdict(int)
    if len(symbols) > MANY:
        sums = np.bincount(symbols - NOTHING, weights).astype(np.int64)
        present = np.flatnonzero(sums)
        totals.update(zip((present + NOTHING).tolist(), sums[present].tolist(), strict=True))
    else:
        for symbol, weight in zip(symbols.tolist(), weights.tolist(), strict=True):
            totals[symbol] += weight
    totals.pop(NOTHING, None)
    return totals.items()
