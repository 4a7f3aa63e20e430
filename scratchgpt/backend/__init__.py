"""What runs the ops: `select` gives a device's array module and its table of sublayers."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np

from scratchgpt.backend import cpu
from scratchgpt.backend.team import Team
from scratchgpt.backend.workspace import Workspace
from scratchgpt.errors import UsageError
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import Table


class Backend(NamedTuple):
    """A device, ready to compute."""

    name: str
    xp: ModuleType  # numpy, or whatever speaks its language
    table: Table
    to_numpy: Callable[[Array], Array]


def select(device: str, *, block_bytes: int = cpu.BLOCK_BYTES, team: Team | None = None) -> Backend:
    """Return the backend for `auto`, `cpu` or `gpu`. Raises UsageError if it is not to be had.

    On a CPU, `block_bytes` of numbers are worked on at once, and a `team` is one of lanes that divide the vocabulary.
    """
    if device in ("auto", "cpu"):
        return Backend("cpu", np, cpu.table(Workspace(), block_bytes=block_bytes, team=team), np.asarray)
    if device == "gpu":
        raise UsageError("The GPU backend is not there yet; use --device cpu.")
    raise UsageError(f"There is no device {device!r}; choose auto, cpu or gpu.")
