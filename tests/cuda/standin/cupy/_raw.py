"""cupy.RawModule: kernels, run by the emulator. Counts, types and sizes are checked, as CuPy does not."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.cuda.emulator import Emulator, Output
from tests.cuda.emulator.build import MAX_SHARED

from . import _settings
from ._array import ndarray, on_device
from .cuda import runtime
from .cuda.compiler import CompileException
from .cuda.driver import CUDADriverError
from .cuda.memory import POISON

__all__ = ["RawKernel", "RawModule"]

MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
PLAIN_SHARED = 48 * 1024
"""Bytes of shared memory that a launch may ask for unless the kernel says that it needs more."""


class RawModule:
    """A source. It is compiled when a kernel is first asked for."""

    def __init__(
        self,
        *,
        code: str,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        name_expressions: Sequence[str] | None = None,
    ) -> None:
        """Take a source, compiler options, and the C++ names of template instances."""
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        if backend != "nvrtc":
            raise ValueError("only nvrtc supports retrieving the mangled names for the given name expressions")
        self.code, self.options, self.backend = code, options, backend
        self.name_expressions = None if name_expressions is None else tuple(name_expressions)
        self._compiled: dict[bool, Emulator] = {}

    def compile(self) -> None:
        """Compile now. Raises CompileException."""
        runtime.getDevice()
        _settings.require_headers()
        checked = _settings.checked()
        if checked not in self._compiled:
            try:
                self._compiled[checked] = Emulator(self.code, kernels=self.name_expressions or (), checked=checked)
            except RuntimeError as error:
                raise CompileException(str(error), self.code, "kernels.cu", self.options, self.backend) from error

    def get_function(self, name: str) -> "RawKernel":
        """Return a kernel by its name. Raises CompileException, CUDADriverError if there is none of this name."""
        self.compile()
        try:
            return RawKernel(name, self._compiled[_settings.checked()].kernel(name))
        except ValueError as error:
            raise CUDADriverError(500) from error


class RawKernel:
    """A kernel that can be launched."""

    def __init__(self, name: str, emulated: Any) -> None:
        """Take the emulator's kernel."""
        self.name, self._emulated = name, emulated
        self._most_shared = PLAIN_SHARED

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """The most shared memory that a launch may ask for."""
        return self._most_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > MAX_SHARED:
            raise CUDADriverError(1)
        self._most_shared = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0
    ) -> None:
        """Launch the kernel. Raises TypeError for arguments that are not of the parameters' types."""
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError(f"grid and block are tuples, not {type(grid).__name__} and {type(block).__name__}")
        if not all(isinstance(size, int) and size > 0 for size in (*grid, *block)):
            raise ValueError(f"grid {grid} and block {block} are to be whole numbers above 0")
        too_large = any(size > most for size, most in zip(grid, MAX_GRID, strict=False))
        if too_large or math.prod(block) > MAX_THREADS or shared_mem > self._most_shared:
            raise CUDADriverError(1)
        parameters = self._emulated.parameters
        if len(args) != len(parameters):
            raise TypeError(f"{self.name} takes {len(parameters)} arguments, not {len(args)}")
        given = [_given(value, *parameter) for value, parameter in zip(args, parameters, strict=True)]
        _settings.counters.launches += 1
        self._emulated(grid, block, given, shared_bytes=shared_mem, seed=_settings.seed())


def _given(value: Any, name: str, kind: str) -> Any:
    """Return what the emulator is to be given for an argument, as CuPy understands it."""
    if isinstance(value, ndarray):
        array = on_device(value)
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not contiguous, and a kernel would not know")
        is_new = array.dtype.kind == "f" and array.size and (array.reshape(-1).view(np.uint8) == POISON).all()
        return Output(array) if is_new and kind.startswith("*") else array
    if type(value) in {bool, int, float}:
        value = {bool: np.bool_, int: np.int64, float: np.float64}[type(value)](value)
    if not isinstance(value, np.generic):
        raise TypeError(f"Unsupported type {type(value)} for {name}")
    if kind.startswith("*") and isinstance(value, np.int64 | np.uint64) and value == 0:
        return None  # a null pointer
    return value
