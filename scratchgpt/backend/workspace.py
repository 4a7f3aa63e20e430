"""Memory that is taken once and used at every step.

A step of plain NumPy allocates tens of megabytes, gives them back and has the system clear them again for the next.
The fast sublayers draw their buffers from here instead: the same name, the same memory. Without that, a step of
gpt-nano takes 9% longer.
"""

import math
from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt

from scratchgpt.ops.array import Array

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector registers."""


Take = Callable[..., Array]
"""Gives a buffer by its name and shape: `take("normed", R, C)`."""


class Workspace:
    """Buffers by name. The content of a buffer is undefined when it is taken."""

    def __init__(self, *, poison: bool = False) -> None:
        """Start empty. With `poison`, floats are filled with NaN when they are taken, so that tests see omissions."""
        self._buffers: dict[Hashable, Array] = {}
        self._poison = poison

    def take(self, name: Hashable, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return the buffer of this name, aligned and contiguous; it grows when more is asked for than ever before."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            itemsize = np.dtype(dtype).itemsize
            raw = np.empty(size + ALIGNMENT // itemsize, dtype)
            offset = -raw.ctypes.data % ALIGNMENT // itemsize
            buffer = self._buffers[name] = raw[offset : offset + size]
        view = buffer[:size].reshape(shape)
        if self._poison and np.issubdtype(dtype, np.floating):
            view.fill(np.nan)
        return view

    def taker(self, *owner: Hashable, dtype: npt.DTypeLike) -> Take:
        """Return a function that takes buffers of one owner and type."""
        return lambda name, *shape: self.take((*owner, name), shape, dtype)
