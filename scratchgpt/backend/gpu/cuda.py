"""A GPU, through CuPy, which is imported here and nowhere else: memory, our kernels, cuBLAS's products."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu import kernels
from scratchgpt.backend.gpu.device import Size
from scratchgpt.backend.precision import FP32, Precision
from scratchgpt.errors import NoGPUError, UsageError
from scratchgpt.ops.array import Array

CPU = "Choose the device cpu."
OLDEST = 70
"""Compute capability that our kernels are written for, 7.0: Volta, 2017."""
TENSOR_CORES = 80
"""Compute capability from which on their instructions are those that our kernels use, 8.0: Ampere, 2020."""

# Of cuBLAS: types of numbers and of sums (library_types.h, cublas_api.h).
DATA_TYPES = {np.dtype(np.float64): 1, np.dtype(np.float32): 0, np.dtype(np.float16): 2}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
DEFAULT_ALGORITHM = -1


def require(number: int = 0) -> None:
    """Raise UsageError if there is no such GPU, or something is missing to use it: it says what, and what to do.

    It is a NoGPUError if there is none at all.
    """
    runtime = cupy.cuda.runtime
    driver, built_for = runtime.driverGetVersion() // 1000, runtime.runtimeGetVersion() // 1000
    if not driver:
        advice = "Install one, or use --device cpu."
        raise NoGPUError("There is no NVIDIA driver on this machine.", advice=advice, page=CPU)
    if driver < built_for:
        raise UsageError(
            f"The NVIDIA driver is made for CUDA {driver}, CuPy for CUDA {built_for}.",
            advice=f"Update the driver, install cupy-cuda{driver}x in place of CuPy if there is one, or use "
            "--device cpu.",
            page=CPU,
        )
    try:
        n_devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise NoGPUError(f"The NVIDIA driver finds no GPU ({error}).", advice="Use --device cpu.", page=CPU) from error
    if number >= n_devices:
        there = ", ".join(f"gpu:{n}" for n in range(n_devices)) or "none"
        fact = f"There is no GPU number {number} (there are: {there})."
        raise UsageError(fact, advice="Choose another, or --device cpu.", page=CPU)
    if (capability := int(cupy.cuda.Device(number).compute_capability)) < OLDEST:
        raise UsageError(
            f"GPU {number} is of compute capability {capability / 10}, and {OLDEST / 10} is needed.",
            advice="Use --device cpu.",
            page=CPU,
        )
    try:
        cupy.cuda.nvrtc.getVersion()
        cupy.cuda.cublas.gemmStridedBatchedEx  # noqa: B018 - the library is loaded by looking for what is in it
    except (ImportError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"CUDA's compiler or cuBLAS is missing ({reason}).",
            advice=f"Install them: pip install 'cupy-cuda{built_for}x[ctk]', or use --device cpu.",
            page=CPU,
        ) from error


def _require_headers() -> None:
    """Raise UsageError if CUDA's headers are missing, which CuPy notices when it compiles a kernel, here its own."""
    try:
        cupy.zeros(1) + 1
    except RuntimeError as error:
        if "CUDA headers" not in str(error):
            raise
        raise UsageError(
            "CUDA's headers are missing, and CuPy compiles no kernel without them.",
            advice="Install them: pip install 'scratchgpt[gpu]', or use --device cpu.",
            page=CPU,
        ) from error


def free_memory(number: int) -> int:
    """Return the bytes that are free on a GPU, those included that CuPy's pool holds and does not use."""
    with cupy.cuda.Device(number):
        free: int = cupy.cuda.Device(number).mem_info[0] + cupy.get_default_memory_pool().free_bytes()
    return free


def pool_bytes() -> int:
    """Return the bytes that CuPy's pool holds, used or not."""
    held: int = cupy.get_default_memory_pool().total_bytes()
    return held


