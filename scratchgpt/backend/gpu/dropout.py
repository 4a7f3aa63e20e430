"""Dropout. Masks are drawn again wherever they are needed, the very bits of ops/dropout.py, and kept nowhere."""

from typing import NamedTuple

import numpy as np

from scratchgpt.chance import Place
from scratchgpt.ops.dropout import LEVELS
from scratchgpt.ops.sublayers import Context


class Mask(NamedTuple):
    """What decides about a mask, as kernels take it: `*mask` among their arguments. See `Dropout` in ops/common.cuh."""

    threshold: int  # 0: there is no dropout
    seed: np.uint64
    step: np.uint64
    sequence: np.uint64  # the batch's first one; others follow it
    layer: int
    place: int

    @classmethod
    def of(cls, context: Context, place: Place) -> "Mask":
        """Return the mask for a place of the context's layer."""
        first = context.sequences[0] if len(context.sequences) else 0
        threshold = round(context.dropout * LEVELS)
        return cls(threshold, np.uint64(context.seed), np.uint64(context.step), np.uint64(first), context.layer, place)
