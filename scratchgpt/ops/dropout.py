"""Dropout whose masks are a function of where they are used, not of a generator's history.

Derivation, and the generator in full: dropout.md.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from scratchgpt.ops.array import Array

LEVELS = 256
"""A random byte decides about each element, so a rate is rounded to a multiple of 1 / LEVELS."""


class Place(IntEnum):
    """Where in a layer a mask is used. The numbers are part of every run's arithmetic: never renumber."""

    EMBEDDING = 0
    ATTENTION = 1
    ATTENTION_OUTPUT = 2
    MLP_OUTPUT = 3


def mask(
    rate: float,
    *,
    seed: int,
    step: int,
    sequences: Sequence[int],
    layer: int,
    place: Place,
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
) -> Array:
    """Draw the mask of each sequence: 0 with probability ~`rate`, else the exact 1 / P(kept).

    `sequences` are B global sequence numbers, `shape` is one sequence's -> NumPy array (B, *shape).
    Generator: Philox 4x64-10 (Salmon et al.: Parallel Random Numbers: As Easy as 1, 2, 3, 2011) with
    key (seed, step) and counter (block, sequence, layer, place).
    """
    threshold = round(rate * LEVELS)
    size = int(np.prod(shape))
    drawn = np.empty((len(sequences), size), np.uint8)
    for row, sequence in zip(drawn, sequences, strict=True):
        bits = np.random.Philox(
            key=np.array([seed, step], np.uint64),
            counter=np.array([0, sequence, layer, place], np.uint64),
        )
        row[:] = bits.random_raw(-(-size // 8)).astype("<u8").view(np.uint8)[:size]
    scale = np.dtype(dtype).type(LEVELS / (LEVELS - threshold))
    return ((drawn >= threshold) * scale).reshape(len(sequences), *shape)


def forward(x: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """y = x · mask, or x itself without a mask.

    x (...), mask (...) -> y (...), saved mask. Srivastava et al.: Dropout, JMLR 15, 2014 ("inverted": the
    kept are scaled here, so that nothing is to be done when the model is used).
    """
    return (x if mask is None else x * mask), mask


def backward(dy: Array, saved: Array | None) -> Array:
    """dx = dy · mask, or dy itself without a mask.

    dy (...), saved (...) or None -> dx (...).
    """
    return dy if saved is None else dy * saved
