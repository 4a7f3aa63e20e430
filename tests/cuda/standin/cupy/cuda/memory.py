"""cupy.cuda.memory: a pool of blocks, each aligned to 512 bytes, and poisoned before and after its use."""

import bisect
import weakref
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _settings
from . import runtime

__all__ = ["MemoryPointer", "MemoryPool", "OutOfMemoryError", "set_allocator"]

UNIT = 512
"""Bytes: what the pool gives is a multiple of it, and begins at one."""

POISON = 0xFF
"""Each byte of what holds nothing: NaN in any float type."""


class OutOfMemoryError(MemoryError):
    """The device, or the limit of its pool, is too small."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        """Say it in CuPy's words."""
        so_far = f"allocated so far: {total:,} bytes"
        most = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes ({so_far}{most}).")


class Block(NamedTuple):
    """A block in use."""

    ptr: int
    bytes: npt.NDArray[np.uint8]  # as many as were asked for
    device_id: int


class Memory:
    """Owns a block, which goes back to the pool, poisoned, when nobody refers to its Memory any more."""

    def __init__(self, size: int) -> None:
        """Take a block of `size` bytes from the pool of the current device. Raises OutOfMemoryError."""
        arena = pool._arena()
        taken = arena.take(-(-size // UNIT) * UNIT)
        self.block = Block(int(taken.ctypes.data) if size else 0, taken[:size], runtime.getDevice())
        if size:
            live[self.block.ptr] = self.block
            bisect.insort(addresses, self.block.ptr)
        weakref.finalize(self, release, arena, taken, self.block).atexit = False


def release(arena: "Arena", taken: npt.NDArray[np.uint8], block: Block) -> None:
    """Give a block back."""
    if block.ptr:
        del live[block.ptr]
        del addresses[bisect.bisect_left(addresses, block.ptr)]
    arena.give_back(taken)


live: dict[int, Block] = {}
"""By address."""
addresses: list[int] = []
"""The same, sorted."""


class MemoryPointer:
    """A place in a block."""

    def __init__(self, mem: Memory, offset: int) -> None:
        """Point at `offset` bytes behind the block's beginning."""
        self.mem, self.ptr = mem, mem.block.ptr + offset


class Arena:
    """The blocks of one device, in use and free."""

    def __init__(self) -> None:
        """Start with none."""
        self.used = self.total = self.limit = 0
        self.free: dict[int, list[npt.NDArray[np.uint8]]] = {}

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """Return a block, poisoned. Raises OutOfMemoryError."""
        most = min(self.limit or _settings.device_bytes(), _settings.device_bytes())
        if self.free.get(size):
            block = self.free[size].pop()
        else:
            if self.total + size > most:
                self.free_all()
            if self.total + size > most:
                raise OutOfMemoryError(size, self.total, self.limit)
            block = aligned(size)
            block.fill(POISON)
            self.total += size
        self.used += size
        _settings.counters.peak_bytes = max(_settings.counters.peak_bytes, pool._in_use())
        return block

    def give_back(self, block: npt.NDArray[np.uint8]) -> None:
        """Keep a block for those who come."""
        block.fill(POISON)
        self.used -= block.size
        self.free.setdefault(block.size, []).append(block)

    def free_all(self) -> None:
        """Give what is free back to the system."""
        self.free.clear()
        self.total = self.used


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """Return a block of memory as a device would give it, the root of all views of it."""
    raw = np.empty(size + UNIT, np.uint8)
    start = -raw.ctypes.data % UNIT
    return np.frombuffer(raw.data[start : start + size], np.uint8)


class MemoryPool:
    """The pools of all devices; methods are of the current one's."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._arenas: dict[int, Arena] = {}

    def _arena(self) -> Arena:
        """Return the current device's pool."""
        return self._arenas.setdefault(runtime.getDevice(), Arena())

    def _in_use(self) -> int:
        """Return the bytes in use on all devices."""
        return sum(arena.used for arena in self._arenas.values())

    def used_bytes(self) -> int:
        """Return the bytes in use, rounded up to 512 for each block."""
        return self._arena().used

    def free_bytes(self) -> int:
        """Return the bytes held but not in use."""
        return self.total_bytes() - self.used_bytes()

    def total_bytes(self) -> int:
        """Return the bytes held."""
        return self._arena().total

    def free_all_blocks(self) -> None:
        """Give what is not in use back to the device."""
        self._arena().free_all()

    def get_limit(self) -> int:
        """Return the most that may be held; 0 for all there is."""
        return self._arena().limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Set the most that may be held, in bytes or as a part of the device; 0 for all there is."""
        if (size is None) == (fraction is None):
            raise ValueError("size or fraction, not both, and not neither")
        self._arena().limit = round((fraction or 0) * _settings.device_bytes()) if size is None else size


pool = MemoryPool()


def set_allocator(allocator: None = None) -> None:
    """Take each array from the device and not from the pool. Nothing to do: the emulator knows where each ends."""
    if allocator is not None:
        raise TypeError("the stand-in has no allocators but its own")


def block_at(address: int) -> Block | None:
    """Return the block in use that an address lies in, or None."""
    place = bisect.bisect_right(addresses, address)
    block = live[addresses[place - 1]] if place else None
    return block if block is not None and address < block.ptr + block.bytes.size else None
