"""What the GPU's sublayers need of a device."""

from types import ModuleType
from typing import Any, Protocol

import numpy.typing as npt

from scratchgpt.ops.array import Array

Size = int | tuple[int, ...]


class Device(Protocol):
    """A device that runs our kernels and multiplies matrices."""

    xp: ModuleType  # cupy, or what speaks its language
    tensor_cores: bool  # whether kernels for these (compute capability 8.0 and later) can run
    tf32: bool  # whether the inputs of float32 products are rounded to 10 bits

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return an array that holds nothing yet."""

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
        """Run kernel<dtype, n> on a grid of blocks.

        Arguments are contiguous arrays, None for a null pointer, whole numbers (`int` in C++), floats (`double`) and
        NumPy scalars (as they are).
        """

    def matmul(self, a: Array, b: Array, out: Array, *, add: bool = False, factor: float = 1.0) -> None:
        """out = factor · a b, or out += with `add`.

        a (..., M, K), b (..., K, N), out (..., M, N) with at most one axis of batches; rows or columns are contiguous.
        Half-precision a and b may have a float32 `out`. Sums are in float32 for these.
        """
