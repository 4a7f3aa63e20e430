"""cupy.cuda.pinned_memory: memory of the host that the device reads on its own."""

import ctypes

from . import runtime

__all__ = ["PinnedMemoryPointer", "alloc_pinned_memory"]


class PinnedMemoryPointer(bytearray):
    """A block of pinned memory: a buffer for `np.frombuffer`."""

    @property
    def ptr(self) -> int:
        """Its address."""
        return ctypes.addressof((ctypes.c_char * len(self)).from_buffer(self))

    def size(self) -> int:
        """Return its bytes: a power of two, so that `np.frombuffer` needs a count."""
        return len(self)


def alloc_pinned_memory(size: int) -> PinnedMemoryPointer:
    """Return a block of at least `size` bytes."""
    runtime.getDevice()
    return PinnedMemoryPointer(1 << (max(size, 512) - 1).bit_length())
