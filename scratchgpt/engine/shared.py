"""The arrays of a run, in memory that all workers see."""

import errno
import math
import mmap
import os
import tempfile
import weakref

import numpy as np
import numpy.typing as npt

from scratchgpt.backend import cpu
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.machine import available_memory
from scratchgpt.model.groups import slot_names
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array

ALIGNMENT = 64
"""Bytes: a cache line, into which two workers should not both write."""

PRIVATE = -1


class SharedArrays:
    """The arrays of a run, in memory without a name: it vanishes with the last process that maps it."""

    def __init__(
        self, model: ModelConfig, train: TrainConfig, n_workers: int, descriptor: int | None = PRIVATE
    ) -> None:
        """Lay out the arrays in the memory of a descriptor. Raises OSError.

        PRIVATE stands for memory that only this process sees; None for new memory with a descriptor.
        """
        layout = Layout(model)
        P, S, n_tokens = layout.size, layout.n_split, train.batch_size * model.block_size
        shapes: cpu.Shapes = {
            "params": (np.float32, (P,)),
            "grads": (np.float32, (S + n_workers * (P - S),)),  # what all share, then what each worker has to itself
            "tokens": (np.int64, (n_tokens,)),
            "targets": (np.int64, (n_tokens,)),
            "weights": (np.float32, (n_tokens,)),  # of the losses
        }
        shapes |= {f"slot {name}": (np.float32, (P,)) for name in slot_names(layout, train)}
        if n_workers > 1 and layout.n_split:
            shapes |= cpu.shapes(model.n_embd, n_workers)
        sizes = {name: math.prod(shape) * np.dtype(dtype).itemsize for name, (dtype, shape) in shapes.items()}
        padded = {name: -(-size // ALIGNMENT) * ALIGNMENT for name, size in sizes.items()}
        size = sum(padded.values())
        if descriptor in (None, PRIVATE) and size > available_memory():
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self.descriptor = _reserve(size) if descriptor is None else descriptor
        if self.descriptor != PRIVATE:  # the memory lives as long as one of its descriptors
            weakref.finalize(self, os.close, self.descriptor)
        memory = mmap.mmap(self.descriptor, size)
        self._arrays: dict[str, Array] = {}
        start = 0
        for name, (dtype, shape) in shapes.items():
            self._arrays[name] = np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
            start += padded[name]

    def __getitem__(self, name: str) -> Array:
        """Return an array by its name."""
        return self._arrays[name]

    def shared(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return the array of this name. It has been laid out before, of this shape and type. Raises ValueError."""
        array = self._arrays[name]
        if (array.shape, array.dtype) != (shape, dtype):
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {dtype} {shape}")
        return array


def _reserve(size: int) -> int:
    """Return a descriptor of `size` bytes of zeros that are reserved already. Raises OSError."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("scratchgpt")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        if hasattr(os, "posix_fallocate"):  # else the system would kill a process later where memory is short
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
