"""Root-mean-square norm. Kernels and their ladder: ops/rmsnorm.cu; those of gain and bias are layer norm's."""

import dataclasses
import math
from typing import NamedTuple

import numpy.typing as npt

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.backend.gpu.layernorm import ROWS, add_gradients, scaled
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted


class Saved(NamedTuple):
    """What the backward needs."""

    xhat: Array  # (R, C): the normalised input
    rrms: Array  # (R,): the reciprocal root mean square


@dataclasses.dataclass(frozen=True)
class RMSNorm:
    """The norm of this epsilon."""

    epsilon: float

    def forward(
        self, device: Device, x: Array, gain: Array, bias: Array | None, dtype: npt.DTypeLike
    ) -> tuple[Array, Saved]:
        """x (R, C), gain, bias (C,) -> normed (R, C) of `dtype`."""
        R, C = x.shape
        normed, xhat = device.empty((R, C), dtype), device.empty((R, C), dtype)
        rrms = device.empty((R,), x.dtype)
        n, grid = width(dtype, C), math.ceil(R / ROWS)
        arguments = (x, gain, bias, normed, xhat, rrms, self.epsilon, R, C)
        device.launch("rmsnorm_forward", dtype, n, grid, 32 * ROWS, *arguments)
        return normed, Saved(xhat, rrms)

    def again(self, device: Device, saved: Saved, gain: Array, bias: Array | None) -> Array:
        """Return `normed` (R, C) once more: the backward needs it, and to compute it is cheaper than to keep it."""
        return scaled(device, saved.xhat, gain, bias)

    def backward(
        self, device: Device, dnormed: Array, saved: Saved, gain: Array, dx: Array, dgain: Wanted, dbias: Wanted
    ) -> None:
        """Add to dx (R, C), and to dgain and dbias (C,) if they are wanted. dnormed (R, C)."""
        xhat, rrms = saved
        R, C = xhat.shape
        dtype, n, grid = xhat.dtype, width(xhat.dtype, C), math.ceil(R / ROWS)
        device.launch("rmsnorm_backward", dtype, n, grid, 32 * ROWS, dnormed, xhat, rrms, gain, dx, R, C)
        add_gradients(device, dnormed, xhat, dgain, dbias)
