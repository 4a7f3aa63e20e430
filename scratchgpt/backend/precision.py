"""Precisions: in which types a device stores, multiplies and sums. A new one is a line here and its kernels."""

from typing import NamedTuple

import numpy as np


class Precision(NamedTuple):
    """How a device computes. Types are NumPy's names."""

    name: str
    matrices: str  # the type of matrices and activations, as they are stored
    products: str  # to what the factors of a product are rounded: a type, or tf32, float32 with 10 bits
    tolerance: float  # the largest error of a step's gradient that rounding explains, in parts of its largest number
    sums: str = "float32"  # the type of sums, of gradients, of the residual stream and of the masters
    has_loss_scale: bool = False  # whether gradients could vanish without one

    @property
    def keeps_copies(self) -> bool:
        """Whether matrices are used as rounded copies of their masters."""
        return self.matrices != self.sums

    @property
    def itemsize(self) -> int:
        """Bytes of a number of a matrix or an activation."""
        return np.dtype(self.matrices).itemsize


FP32 = Precision("fp32", "float32", "float32", tolerance=1e-4)

PRECISIONS = {
    each.name: each
    for each in (
        FP32,
        Precision("tf32", "float32", "tf32", tolerance=2e-2),
        Precision("fp16", "float16", "float16", tolerance=2e-2, has_loss_scale=True),
    )
}
