"""The memory of keys and values, and the sequences in it. Derivation: cache.md."""

from collections.abc import Sequence

from scratchgpt.ops.array import Array, array_module
from scratchgpt.ops.cache import Span


class Cache:
    """Slots for up to N sequences, of which the first `n_used` are in use, each of its own length."""

    def __init__(self, memory: Array) -> None:
        """Use a memory (L, 2, N, H, room, D) of zeros: what attention gives the weight 0 must be finite."""
        self.memory, self._xp = memory, array_module(memory)
        self.lengths = [0] * memory.shape[2]
        self.n_used = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return int(self.memory.nbytes)

    def span(self, slots: Sequence[int], T: int) -> Span:
        """Return the next T positions of the sequences in some slots."""
        return Span.of(slots, [self.lengths[slot] for slot in slots], T, self._xp)

    def grow(self, slots: Sequence[int], T: int) -> None:
        """Count T positions more."""
        for slot in slots:
            self.lengths[slot] += T

    def duplicate(self, source: int, targets: Sequence[int], first: int = 0) -> None:
        """Copy a sequence, or what it has from position `first` on, into other slots."""
        n = self.lengths[source]
        for layer in self.memory:  # so that a CPU reads each layer once
            part = layer[:, source, :, first:n]
            for target in targets:
                layer[:, target, :, first:n] = part
        for target in targets:
            self.lengths[target] = n

    def only(self, slots: Sequence[int]) -> None:
        """Free all slots but these, given in ascending order; their sequences move to the front."""
        for target, source in enumerate(slots):
            if target != source:
                self.duplicate(source, [target])
        self.n_used = len(slots)

    def release(self, slot: int) -> None:
        """Free a slot; the sequence in the last one moves there."""
        self.n_used -= 1
        if slot != self.n_used:
            self.duplicate(self.n_used, [slot])

    def n_bytes(self, slot: int) -> int:
        """Return the bytes of a sequence's keys and values."""
        return int(self.memory[:, :, slot, :, : self.lengths[slot]].nbytes)

    def copy_of(self, slot: int) -> Array:
        """Return a sequence's keys and values (L, 2, H, n, D), for `restore`."""
        return self.memory[:, :, slot, :, : self.lengths[slot]].copy()

    def restore(self, slot: int, kept: Array) -> None:
        """Put a sequence into a slot, bit for bit as it was."""
        n = kept.shape[3]
        self.memory[:, :, slot, :, :n] = kept
        self.lengths[slot] = n

    def clear(self, slot: int) -> None:
        """Overwrite a sequence that may have numbers that are not finite: those would spoil later sequences."""
        self.memory[:, :, slot] = 0
        self.lengths[slot] = 0
