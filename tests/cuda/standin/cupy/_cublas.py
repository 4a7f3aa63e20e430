"""cupy.cuda.cublas: products of matrices at raw addresses, which must lie in memory that is in use."""

import ctypes
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _settings
from .cuda import device, memory, runtime

__all__ = [
    "CUBLAS_COMPUTE_32F",
    "CUBLAS_COMPUTE_32F_FAST_TF32",
    "CUBLAS_COMPUTE_64F",
    "CUBLAS_GEMM_DEFAULT",
    "CUBLAS_GEMM_DEFAULT_TENSOR_OP",
    "CUBLAS_OP_N",
    "CUBLAS_OP_T",
    "CUBLASError",
    "gemmEx",
    "gemmStridedBatchedEx",
    "setStream",
]

CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_32F_FAST_TF32 = 68, 70, 77
CUBLAS_GEMM_DEFAULT, CUBLAS_GEMM_DEFAULT_TENSOR_OP = -1, 99

TYPES = {runtime.CUDA_R_16F: np.float16, runtime.CUDA_R_32F: np.float32, runtime.CUDA_R_64F: np.float64}

COMBINATIONS = {
    (CUBLAS_COMPUTE_32F, "float16", "float16"),
    (CUBLAS_COMPUTE_32F, "float16", "float32"),
    (CUBLAS_COMPUTE_32F, "float32", "float32"),
    (CUBLAS_COMPUTE_32F_FAST_TF32, "float32", "float32"),
    (CUBLAS_COMPUTE_64F, "float64", "float64"),
}
"""What cuBLAS computes with: the type of the sums, of both factors, and of the result."""

STATUS = {1: "CUBLAS_STATUS_NOT_INITIALIZED", 7: "CUBLAS_STATUS_INVALID_VALUE", 15: "CUBLAS_STATUS_NOT_SUPPORTED"}


class CUBLASError(RuntimeError):
    """A call that cuBLAS refuses."""

    def __init__(self, status: int) -> None:
        """Take the message from the status."""
        super().__init__(STATUS[status])
        self.status = status


class Stack(NamedTuple):
    """Matrices of one size in memory."""

    address: int
    kind: int
    ld: int
    stride: int

    def view(self, name: str, batch: int, rows: int, columns: int) -> npt.NDArray[Any]:
        """Return them (batch, rows, columns). Raises ValueError unless all of them lie in memory that is in use."""
        if self.ld < max(1, rows):
            raise CUBLASError(7)
        dtype = np.dtype(TYPES[self.kind])
        block = memory.block_at(self.address)
        if block is None or block.device_id != runtime.getDevice():
            raise ValueError(f"{name} is at {self.address:#x}, which is no memory in use of this device")
        if self.address % dtype.itemsize:
            raise ValueError(f"{name} is not aligned to its type")
        start = self.address - block.ptr
        stop = start + ((batch - 1) * self.stride + (columns - 1) * self.ld + rows) * dtype.itemsize
        if self.stride < 0 or stop > block.bytes.size:
            raise ValueError(f"{name} ends {stop - block.bytes.size} bytes behind the array that it begins in")
        strides = [size * dtype.itemsize for size in (self.stride, 1, self.ld)]
        return np.ndarray((batch, rows, columns), dtype, block.bytes.data, start, strides)


