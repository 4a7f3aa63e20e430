"""What an array is to the ops, and which library it belongs to."""

import sys
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""A NumPy array, or a CuPy array where the device is a GPU."""


def array_module(x: Array) -> Any:
    """Return the library of `x`: the module `numpy` or `cupy`.

    An array's library is loaded, or there would be no array: so nothing is imported here.
    """
    return sys.modules[type(x).__module__.partition(".")[0]]
