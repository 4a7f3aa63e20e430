"""A hash table whose keys are looked up by the hundred thousand at once."""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.intp]

ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: its products' high bits are well mixed
ODD_TOO = np.uint64(0xC2B2AE3D27D4EB4F)


class HashTable:
    """Keys of two 64-bit words, the second never 0, each with a slot of its own; values belong in arrays beside it.

    Open addressing: a key whose slot is taken by another goes into the next that is free. At most half of the slots
    should be in use, or the way there becomes long.
    """

    def __init__(self, n_bits: int) -> None:
        """Make 2^n_bits empty slots."""
        self.size = 1 << n_bits
        self.n_keys = 0
        self._shift = np.uint64(64 - n_bits)
        self._low = np.zeros(self.size, np.uint64)
        self._high = np.zeros(self.size, np.uint64)

    def find(self, low: Words, high: Words) -> Slots:
        """Return the slot of each key (N,); of one that is not in the table, the free slot where it would go."""
        slots = (((high * ODD_TOO ^ low) * ODD) >> self._shift).astype(np.intp)
        wrong = np.flatnonzero((self._low[slots] != low) | (self._high[slots] != high))
        wrong = wrong[self._high[slots[wrong]] != 0]
        while len(wrong):
            slots[wrong] = (slots[wrong] + 1) % self.size
            at = slots[wrong]
            differs = (self._low[at] != low[wrong]) | (self._high[at] != high[wrong])
            wrong = wrong[differs & (self._high[at] != 0)]
        return slots

    def insert(self, low: Words, high: Words) -> Slots:
        """Return the slot of each key (N,), which those that are not in the table get now; equal keys get the same."""
        slots = self.find(low, high)
        new = np.flatnonzero(self._high[slots] == 0)
        while len(new):
            at = slots[new]
            # Of different keys that want the same slot, the last is written, in both words: NumPy promises that.
            self._low[at] = low[new]
            self._high[at] = high[new]
            is_in = (self._low[at] == low[new]) & (self._high[at] == high[new])
            self.n_keys += len(np.unique(at))
            new = new[~is_in]
            slots[new] = self.find(low[new], high[new])
            new = new[self._high[slots[new]] == 0]
        return slots

    def keys(self, slots: Slots) -> tuple[Words, Words]:
        """Return the keys (N,) in some slots."""
        return self._low[slots], self._high[slots]
