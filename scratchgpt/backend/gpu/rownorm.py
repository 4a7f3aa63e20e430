"""Norms of rows, each by kernels of its own. Kernels and their ladders: ops/layernorm.cu, ops/rmsnorm.cu."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu import linear
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted

ROWS = 4
"""Of a block."""


class Saved(NamedTuple):
    """Values that the backward needs."""

    xhat: Array  # (R, C): the normalised input
    scale: Array  # (R,): by which a row was multiplied, such as the reciprocal standard deviation


@dataclasses.dataclass(frozen=True)
class RowNorm:
    """The norm of these kernels, with this epsilon."""

    name: str  # of the kernels, such as layernorm
    epsilon: float

    def forward(
        self, device: Device, x: Array, gain: Array, bias: Array | None, dtype: npt.DTypeLike
    ) -> tuple[Array, Saved]:
        """x (R, C), gain, bias (C,) -> normed (R, C) of `dtype`."""
        R, C = x.shape
        normed, xhat = device.empty((R, C), dtype), device.empty((R, C), dtype)
        scale = device.empty((R,), x.dtype)
        n, grid = width(dtype, C), math.ceil(R / ROWS)
        arguments = (x, gain, bias, normed, xhat, scale, self.epsilon, R, C)
        device.launch(f"{self.name}_forward", dtype, n, grid, 32 * ROWS, *arguments)
        return normed, Saved(xhat, scale)

    def again(self, device: Device, saved: Saved, gain: Array, bias: Array | None) -> Array:
        """Return `normed` (R, C) once more: the backward needs it, and to compute it is cheaper than to keep it."""
        return scaled(device, saved.xhat, gain, bias)

    def backward(
        self, device: Device, dnormed: Array, saved: Saved, gain: Array, dx: Array, dgain: Wanted, dbias: Wanted
    ) -> None:
        """Add to dx (R, C), and to dgain and dbias (C,) if they are wanted. dnormed (R, C)."""
        xhat, scale = saved
        R, C = xhat.shape
        dtype, n, grid = xhat.dtype, width(xhat.dtype, C), math.ceil(R / ROWS)
        device.launch(f"{self.name}_backward", dtype, n, grid, 32 * ROWS, dnormed, xhat, scale, gain, dx, R, C)
        add_gradients(device, dnormed, xhat, dgain, dbias)


def scaled(device: Device, xhat: Array, gain: Array, bias: Array | None) -> Array:
    """Return x̂ · gain + bias, of x̂'s type. xhat (R, C), gain, bias (C,)."""
    R, C = xhat.shape
    normed, dtype = device.empty((R, C), xhat.dtype), xhat.dtype
    n, grid = width(dtype, C), math.ceil(R / ROWS)
    device.launch("layernorm_apply", dtype, n, grid, 32 * ROWS, xhat, gain, bias, normed, R, C)
    return normed


def add_gradients(device: Device, dnormed: Array, xhat: Array, dgain: Wanted, dbias: Wanted) -> None:
    """Add to dgain and dbias (C,) if they are wanted. dnormed, xhat (R, C)."""
    if dgain is None and dbias is None:
        return
    R, C = xhat.shape
    dtype, n, chunks = xhat.dtype, width(xhat.dtype, C), math.ceil(R / linear.CHUNK)
    partials = device.empty((2, chunks, C), np.promote_types(dtype, np.float32))
    grid = (math.ceil(C / (32 * n)), chunks)
    device.launch("layernorm_partials", dtype, n, grid, (32, 8), dnormed, xhat, partials, linear.CHUNK, R, C)
    if dgain is not None:
        linear.add_partials(device, partials[0], dgain, dtype)
    if dbias is not None:
        linear.add_partials(device, partials[1], dbias, dtype)
