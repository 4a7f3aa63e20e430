"""What tests of kernels have in common."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scratchgpt.ops.array import Array
from tests.cuda.emulator import missing

IS_REAL = os.environ.get("SCRATCHGPT_CUDA") == "real"
"""Whether the tests of kernels are to run on a GPU, through CuPy, instead of the emulator."""

needs_emulator = pytest.mark.skipif(not IS_REAL and missing() is not None, reason=str(missing()))
"""Or the GPU in its place, for tests of kernels."""

DTYPES = ("float64", "float32", "float16")
SEEDS = (0, 1)
"""Of the order of threads."""

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "float16": 5e-3}
"""Of the largest error, in parts of the largest number expected."""


errors: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
"""What was found by `assert_close`, in parts of the largest number expected, by file of tests and type."""


def wide(dtype: str) -> str:
    """Return the type that sums are kept in."""
    return "float64" if dtype == "float64" else "float32"


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Draw normal numbers, rounded to the type."""
    drawn: Array = rng.normal(size=shape).astype(dtype)
    return drawn


def assert_close(got: Array, expected: npt.NDArray[Any], dtype: str, largest: float | None = None) -> None:
    """Assert that a kernel of this type has computed what the float64 reference has.

    The error is in parts of the `largest` number expected, unless told otherwise.
    """
    assert got.shape == expected.shape
    error = np.abs(got.astype(np.float64) - expected).max()
    largest = np.abs(expected).max() if largest is None else largest
    assert error <= TOLERANCES[dtype] * largest, f"{error:.2g}"
    file = Path(os.environ["PYTEST_CURRENT_TEST"].partition("::")[0]).stem.removeprefix("test_")
    errors[file, dtype].append(error / largest if largest else 0.0)
