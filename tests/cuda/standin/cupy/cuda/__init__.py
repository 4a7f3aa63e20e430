"""cupy.cuda: devices, streams, memory."""

from .. import _cublas as cublas
from . import compiler, device, driver, memory, pinned_memory, runtime, stream
from .device import Device
from .memory import MemoryPointer, MemoryPool
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
    "pinned_memory",
    "runtime",
    "stream",
]
