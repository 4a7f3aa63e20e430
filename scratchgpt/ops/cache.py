"""Keys and values that are kept: where new ones go, and which ones a query meets. Derivation: generation/cache.md."""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from scratchgpt.ops.array import Array, array_module

Positions = slice | Array
"""Of new tokens: the same T positions for all sequences, or (B, T)."""


class Span(NamedTuple):
    """T new positions of B sequences, each behind its own sequence's last one. All layers share it."""

    slots: slice | Array  # (B,): the sequences' rows in the memory
    positions: Positions  # a slice if all sequences are equally long, which is cheaper to use
    n_kept: int  # positions of the longest sequence before these
    n_met: int  # and with these

    @classmethod
    def of(cls, slots: Sequence[int], lengths: Sequence[int], T: int, xp: ModuleType) -> "Span":
        """Return the next T positions of the sequences in `slots` (B,), which have `lengths` (B,)."""
        n_kept, first, B = max(lengths), slots[0], len(slots)
        are_neighbours = B == 1 or isinstance(slots, range)
        rows = slice(first, first + B) if are_neighbours else xp.asarray(slots)
        if min(lengths) == n_kept:
            return cls(rows, slice(n_kept, n_kept + T), n_kept, n_kept + T)
        positions = xp.asarray(lengths)[:, None]
        return cls(rows, positions if T == 1 else positions + xp.arange(T), n_kept, n_kept + T)

    def mask(self, like: Array) -> Array | None:
        """Return 0, or -inf where a query may not look: (B or 1, 1, T, n_met); None if each may look everywhere."""
        xp, positions, number = array_module(like), self.positions, like.dtype.type
        if isinstance(positions, slice):
            if self.n_met == self.n_kept + 1:
                return None
            positions = xp.arange(self.n_kept, self.n_met)[None]
        mask: Array = xp.where(xp.arange(self.n_met) > positions[..., None], number(-math.inf), number(0))
        return mask[:, None]


class LayerCache(NamedTuple):
    """A layer's keys and values of N sequences, and the span by which some of them grow."""

    keys: Array  # (N, H, room, D)
    values: Array  # (N, H, room, D)
    span: Span

    def keep(self, k: Array, v: Array) -> None:
        """Keep the span's keys and values, each (B, H, T, D)."""
        slots, positions = self.span.slots, self.span.positions
        for kept, new in ((self.keys, k), (self.values, v)):
            if isinstance(positions, slice):
                kept[slots, :, positions] = new
            else:
                rows = array_module(kept).arange(len(kept))[slots]
                kept[rows[:, None], :, positions] = new.swapaxes(1, 2)

    def extend(self, k: Array, v: Array) -> tuple[Array, Array, Array | None]:
        """Keep the span's keys and values, each (B, H, T, D).

        Return all that its queries meet, each (B, H, n_met, D), and the mask.
        """
        self.keep(k, v)
        slots, n = self.span.slots, self.span.n_met
        return self.keys[slots, :, :n], self.values[slots, :, :n], self.span.mask(k)