class Cuda:
    """One GPU."""

    xp: ModuleType = cupy

    def __init__(self, number: int = 0, precision: Precision = FP32) -> None:
        """Use GPU `number`; the precision says how float32 products are computed. Raises UsageError."""
        require(number)
        self._device = cupy.cuda.Device(number)
        self.use()
        _require_headers()
        self.tensor_cores = int(self._device.compute_capability) >= TENSOR_CORES
        self.tf32 = precision.products == "tf32"
        self._compute_32f = COMPUTE_32F_FAST_TF32 if self.tf32 else COMPUTE_32F
        self._functions: dict[tuple[str, np.dtype[Any], int], Callable[..., None]] = {}
        self._constants: dict[tuple[float, np.dtype[Any]], tuple[int, Array]] = {}

    def use(self) -> None:
        """Make this the current device of the calling thread."""
        self._device.use()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return an array from CuPy's pool, which asks the driver for memory only when it has none left."""
        array: Array = cupy.empty(shape, dtype)
        return array

    def launch(
        self,
        kernel: str,
        dtype: npt.DTypeLike,
        n: int,
        grid: Size,
        block: Size,
        *arguments: Any,
        shared_bytes: int = 0,
    ) -> None:
        """Start a kernel; it is compiled the first time that it is used, and kept on disk by CuPy."""
        dtype = np.dtype(dtype)
        function = self._functions.get((kernel, dtype, n)) or self._compile(kernel, dtype, n)
        function(_size(grid), _size(block), tuple(map(_argument, arguments)), shared_mem=shared_bytes)

    def _compile(self, kernel: str, dtype: np.dtype[Any], n: int) -> Callable[..., None]:
        """Compile all kernels of the same file for a type and a number; return the one."""
        file = kernels.file_of(kernel)
        names = {name: kernels.instance(name, dtype, n) for name in kernels.sources()[file].kernels}
        module = cupy.RawModule(
            code=kernels.text(file), options=kernels.OPTIONS, name_expressions=tuple(names.values())
        )
        for name, instance in names.items():
            self._functions[name, dtype, n] = module.get_function(instance)
        return self._functions[kernel, dtype, n]

    def matmul(self, a: Array, b: Array, out: Array, *, add: bool = False, factor: float = 1.0) -> None:
        """out = factor · a b, or out += with `add`.

        cuBLAS has the columns of a matrix side by side, we the rows: what it takes for a matrix is the transpose of
        ours. So it is asked for outᵀ = bᵀ aᵀ.
        """
        wide = out.dtype if out.dtype == np.float64 else np.dtype(np.float32)
        compute = COMPUTE_64F if wide == np.float64 else self._compute_32f
        transpose_a, distance_a, next_a = _layout(a)
        transpose_b, distance_b, next_b = _layout(b)
        _, distance_out, next_out = _layout(out)
        cupy.cuda.cublas.gemmStridedBatchedEx(
            cupy.cuda.device.get_cublas_handle(),
            transpose_b,
            transpose_a,
            *(b.shape[-1], a.shape[-2], a.shape[-1]),
            self._constant(factor, wide),
            *(_address(b), DATA_TYPES[b.dtype], distance_b, next_b),
            *(_address(a), DATA_TYPES[a.dtype], distance_a, next_a),
            self._constant(float(add), wide),
            *(_address(out), DATA_TYPES[out.dtype], distance_out, next_out),
            out.shape[0] if out.ndim == 3 else 1,
            compute,
            DEFAULT_ALGORITHM,
        )

    def _constant(self, value: float, dtype: np.dtype[Any]) -> int:
        """Return the address of a number in the host's memory."""
        if (value, dtype) not in self._constants:
            array = np.array(value, dtype)
            self._constants[value, dtype] = array.ctypes.data, array
        address, _ = self._constants[value, dtype]
        return address


def _size(size: Size) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else (size,)


def _argument(value: Any) -> Any:
    """Return what CuPy passes on as the type that our kernels declare."""
    if isinstance(value, int):
        return np.int32(value)
    if isinstance(value, float):
        return np.float64(value)
    return np.uint64(0) if value is None else value


def _address(x: Any) -> int:
    pointer: int = x.data.ptr
    return pointer


def _layout(x: Array) -> tuple[int, int, int]:
    """Return whether a matrix (..., M, N) has its columns contiguous, and how far apart rows (or columns) are.

    The last is how far apart matrices are, all in numbers. Raises ValueError if neither rows nor columns are so.
    """
    M, N = x.shape[-2:]
    row_step, column_step = (stride // x.itemsize for stride in x.strides[-2:])
    next_matrix = x.strides[0] // x.itemsize if x.ndim == 3 else 0
    if N == 1 or column_step == 1:
        return 0, max(row_step, N), next_matrix
    if M > 1 and row_step != 1:
        raise ValueError(f"a matrix of strides {x.strides} has neither rows nor columns side by side")
    return 1, max(column_step, M), next_matrix
