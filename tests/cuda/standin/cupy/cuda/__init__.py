"""cupy.cuda: devices, streams, memory."""

from typing import Any

from .. import _cublas, _settings
from . import compiler, device, driver, memory, nvrtc, pinned_memory, runtime, stream
from .device import Device
from .memory import MemoryPointer, MemoryPool, set_allocator
from .pinned_memory import PinnedMemoryPointer, alloc_pinned_memory
from .runtime import is_available
from .stream import Event, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "Device",
    "Event",
    "MemoryPointer",
    "MemoryPool",
    "PinnedMemoryPointer",
    "Stream",
    "alloc_pinned_memory",
    "compiler",
    "cublas",
    "device",
    "driver",
    "get_current_stream",
    "get_elapsed_time",
    "is_available",
    "memory",
    "nvrtc",
    "pinned_memory",
    "runtime",
    "set_allocator",
    "stream",
]


def __getattr__(name: str) -> Any:
    """Load cuBLAS when it is first looked for, as CuPy does. Raises ImportError if it is not installed."""
    if name != "cublas":
        raise AttributeError(f"module 'cupy.cuda' has no attribute {name!r}")
    if not _settings.has_toolkit():
        raise ImportError('Failure finding "libcublasLt.so.12"')
    return _cublas
