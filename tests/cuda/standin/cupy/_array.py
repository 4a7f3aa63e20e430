"""cupy.ndarray: NumPy's mathematics in memory that NumPy cannot get at."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _settings
from .cuda import runtime
from .cuda.device import Device
from .cuda.memory import Memory, MemoryPointer

__all__ = ["ndarray", "ufunc"]

SUPPORTED = "?bhilqBHILQefd"
SCALARS = (bool, int, float, np.generic)
Shape = int | tuple[int, ...]


class Flags(NamedTuple):
    """How an array lies in memory."""

    c_contiguous: bool
    f_contiguous: bool


class ndarray:
    """An array on a device. It holds NaN, or -1, until something is written to it."""

    __module__ = "cupy"
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment] # what is compared element by element has no hash

    def __init__(self, shape: Shape, dtype: npt.DTypeLike = float, memptr: MemoryPointer | None = None) -> None:
        """Take memory for an array, or use the memory from `memptr` on. Raises OutOfMemoryError."""
        kind = supported(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        memptr = memptr or MemoryPointer(Memory(size), 0)
        start = memptr.ptr - memptr.mem.block.ptr
        if start + size > memptr.mem.block.bytes.size:
            raise ValueError(f"the array of {size} bytes does not fit where it is to be")
        self._place(np.ndarray(shape, kind, memptr.mem.block.bytes.data, start), memptr.mem)

    def _place(self, host: npt.NDArray[Any], memory: Memory) -> None:
        self._host, self._memory = host, memory

    # ------------------------------------------------------------------------------------ what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        return self._host.shape

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next."""
        return self._host.strides

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements."""
        return self._host.dtype

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return self._host.ndim

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self._host.size

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self._host.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._host.nbytes

    @property
    def flags(self) -> Flags:
        """How it lies in memory."""
        return Flags(self._host.flags.c_contiguous, self._host.flags.f_contiguous)

    @property
    def data(self) -> MemoryPointer:
        """Where it lies."""
        offset = self._host.ctypes.data - self._memory.block.ptr if self.size else 0
        return MemoryPointer(self._memory, offset)

    @property
    def device(self) -> Device:
        """The device it lies on."""
        return Device(self._memory.block.device_id)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator["ndarray"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self.get())

    # ------------------------------------------------------------------------------------ to and from the host

    def get(
        self,
        stream: Any = None,
        order: str = "C",
        out: npt.NDArray[Any] | None = None,
        *,
        blocking: bool = True,
    ) -> npt.NDArray[Any]:
        """Return a copy on the host."""
        del stream
        _settings.counters.synchronisations += bool(blocking)
        _settings.counters.bytes_to_host += self.nbytes
        if out is None:
            return on_device(self).copy(order)  # type: ignore[arg-type]
        if out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        out[...] = on_device(self)
        return out

    def set(self, arr: npt.NDArray[Any], stream: Any = None) -> None:
        """Overwrite it by an array of the host, of the same shape and type."""
        del stream
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        on_device(self)[...] = arr
        _settings.counters.bytes_to_device += arr.nbytes

    def item(self) -> Any:
        """Return its one element as a number of Python."""
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                "The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()"
            )
        return bool(self.item())

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """Refuse."""
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Do what NumPy was asked for: no NumPy array takes part."""
        own = ufuncs.get(function.__name__)
        if method != "__call__" or own is None:
            return NotImplemented
        if "out" in options:
            (options["out"],) = options["out"]
        return own(*inputs, **options)

    # ------------------------------------------------------------------------------------ views and copies

    def __getitem__(self, index: Any) -> "ndarray":
        places = _index(index)
        if any(isinstance(place, np.ndarray) and place.dtype == bool for place in places):
            _settings.counters.synchronisations += 1  # how many there are, the host has to know
        return self._view(on_device(self)[places])

    def __setitem__(self, index: Any, value: Any) -> None:
        places = _index(index)
        if isinstance(value, np.ndarray | list | tuple):  # the type and the words are CuPy's
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        host = on_device(self)
        if any(isinstance(place, np.ndarray) and place.dtype != bool for place in places):
            written = np.arange(host.size).reshape(host.shape)[places]
            if np.unique(written).size < written.size:
                raise ValueError("some elements would be set twice, in an order that nobody knows")
        host[places] = operand(value)

    def _view(self, host: Any) -> "ndarray":
        """Return a view if `host` is in this array's memory, else a new array."""
        host = np.asarray(host)
        if not host.size or not np.may_share_memory(host, self._memory.block.bytes):
            return new(host)
        view = ndarray.__new__(ndarray)
        view._place(host, self._memory)
        return view

    def view(self, dtype: npt.DTypeLike) -> "ndarray":
        """Return the same bytes as elements of another type."""
        return self._view(self._host.view(supported(dtype)))

    def reshape(self, *shape: Any) -> "ndarray":
        """Return a view of another shape, or a copy if there can be none."""
        return self._view(on_device(self).reshape(*shape))

    def ravel(self) -> "ndarray":
        """Return a view along one axis, or a copy if there can be none."""
        return self.reshape(-1)

    def swapaxes(self, axis1: int, axis2: int) -> "ndarray":
        """Return a view with two axes exchanged."""
        return self._view(self._host.swapaxes(axis1, axis2))

    def transpose(self, *axes: Any) -> "ndarray":
        """Return a view with its axes in another order."""
        return self._view(self._host.transpose(*axes))

    @property
    def T(self) -> "ndarray":
        """A view with its axes the other way round."""
        return self.transpose()

    def copy(self, order: Any = "C") -> "ndarray":
        """Return a copy."""
        return new(on_device(self).copy(order))

    def astype(self, dtype: npt.DTypeLike, *, copy: bool = True) -> "ndarray":
        """Return it as another type: a copy, unless told that none is needed."""
        if not copy and self.dtype == np.dtype(dtype):
            return self
        with np.errstate(all="ignore"):
            return new(on_device(self).astype(supported(dtype)))

    def fill(self, value: Any) -> None:
        """Set all elements to a number."""
        self[...] = value

    # ------------------------------------------------------------------------------------ reductions

    def _reduced(self, name: str, **options: Any) -> "ndarray":
        with np.errstate(all="ignore"):
            return new(getattr(on_device(self), name)(**options))

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> "ndarray":
        """Return the sum along axes."""
        return self._reduced("sum", axis=axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> "ndarray":
        """Return the mean along axes."""
        return self._reduced("mean", axis=axis, dtype=dtype, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> "ndarray":
        """Return the largest along axes."""
        return self._reduced("max", axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> "ndarray":
        """Return the smallest along axes."""
        return self._reduced("min", axis=axis, keepdims=keepdims)

    def argmax(self, axis: Any = None, keepdims: bool = False) -> "ndarray":
        """Return where the largest are along an axis."""
        return self._reduced("argmax", axis=axis, keepdims=keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> "ndarray":
        """Return whether all along axes are true."""
        return self._reduced("all", axis=axis, keepdims=keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> "ndarray":
        """Return whether any along axes is true."""
        return self._reduced("any", axis=axis, keepdims=keepdims)

    # ------------------------------------------------------------------------------------ operators

    def __neg__(self) -> "ndarray":
        return ufuncs["negative"](self)

    def __abs__(self) -> "ndarray":
        return ufuncs["absolute"](self)

    def __invert__(self) -> "ndarray":
        return ufuncs["invert"](self)

    def __matmul__(self, other: Any) -> "ndarray":
        return matmul(self, other)


class ufunc:
    """A function of elements."""

    def __init__(self, name: str) -> None:
        """Take NumPy's function of this name."""
        self.__name__ = name
        self._function: Any = getattr(np, name)

    def __call__(self, *args: Any, out: ndarray | None = None, dtype: Any = None) -> ndarray:
        """Apply it. Raises TypeError for arrays of NumPy."""
        given = [operand(arg) for arg in args]
        _settings.require_headers()
        with np.errstate(all="ignore"):
            if out is None:
                return new(self._function(*given, dtype=dtype))
            self._function(*given, dtype=dtype, out=operand(out))
        return out

    def reduceat(self, array: ndarray, indices: ndarray, axis: int = 0, dtype: Any = None) -> ndarray:
        """Reduce segments of an axis, which begin at these places."""
        return new(self._function.reduceat(operand(array), operand(indices), axis=axis, dtype=dtype))


UNARY = "exp log sqrt tanh negative absolute invert isfinite isnan square"
BINARY = {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "true_divide": "truediv",
    "floor_divide": "floordiv",
    "power": "pow",
    "bitwise_and": "and",
    "bitwise_or": "or",
}
COMPARISONS = {
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
}
ufuncs = {name: ufunc(name) for name in [*UNARY.split(), *BINARY, *COMPARISONS, "maximum", "minimum", "logical_and"]}
ufuncs["divide"] = ufuncs["true_divide"]


def _operator(function: ufunc) -> Callable[[ndarray, Any], ndarray]:
    def method(x: ndarray, y: Any) -> ndarray:  # unlike `function` itself, this binds to an array
        return function(x, y)

    return method


def _swapped(function: ufunc) -> Callable[[ndarray, Any], ndarray]:
    return lambda x, y: function(y, x)


def _in_place(function: ufunc) -> Callable[[ndarray, Any], ndarray]:
    return lambda x, y: function(x, y, out=x)


for name, method in (BINARY | COMPARISONS).items():
    setattr(ndarray, f"__{method}__", _operator(ufuncs[name]))
for name, method in BINARY.items():
    setattr(ndarray, f"__r{method}__", _swapped(ufuncs[name]))
    setattr(ndarray, f"__i{method}__", _in_place(ufuncs[name]))


def matmul(a: ndarray, b: ndarray, /, out: ndarray | None = None) -> ndarray:
    """Multiply matrices; halves are summed as float32."""
    left, right = on_device(a), on_device(b)
    dtype = np.promote_types(left.dtype, right.dtype)
    if dtype == np.float16:
        left, right = left.astype(np.float32), right.astype(np.float32)
    with np.errstate(all="ignore"):
        product = np.matmul(left, right).astype(dtype)
    if out is None:
        return new(product)
    if out.dtype != dtype or out.shape != product.shape:
        raise ValueError(f"the product is of {dtype} and {product.shape}, not of {out.dtype} and {out.shape}")
    on_device(out)[...] = product
    return out


def supported(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return an element type. Raises ValueError if no device has it."""
    kind = np.dtype(dtype)
    if kind.char not in SUPPORTED or not kind.isnative:
        raise ValueError(f"Unsupported dtype {kind}")
    return kind


def new(host: Any) -> ndarray:
    """Return an array on the device of what was computed."""
    host = np.asarray(host)
    array = ndarray(host.shape, host.dtype)
    if host.flags.f_contiguous and not host.flags.c_contiguous:
        array = array.reshape(host.shape[::-1]).T
    array._host[...] = host
    return array


def on_device(array: ndarray) -> npt.NDArray[Any]:
    """Return the array's memory. Raises TypeError if it has none, ValueError if that is not the current device's."""
    if not isinstance(array, ndarray):
        raise TypeError(f"{type(array)} is no cupy.ndarray")
    if array._memory.block.device_id != runtime.getDevice():
        raise ValueError(
            f"Array device must be same as the current device: array device = {array._memory.block.device_id} "
            f"while current = {runtime.getDevice()}"
        )
    return array._host


def operand(value: Any) -> Any:
    """Return what a function works on. Raises TypeError unless it is of the device, or a number."""
    if isinstance(value, ndarray):
        return on_device(value)
    if isinstance(value, SCALARS):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _index(index: Any) -> tuple[Any, ...]:
    """Return an index for NumPy. Raises IndexError for what may be an index in NumPy but costs a transfer here."""
    places = index if isinstance(index, tuple) else (index,)
    for place in places:
        whole = isinstance(place, int | np.integer) and not isinstance(place, bool)
        if not (whole or place is None or place is ... or isinstance(place, slice | ndarray)):
            raise IndexError(f"{type(place).__name__} cannot be an index")
    return tuple(on_device(place) if isinstance(place, ndarray) else place for place in places)
