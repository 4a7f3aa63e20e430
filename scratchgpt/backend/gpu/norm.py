"""The contract of a norm on the GPU."""

from typing import Protocol, TypeVar

import numpy.typing as npt

from scratchgpt.backend.gpu.device import Device
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted

Saved = TypeVar("Saved")


class Norm(Protocol[Saved]):
    """A norm by launches of kernels."""

    def forward(
        self, device: Device, x: Array, gain: Array, bias: Array | None, dtype: npt.DTypeLike
    ) -> tuple[Array, Saved]:
        """x (R, C), gain, bias (C,) -> normed (R, C) of `dtype`."""

    def again(self, device: Device, saved: Saved, gain: Array, bias: Array | None) -> Array:
        """Return `normed` (R, C) once more."""

    def backward(
        self, device: Device, dnormed: Array, saved: Saved, gain: Array, dx: Array, dgain: Wanted, dbias: Wanted
    ) -> None:
        """Add to dx (R, C), and to dgain and dbias (C,) if they are wanted. dnormed (R, C)."""
