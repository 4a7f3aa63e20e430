"""Byte-pair merging: of all neighbouring pairs in a piece, the one whose merge comes first, the leftmost of equals.

Three ways that give the same: a heap for one piece, matrices for many short ones at once, and for a piece of thousands
of bytes all the places of one pair at once, as long as there are many.
"""

import heapq
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.tokenizer.hashing import HashTable

Ids = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.intp]

ONE = np.uint64(1)
"""Added to the right id of a pair, since the second word of a key must not be 0."""

NONE = 2**31 - 1
"""The rank of a pair that no merge joins: after all others."""

FEW = 100
"""Fewer pieces than this are quicker one by one."""
LONG = 64
"""Pieces of more bytes than this are so rare that matrices of them would have few rows."""
HUGE = 2**12
"""In pieces of more bytes than this some pairs stand at many places ..."""
COMMON = 1 / 128
"""... which are joined at once if they are at least this share of the tokens, and else one by one."""


class Merged(NamedTuple):
    """The tokens of several pieces: piece i has `counts[i]` of the `ids`, after those of the pieces before it."""

    ids: Ids
    counts: Indices


class Merges:
    """The merges of a vocabulary, and what they make of pieces."""

    def __init__(self, byte_ids: npt.ArrayLike, merges: npt.ArrayLike) -> None:
        """Take the id of each byte (256,) and of each merge in order the ids (M, 3) of left, right and both.

        No pair may be there twice. A byte that no text will have may have any id.
        """
        self._byte_ids = np.asarray(byte_ids, np.int64).astype(np.uint32)
        left, right, both = np.asarray(merges, np.uint64).reshape(-1, 3).T
        self._merged = both.astype(np.uint32)
        # For one pair at a time ...
        self._rank_of_pair = {pair: rank for rank, pair in enumerate((left << np.uint64(32) | right).tolist())}
        self._merged_list: list[int] = both.tolist()
        # ... and for many.
        self._pairs = HashTable((8 * len(left) + 8).bit_length())
        self._ranks = np.full(self._pairs.size, NONE, np.int32)
        ranks = np.arange(len(left))
        self._ranks[self._pairs.insert(left, right + ONE)] = ranks
        # Whether each token is made before it is joined, so that a merge makes only pairs of higher ranks.
        first_use = np.full(int(np.max([left, right, both], initial=0)) + 1, NONE)
        for part in (left, right):
            np.minimum.at(first_use, part.astype(np.intp), ranks)
        self._is_in_order = bool((first_use[both.astype(np.intp)] > ranks).all())

    def merge(self, data: npt.NDArray[np.uint8], starts: Indices, lengths: Indices) -> Merged:
        """Return the tokens of the pieces (N,) that start at `starts` in `data` and have `lengths` bytes."""
        is_single = lengths > LONG if len(starts) >= FEW else np.ones(len(starts), np.bool_)
        parts = self._merge_many(data, starts, lengths, np.flatnonzero(~is_single))
        for piece in np.flatnonzero(is_single).tolist():
            ids = self._byte_ids[data[starts[piece] : starts[piece] + lengths[piece]]]
            if len(ids) > HUGE and self._is_in_order:
                ids = self._merge_common(ids)
            parts.append((np.array([piece]), np.array([self.merge_one(ids.tolist())], np.uint32)))
        counts = np.zeros(len(starts), np.intp)
        for pieces, tokens in parts:
            counts[pieces] = tokens.shape[1]
        firsts = np.cumsum(counts) - counts
        merged = np.empty(counts.sum(), np.uint32)
        for pieces, tokens in parts:
            merged[firsts[pieces][:, None] + np.arange(tokens.shape[1])] = tokens
        return Merged(merged, counts)

    def _merge_common(self, ids: Ids) -> Ids:
        """Return what one piece has become when its next merge is at few places.

        The places of one pair are the next merges, one after the other, since none of them makes a pair of a rank as
        low: so they are joined at once.
        """
        ranks = self._rank(ids[:-1], ids[1:])
        while len(ranks):
            rank = ranks.min()
            at = np.flatnonzero(ranks == rank)
            if rank == NONE or len(at) < COMMON * len(ids):
                break
            # Of a run of three equal tokens, the first two are joined.
            index = np.arange(len(at))
            begins_run = np.append(True, np.diff(at) > 1)
            at = at[(index - np.maximum.accumulate(index * begins_run)) % 2 == 0]
            stays = np.ones(len(ids), np.bool_)
            stays[at + 1] = False
            ids[at] = self._merged[rank]
            ids, ranks = ids[stays], ranks[stays[1:]]
            at -= np.arange(len(at))  # where they are now
            changed = np.concatenate([at - 1, at])
            changed = changed[(changed >= 0) & (changed < len(ranks))]
            ranks[changed] = self._rank(ids[changed], ids[changed + 1])
        return ids

    def merge_one(self, ids: list[int]) -> list[int]:
        """Return the tokens of one piece, given as the ids of its n bytes, in time n log n.

        The pairs wait in a heap, and tokens are linked to their neighbours, so nothing is searched for or moved.
        """
        find, merged = self._rank_of_pair.get, self._merged_list
        end = len(ids)
        before, after = list(range(-1, end - 1)), list(range(1, end + 1))
        ranks = [find(left << 32 | right, NONE) for left, right in pairwise(ids)] + [NONE]
        # Rank and position as one number: the smallest is the first merge at its leftmost place.
        heap = [rank << 32 | position for position, rank in enumerate(ranks) if rank != NONE]
        heapq.heapify(heap)
        while heap:
            rank, left = divmod(heapq.heappop(heap), 2**32)
            if ranks[left] != rank:
                continue  # one of the two has been merged with another since
            right = after[left]
            ids[left] = merged[rank]
            ranks[right] = NONE
            after[left] = beyond = after[right]
            ranks[left] = find(ids[left] << 32 | ids[beyond], NONE) if beyond < end else NONE
            if ranks[left] != NONE:
                heapq.heappush(heap, ranks[left] << 32 | left)
            if beyond < end:
                before[beyond] = left
            if (previous := before[left]) >= 0:
                ranks[previous] = find(ids[previous] << 32 | ids[left], NONE)
                if ranks[previous] != NONE:
                    heapq.heappush(heap, ranks[previous] << 32 | previous)
        tokens, position = [], 0
        while position < end:
            tokens.append(ids[position])
            position = after[position]
        return tokens

    def _rank(self, left: Ids, right: Ids) -> npt.NDArray[np.int32]:
        """Return the rank of each pair (N,)."""
        return self._ranks[self._pairs.find(left.astype(np.uint64), right.astype(np.uint64) + ONE)]

    def _merge_many(
        self, data: npt.NDArray[np.uint8], starts: Indices, lengths: Indices, pieces: Indices
    ) -> list[tuple[Indices, npt.NDArray[np.uint32]]]:
        """Return pairs of pieces' indices (R,) and their tokens (R, L), one pair for each number L of tokens.

        From the longest down to one token: the pieces that have L tokens now are the rows of one matrix. One merge in
        each row makes rows of L - 1 tokens, which the pieces of L - 1 bytes join. So all rows stay full, and the NumPy
        calls are as many as the longest piece has bytes.
        """
        done = []
        order = pieces[np.argsort(lengths[pieces], kind="stable")]
        longest = int(lengths[order[-1]]) if len(order) else 1
        bounds = np.searchsorted(lengths[order], np.arange(longest + 2))
        rows, ids, ranks = order[:0], np.empty((0, longest), np.uint32), np.empty((0, longest - 1), np.int32)
        for length in range(longest, 0, -1):
            new = order[bounds[length] : bounds[length + 1]]
            if len(new):
                new_ids = self._byte_ids[data[starts[new][:, None] + np.arange(length)]]
                new_ranks = self._rank(new_ids[:, :-1].ravel(), new_ids[:, 1:].ravel()).reshape(len(new), length - 1)
                rows, ids = np.concatenate([rows, new]), np.concatenate([ids, new_ids])
                ranks = np.concatenate([ranks, new_ranks])
            if length == 1:
                done.append((rows, ids))
                break
            best = ranks.argmin(axis=1)
            rank = ranks[np.arange(len(rows)), best]
            goes_on = rank != NONE
            done.append((rows[~goes_on], ids[~goes_on]))
            rows, best, rank = rows[goes_on], best[goes_on], rank[goes_on]
            row = np.arange(len(rows))
            # The right one of the pair is taken out of each row, and the pair's rank.
            ids = _without(ids[goes_on], row, best + 1)
            ids[row, best] = self._merged[rank]
            ranks = _without(ranks[goes_on], row, best)
            # Only the pairs with the new token have changed.
            has_left, has_right = np.flatnonzero(best > 0), np.flatnonzero(best < length - 2)
            changed = np.concatenate([has_left, has_right])
            at = np.concatenate([best[has_left] - 1, best[has_right]])
            ranks[changed, at] = self._rank(ids[changed, at], ids[changed, at + 1])
        return done


def _without(matrix: npt.NDArray[Any], row: Indices, column: Indices) -> npt.NDArray[Any]:
    """Return the matrix (R, C - 1) without one element of each row."""
    stays = np.ones(matrix.shape, np.bool_)
    stays[row, column] = False
    return matrix[stays].reshape(len(row), matrix.shape[1] - 1)
