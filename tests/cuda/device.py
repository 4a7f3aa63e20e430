"""A device for tests of kernels: NumPy arrays, our launches, the emulator in checked mode."""

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu import kernels
from scratchgpt.backend.gpu.device import Size
from scratchgpt.ops.array import Array
from tests.cuda.emulator import Emulator, Output

POISON = 0xFF
"""Each byte of what holds nothing yet: NaN in any float type."""


@cache
def emulated(file: str, names: tuple[str, ...], *, checked: bool) -> Emulator:
    """Return some kernels of a file. Its text says which line of which file is which."""
    return Emulator(kernels.text(file), kernels=names, checked=checked)


class Emulated:
    """Every launch is checked: races, reads of what nobody wrote, accesses out of bounds raise EmulatorError."""

    xp: ModuleType = np
    tf32 = False

    def __init__(self, *, seed: int = 0, checked: bool = True, tensor_cores: bool = True) -> None:
        """Draw the order of threads from the seed."""
        self.seed, self.checked, self.tensor_cores = seed, checked, tensor_cores
        self.launched: list[str] = []  # the kernels, in their order

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return NaN."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(POISON)
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
        """Run the kernel in the emulator. Raises EmulatorError."""
        name = kernels.instance(kernel, dtype, n)
        file = kernels.file_of(kernel)
        names = next(names for _, _, names in kernels.instances(file) if name in names)
        self.launched.append(name)
        given = [_argument(argument) for argument in arguments]
        launched = emulated(file, tuple(names), checked=self.checked).kernel(name)
        launched(grid, block, given, shared_bytes=shared_bytes, seed=self.seed)

    def matmul(self, a: Array, b: Array, out: Array, *, add: bool = False, factor: float = 1.0) -> None:
        """Multiply, with sums in float32 at least."""
        wide = np.promote_types(a.dtype, np.float32)
        product = np.matmul(a.astype(wide), b.astype(wide)) * wide.type(factor)
        out[...] = out + product if add else product


def _argument(value: Any) -> Any:
    """Return what the emulator takes for an argument."""
    if isinstance(value, bool | int):
        return np.int32(value)
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, np.ndarray) and (value.reshape(-1).view(np.uint8) == POISON).all():
        return Output(value)
    return value
