"""Matrix products that add to what is there.

NumPy has no way to say C += A B without a temporary the size of C. The BLAS that it calls has one, and NumPy's wheels
bring theirs as a shared library whose functions can be called. The names of these functions are an internal of the
wheels: where they are not found (another BLAS, another platform), NumPy's own product does the work, only slower: a
step of gpt2 takes 10% longer.
"""

import ctypes
import functools
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_info

from scratchgpt.ops.array import Array

ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112
SYMBOLS = {np.dtype(np.float32): "scipy_cblas_sgemm64_", np.dtype(np.float64): "scipy_cblas_dgemm64_"}
SCALARS = {np.dtype(np.float32): ctypes.c_float, np.dtype(np.float64): ctypes.c_double}


@functools.cache
def _find(dtype: np.dtype[np.floating]) -> Callable[..., None] | None:
    """Return the product for this type from the library that NumPy has loaded, or None."""
    for pool in threadpool_info():
        if pool["user_api"] == "blas" and dtype in SYMBOLS:
            function = getattr(ctypes.CDLL(pool["filepath"]), SYMBOLS[dtype], None)
            if function is not None:
                enum, size, scalar, pointer = ctypes.c_int, ctypes.c_int64, SCALARS[dtype], ctypes.c_void_p
                function.restype = None
                function.argtypes = [
                    *(enum, enum, enum, size, size, size),
                    *(scalar, pointer, size, pointer, size, scalar, pointer, size),
                ]
                return function
    return None


def name() -> str:
    """Return what makes NumPy's matrix products."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return f"{pools[0]['internal_api']} {pools[0]['version']}" if pools else "a BLAS without a name"


def can_add_products() -> bool:
    """Tell whether the BLAS of NumPy can be called to add a product to what is there."""
    return _find(np.dtype(np.float32)) is not None


def _layout(matrix: Array) -> tuple[int, int] | None:
    """Return whether BLAS sees this matrix transposed, and its leading dimension; None if BLAS cannot take it."""
    itemsize = matrix.itemsize
    down, across = matrix.strides
    if across == itemsize and down >= itemsize * matrix.shape[1]:
        return NO_TRANSPOSE, down // itemsize
    if down == itemsize and across >= itemsize * matrix.shape[0]:
        return TRANSPOSE, across // itemsize
    return None


def add_product(a: Array, b: Array, out: Array) -> None:
    """out += a b. a (M, K), b (K, N), out (M, N), each of them perhaps a transposed view."""
    product = _find(out.dtype)
    layouts = _layout(a), _layout(b), _layout(out)
    if product is None or None in layouts or not a.dtype == b.dtype == out.dtype or not out.size or not a.size:
        out += a @ b
        return
    (a_order, a_lead), (b_order, b_lead), (out_order, out_lead) = layouts  # type: ignore[misc]
    if out_order == TRANSPOSE:  # (a b)ᵀ = bᵀ aᵀ
        add_product(b.T, a.T, out.T)
        return
    M, K = a.shape
    product(
        *(ROW_MAJOR, a_order, b_order, M, b.shape[1], K),
        *(1.0, a.ctypes.data, a_lead, b.ctypes.data, b_lead, 1.0, out.ctypes.data, out_lead),
    )