def gemmStridedBatchedEx(
    handle: int,
    transa: int,
    transb: int,
    m: int,
    n: int,
    k: int,
    alpha: int,
    A: int,
    Atype: int,
    lda: int,
    strideA: int,
    B: int,
    Btype: int,
    ldb: int,
    strideB: int,
    beta: int,
    C: int,
    Ctype: int,
    ldc: int,
    strideC: int,
    batchCount: int,
    computeType: int,
    algo: int,
) -> None:
    """C = alpha op(A) op(B) + beta C for each of a batch; op(A) (m, k), op(B) (k, n), C (m, n), column by column.

    A, B and C are addresses on the device, alpha and beta on the host, of the type that sums are kept in. Raises
    CUBLASError as cuBLAS does, and ValueError for what cuBLAS would not notice.
    """
    if handle != device.get_cublas_handle():
        raise CUBLASError(1)
    kinds = {Atype, Btype, Ctype}
    if min(m, n, k, batchCount) < 0 or {transa, transb} - {CUBLAS_OP_N, CUBLAS_OP_T} or not kinds <= TYPES.keys():
        raise CUBLASError(7)
    combination = (computeType, np.dtype(TYPES[Atype]).name, np.dtype(TYPES[Ctype]).name)
    if Atype != Btype or combination not in COMBINATIONS or algo not in {-1, 99}:
        raise CUBLASError(15)
    _settings.counters.products += 1
    if 0 in {m, n, batchCount}:
        return

    wide: Any = np.float64 if computeType == CUBLAS_COMPUTE_64F else np.float32
    scale, keep = (_from_host(address, wide) for address in (alpha, beta))
    c = Stack(C, Ctype, ldc, strideC).view("C", batchCount, m, n)
    _check_written_once(c)
    product = np.zeros((batchCount, m, n), wide)
    if k:
        a = Stack(A, Atype, lda, strideA).view("A", batchCount, *((k, m) if transa else (m, k)))
        b = Stack(B, Btype, ldb, strideB).view("B", batchCount, *((n, k) if transb else (k, n)))
        if np.shares_memory(c, a) or np.shares_memory(c, b):
            raise ValueError("cuBLAS would write to what it reads")
        left, right = (
            _rounded(x.swapaxes(1, 2) if swapped else x, computeType).astype(wide)
            for x, swapped in ((a, transa), (b, transb))
        )
        with np.errstate(all="ignore"):
            product = left @ right * wide(scale)
    with np.errstate(all="ignore"):
        c[...] = product + wide(keep) * c.astype(wide) if keep else product  # with beta = 0, C is not read


def gemmEx(
    handle: int,
    transa: int,
    transb: int,
    m: int,
    n: int,
    k: int,
    alpha: int,
    A: int,
    Atype: int,
    lda: int,
    B: int,
    Btype: int,
    ldb: int,
    beta: int,
    C: int,
    Ctype: int,
    ldc: int,
    computeType: int,
    algo: int,
) -> None:
    """C = alpha op(A) op(B) + beta C, as `gemmStridedBatchedEx` for one matrix."""
    factors = A, Atype, lda, 0, B, Btype, ldb, 0
    gemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, *factors, beta, C, Ctype, ldc, 0, 1, computeType, algo)


def setStream(handle: int, stream: int) -> None:
    """Nothing to do: all happens at once, and CuPy sets the current stream before each product anyway."""
    del stream
    if handle != device.get_cublas_handle():
        raise CUBLASError(1)


def _from_host(address: int, wide: Any) -> float:
    """Return the number of type `wide` at an address of the host. Raises ValueError if it is not the host's."""
    if not address or memory.block_at(address) is not None:
        raise ValueError("alpha and beta are read from the host's memory; this address is not of the host")
    number: float = (ctypes.c_double if wide is np.float64 else ctypes.c_float).from_address(address).value
    return number


def _check_written_once(c: npt.NDArray[Any]) -> None:
    """Raise ValueError if elements of C lie on top of each other."""
    reach = 0
    for stride, size in sorted(zip(c.strides, c.shape, strict=True)):
        if size > 1 and stride <= reach:
            raise ValueError("elements of C lie on top of each other")
        reach += stride * (size - 1)


def _rounded(x: npt.NDArray[Any], compute: int) -> npt.NDArray[Any]:
    """Round float32 to the 10 bits of mantissa that TF32 keeps, if it is to."""
    if compute != CUBLAS_COMPUTE_32F_FAST_TF32:
        return x
    bits = np.ascontiguousarray(x).view(np.uint32)
    special = (bits & 0x7F800000) == 0x7F800000
    nearest = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return np.where(special, bits, nearest).view(np.float32)
