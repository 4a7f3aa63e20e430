"""Layer norm on buffers: as ops/layernorm.py, with sums over rows and columns as products."""

import dataclasses
from typing import NamedTuple

import numpy as np

from scratchgpt.backend.cpu.sums import add_column_sums, ones
from scratchgpt.backend.workspace import Take, Workspace
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Wanted


class Saved(NamedTuple):
    """Values that the backward needs."""

    xhat: Array  # (R, C)
    rstd: Array  # (R,)


@dataclasses.dataclass(frozen=True)
class LayerNorm:
    """The norm of this epsilon."""

    epsilon: float

    def forward(self, x: Array, gain: Array, bias: Array | None, take: Take) -> tuple[Array, Saved]:
        """x (R, C) -> normed (R, C), a buffer that `take` gives by its name and shape."""
        R, C = x.shape
        xhat, rstd, normed = take("xhat", R, C), take("rstd", R), take("normed", R, C)
        mean = x @ ones(C, x.dtype.name)
        mean *= 1 / C
        np.subtract(x, mean[:, None], out=xhat)
        np.vecdot(xhat, xhat, out=rstd)
        rstd *= 1 / C
        rstd += self.epsilon
        np.sqrt(rstd, out=rstd)
        np.divide(1, rstd, out=rstd)
        xhat *= rstd[:, None]
        np.multiply(xhat, gain, out=normed)
        if bias is not None:
            normed += bias
        return normed, Saved(xhat, rstd)

    def backward(
        self, dnormed: Array, saved: Saved, gain: Array, dgain: Wanted, dbias: Wanted, workspace: Workspace
    ) -> None:
        """Turn dnormed (R, C) into dx, in place; add to dgain (C,) and dbias (C,)."""
        R, C = dnormed.shape
        xhat, rstd = saved
        product = workspace.take("norm product", (R, C), dnormed.dtype)
        np.multiply(dnormed, xhat, out=product)
        if dgain is not None:
            add_column_sums(product, dgain)
        if dbias is not None:
            add_column_sums(dnormed, dbias)
        share = gain / C
        along = product @ share  # mean(dx̂ · x̂)
        mean = dnormed @ share  # mean dx̂
        dnormed *= gain
        dnormed -= mean[:, None]
        np.multiply(xhat, along[:, None], out=product)
        dnormed -= product
        dnormed *= rstd[:, None]
