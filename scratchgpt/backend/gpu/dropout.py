"""Dropout. Masks are drawn again wherever they are needed, the very bits of ops/dropout.py, and kept nowhere.

Kernels and their ladder: ops/dropout.cu.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.kernels import width
from scratchgpt.chance import Place
from scratchgpt.ops.array import Array
from scratchgpt.ops.dropout import LEVELS
from scratchgpt.ops.table import Step

THREADS = 128
"""Of a block."""

ELEMENTS = 4096
"""Of a sequence, for each block."""


class Mask(NamedTuple):
    """What decides about a mask, as kernels take it: `*mask` among their arguments. See `Dropout` in ops/common.cuh."""

    threshold: int  # 0: there is no dropout
    seed: np.uint64
    step: np.uint64
    sequence: np.uint64  # the batch's first one; others follow it
    layer: int
    place: int

    @classmethod
    def of(cls, step: Step, layer: int, place: Place) -> "Mask":
        """Return the mask for a place of a layer."""
        threshold = round(step.dropout * LEVELS)
        first = step.sequences[0] if threshold else 0
        if threshold and step.sequences != range(first, first + len(step.sequences)):
            raise ValueError("on a GPU, the sequences of a batch are to be numbered one after the other")
        return cls(threshold, np.uint64(step.seed), np.uint64(step.step), np.uint64(first), layer, place)


def blocks(size: int) -> int:
    """Return how many blocks work on a sequence of `size` elements."""
    return math.ceil(size / ELEMENTS)


def add(device: Device, x: Array, y: Array, bias: Array | None, mask: Mask) -> None:
    """x += (y + bias) · mask. x (B, T, C), y (B, T, C) or (B · T, C), bias (C,)."""
    B, T, C = x.shape
    grid = (blocks(T * C), B)
    device.launch("dropout_add", y.dtype, width(y.dtype, C), grid, THREADS, x, y, bias, *mask, T * C, C)


def backward(device: Device, dx: Array, mask: Mask, dtype: npt.DTypeLike) -> Array:
    """Return dy = dx · mask (B, T, C), of `dtype`: dx itself if that is the same. dx (B, T, C)."""
    if mask.threshold == 0 and dx.dtype == dtype:
        return dx
    B, T, C = dx.shape
    dy = device.empty(dx.shape, dtype)
    device.launch("dropout_backward", dtype, width(dtype, C), (blocks(T * C), B), THREADS, dx, dy, *mask, T * C)
    return dy
