"""Dropout whose masks are a function of where they are used, not of a generator's history.

Derivation, and the generator in full: dropout.md.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scratchgpt.chance import Place, philox
from scratchgpt.ops.array import Array

LEVELS = 256
"""A random byte decides about each element, so a rate is rounded to a multiple of 1 / LEVELS."""


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
    The bytes come from `scratchgpt.chance.philox`.
    """
    threshold = round(rate * LEVELS)
    size = int(np.prod(shape))
    drawn = np.empty((len(sequences), size), np.uint8)
    for row, sequence in zip(drawn, sequences, strict=True):
        bits = philox(place, seed=seed, step=step, sequence=sequence, layer=layer)
        row[:] = bits.random_raw(-(-size // 8)).astype("<u8").view(np.uint8)[:size]
    kept = (drawn >= threshold).astype(dtype) * (LEVELS / (LEVELS - threshold))
    return kept.reshape(len(sequences), *shape)


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
