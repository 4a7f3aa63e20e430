"""Layer norm. Kernels and their ladder: ops/layernorm.cu."""

import math
from typing import NamedTuple

import numpy.typing as npt

from scratchgpt.backend.gpu import linear
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.ops.array import Array

ROWS = 4
"""Of a block."""


class Saved(NamedTuple):
    """What the backward needs."""

    xhat: Array  # (R, C): the normalised input
    rstd: Array  # (R,): the reciprocal standard deviation


def forward(device: Device, x: Array, gain: Array, bias: Array | None, dtype: npt.DTypeLike) -> tuple[Array, Saved]:
    """x (R, C), gain, bias (C,) -> normed (R, C) of `dtype`."""
    R, C = x.shape
    normed, xhat = device.empty((R, C), dtype), device.empty((R, C), dtype)
    rstd = device.empty((R,), x.dtype)
    n = width(dtype, C)
    device.launch("layernorm_forward", dtype, n, math.ceil(R / ROWS), 128, x, gain, bias, normed, xhat, rstd, R, C)
    return normed, Saved(xhat, rstd)


def again(device: Device, saved: Saved, gain: Array, bias: Array | None) -> Array:
    """Return `normed` (R, C) once more: the backward needs it, and to compute it is cheaper than to keep it."""
    R, C = saved.xhat.shape
    normed, dtype = device.empty((R, C), saved.xhat.dtype), saved.xhat.dtype
    device.launch(
        "layernorm_apply", dtype, width(dtype, C), math.ceil(R / ROWS), 128, saved.xhat, gain, bias, normed, R, C
    )
    return normed


def backward(
    device: Device, dnormed: Array, saved: Saved, gain: Array, dx: Array, dgain: Array, dbias: Array | None
) -> None:
    """Add to dx (R, C), dgain and dbias (C,). dnormed (R, C)."""
    xhat, rstd = saved
    R, C = xhat.shape
    n = width(xhat.dtype, C)
    device.launch("layernorm_backward", xhat.dtype, n, math.ceil(R / ROWS), 128, dnormed, xhat, rstd, gain, dx, R, C)
    chunks = math.ceil(R / linear.CHUNK)
    partials = device.empty((2, chunks, C), dx.dtype)
    grid = (math.ceil(C / (32 * n)), chunks)
    device.launch("layernorm_partials", xhat.dtype, n, grid, (32, 8), dnormed, xhat, partials, linear.CHUNK, R, C)
    linear.add_partials(device, partials[0], dgain, xhat.dtype)
    if dbias is not None:
        linear.add_partials(device, partials[1], dbias, xhat.dtype)
