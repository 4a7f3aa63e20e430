"""A GPU in the place of the emulator: `SCRATCHGPT_CUDA=real python -m pytest tests/cuda` runs kernels' tests on one."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu import kernels
from scratchgpt.backend.gpu.device import Size
from scratchgpt.ops.array import Array
from tests.cuda.device import Emulated


@cache
def cuda() -> Any:
    """Return the first GPU."""
    from scratchgpt.backend.gpu.cuda import Cuda  # noqa: PLC0415 - CuPy is needed for a GPU only

    return Cuda()


class Real(Emulated):
    """Takes NumPy's arrays, as tests of kernels have them: copies go to the GPU and back at each launch."""

    def __init__(self, **settings: Any) -> None:
        """Of the settings, order and checks are for nobody to choose on a GPU."""
        super().__init__(**settings)
        self.tensor_cores = self.tensor_cores and cuda().tensor_cores

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
        """Run the kernel on the GPU."""
        self.launched.append(kernels.instance(kernel, dtype, n))
        given = [_moved(value) if isinstance(value, np.ndarray) else value for value in arguments]
        cuda().launch(kernel, dtype, n, grid, block, *given, shared_bytes=shared_bytes)
        for array, copy in zip(arguments, given, strict=True):
            if isinstance(array, np.ndarray):
                array[...] = copy.get()

    def matmul(self, a: Array, b: Array, out: Array, *, add: bool = False, factor: float = 1.0) -> None:
        """Multiply by cuBLAS."""
        copy = _moved(out)
        cuda().matmul(_moved(a), _moved(b), copy, add=add, factor=factor)
        out[...] = copy.get()


def _moved(array: Array) -> Any:
    return cuda().xp.asarray(array)
