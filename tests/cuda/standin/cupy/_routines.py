"""Functions of the module cupy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _settings
from ._array import Shape, ndarray, new, on_device, operand, supported
from .cuda.memory import MemoryPool, pool

__all__ = [
    "arange",
    "argsort",
    "asarray",
    "ascontiguousarray",
    "asnumpy",
    "concatenate",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "get_default_memory_pool",
    "ones",
    "split",
    "tril",
    "unique",
    "vdot",
    "where",
    "zeros",
    "zeros_like",
]


def asarray(a: Any, dtype: npt.DTypeLike | None = None, order: Any = None, *, blocking: bool = False) -> ndarray:
    """Return an array on the device: the very one if nothing is to be done, else a copy."""
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    host = np.array(a, dtype=dtype, order=order)
    supported(host.dtype)
    _settings.counters.bytes_to_device += host.nbytes
    _settings.counters.synchronisations += bool(blocking)
    return new(host)


def asnumpy(a: Any, stream: Any = None, order: Any = "C", out: Any = None, *, blocking: bool = True) -> Any:
    """Return an array on the host."""
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking=blocking)
    return np.asarray(a, order=order)


def ascontiguousarray(a: ndarray) -> ndarray:
    """Return the array, or a contiguous copy."""
    return a if a.flags.c_contiguous else a.copy()


def empty(shape: Shape, dtype: npt.DTypeLike = float) -> ndarray:
    """Return an array that holds nothing yet: NaN, so that nobody relies on it."""
    return ndarray(shape, dtype)


def full(shape: Shape, fill_value: Any, dtype: npt.DTypeLike | None = None) -> ndarray:
    """Return an array of one number."""
    array = empty(shape, np.asarray(operand(fill_value)).dtype if dtype is None else dtype)
    array.fill(fill_value)
    return array


def zeros(shape: Shape, dtype: npt.DTypeLike = float) -> ndarray:
    """Return an array of zeros."""
    return full(shape, 0, dtype)


def ones(shape: Shape, dtype: npt.DTypeLike = float) -> ndarray:
    """Return an array of ones."""
    return full(shape, 1, dtype)


def empty_like(prototype: ndarray, dtype: npt.DTypeLike | None = None) -> ndarray:
    """Return an array of the same shape that holds nothing yet."""
    return empty(prototype.shape, prototype.dtype if dtype is None else dtype)


def full_like(a: ndarray, fill_value: Any, dtype: npt.DTypeLike | None = None) -> ndarray:
    """Return an array of the same shape, of one number."""
    return full(a.shape, fill_value, a.dtype if dtype is None else dtype)


def zeros_like(a: ndarray, dtype: npt.DTypeLike | None = None) -> ndarray:
    """Return an array of the same shape, of zeros."""
    return full_like(a, 0, dtype)


def arange(start: float, stop: float | None = None, step: float = 1, dtype: npt.DTypeLike | None = None) -> ndarray:
    """Return evenly spaced numbers."""
    bounds: tuple[float, float] = (0, start) if stop is None else (start, stop)
    return new(np.arange(bounds[0], bounds[1], step, dtype=dtype))


def tril(m: ndarray, k: int = 0) -> ndarray:
    """Return a copy with zeros above a diagonal."""
    return new(np.tril(on_device(m), k))


def where(condition: ndarray, x: Any, y: Any) -> ndarray:
    """Choose from x where the condition holds, else from y."""
    return new(np.where(on_device(condition), operand(x), operand(y)))


def split(ary: ndarray, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[ndarray]:
    """Return views of parts."""
    return [ary._view(part) for part in np.split(on_device(ary), indices_or_sections, axis)]


def concatenate(tup: Sequence[ndarray], axis: int = 0) -> ndarray:
    """Join arrays."""
    return new(np.concatenate([on_device(array) for array in tup], axis))


def argsort(a: ndarray, axis: int = -1, kind: str | None = None) -> ndarray:
    """Return the order that sorts, a stable one."""
    if kind not in {None, "stable"}:
        raise ValueError("kind can only be None or 'stable'")
    return new(np.argsort(on_device(a), axis, kind="stable"))


def unique(ar: ndarray, return_index: bool = False) -> Any:
    """Return what there is, sorted, and where it is first. The host waits: it has to know how much there is."""
    _settings.counters.synchronisations += 1
    found, first = np.unique(on_device(ar), return_index=True)
    return (new(found), new(first)) if return_index else new(found)


def vdot(a: ndarray, b: ndarray) -> ndarray:
    """Return the inner product of all elements."""
    return new(np.vdot(on_device(a), on_device(b)))


def get_default_memory_pool() -> MemoryPool:
    """Return where all memory comes from."""
    return pool
