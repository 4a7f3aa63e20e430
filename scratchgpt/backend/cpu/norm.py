"""The contract of a norm on the CPU."""

from typing import Protocol, TypeVar

from scratchgpt.backend.workspace import Take, Workspace
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted

Saved = TypeVar("Saved")


class Norm(Protocol[Saved]):
    """A norm on buffers."""

    def forward(self, x: Array, gain: Array, bias: Array | None, take: Take) -> tuple[Array, Saved]:
        """x (R, C) -> normed (R, C), a buffer."""

    def backward(
        self, dnormed: Array, saved: Saved, gain: Array, dgain: Wanted, dbias: Wanted, workspace: Workspace
    ) -> None:
        """Turn dnormed (R, C) into dx, in place; add to dgain (C,) and dbias (C,) if they are wanted."""
