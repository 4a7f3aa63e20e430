"""A stand-in for CuPy, for tests on machines without a GPU: as strict as CuPy 14, and no larger than what is used.

Arrays lie in the host's memory, kernels run in the emulator, and products of matrices are NumPy's. `_settings` says
what tests decide and count.
"""

from numpy import bool_, float16, float32, float64, int8, int32, int64, uint8, uint16, uint32, uint64

from . import cuda
from ._array import matmul, ndarray, ufunc, ufuncs
from ._raw import RawModule
from ._routines import (
    arange,
    argsort,
    asarray,
    ascontiguousarray,
    asnumpy,
    concatenate,
    empty,
    empty_like,
    full,
    full_like,
    get_default_memory_pool,
    ones,
    split,
    tril,
    unique,
    vdot,
    where,
    zeros,
    zeros_like,
)

__version__ = "14.2.0"
globals().update(ufuncs)

__all__ = [
    "RawModule",
    "arange",
    "argsort",
    "asarray",
    "ascontiguousarray",
    "asnumpy",
    "bool_",
    "concatenate",
    "cuda",
    "empty",
    "empty_like",
    "float16",
    "float32",
    "float64",
    "full",
    "full_like",
    "get_default_memory_pool",
    "int8",
    "int32",
    "int64",
    "matmul",
    "ndarray",
    "ones",
    "split",
    "tril",
    "ufunc",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unique",
    "vdot",
    "where",
    "zeros",
    "zeros_like",
]
