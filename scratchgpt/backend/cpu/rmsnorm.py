"""Root-mean-square norm on buffers: as ops/rmsnorm.py, with sums over rows and columns as products."""

import dataclasses
from typing import NamedTuple

import numpy as np

from scratchgpt.backend.cpu.sums import add_column_sums
from scratchgpt.backend.workspace import Take, Workspace
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted


class Saved(NamedTuple):
    """Values that the backward needs."""

    xhat: Array  # (R, C)
    rrms: Array  # (R,)


@dataclasses.dataclass(frozen=True)
class RMSNorm:
    """The norm of this epsilon."""

    epsilon: float

    def forward(self, x: Array, gain: Array, bias: Array | None, take: Take) -> tuple[Array, Saved]:
        """x (R, C) -> normed (R, C), a buffer that `take` gives by its name and shape."""
        R, C = x.shape
        xhat, rrms, normed = take("xhat", R, C), take("rrms", R), take("normed", R, C)
        np.vecdot(x, x, out=rrms)
        rrms *= 1 / C
        rrms += self.epsilon
        np.sqrt(rrms, out=rrms)
        np.divide(1, rrms, out=rrms)
        np.multiply(x, rrms[:, None], out=xhat)
        np.multiply(xhat, gain, out=normed)
        if bias is not None:
            normed += bias
        return normed, Saved(xhat, rrms)

    def backward(
        self, dnormed: Array, saved: Saved, gain: Array, dgain: Wanted, dbias: Wanted, workspace: Workspace
    ) -> None:
        """Turn dnormed (R, C) into dx, in place; add to dgain (C,) and dbias (C,)."""
        R, C = dnormed.shape
        xhat, rrms = saved
        product = workspace.take("norm product", (R, C), dnormed.dtype)
        np.multiply(dnormed, xhat, out=product)
        if dgain is not None:
            add_column_sums(product, dgain)
        if dbias is not None:
            add_column_sums(dnormed, dbias)
        along = product @ (gain / C)  # mean(dx̂ · x̂)
        dnormed *= gain
        np.multiply(xhat, along[:, None], out=product)
        dnormed -= product
        dnormed *= rrms[:, None]
