"""The lanes that compute one step together, as one of them sees it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy.typing as npt

from scratchgpt.ops.array import Array


class Team(NamedTuple):
    """What lanes need to meet in the middle of a sublayer. All of them must do so equally often, in the same order."""

    rank: int  # this lane's number
    size: int  # how many there are
    barrier: Callable[[], None]  # returns when all lanes have called it
    shared: Callable[[str, tuple[int, ...], npt.DTypeLike], Array]  # the array of that name that all lanes see
