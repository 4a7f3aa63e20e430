"""The sums of columns against NumPy's. Products are cuBLAS's."""

import numpy as np
import pytest

from scratchgpt.backend.gpu import linear
from scratchgpt.ops.array import Array
from tests import gradcheck
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SHAPES = [(1, 1), (61, 17), (65, 64), (200, 36), (512, 33), (577, 33), (1100, 40)]  # up to 18 chunks of rows


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("R", "C"), SHAPES)
def test_column_sums(R: int, C: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng([R, C])
    rows, out = draw(rng, (R, C), dtype), draw(rng, (C,), wide(dtype))
    expected = out + rows.astype(float).sum(axis=0)
    linear.add_column_sums(Emulated(seed=seed), rows, out)
    assert_close(out, expected, dtype)


def test_gradient() -> None:
    rng = np.random.default_rng(0)
    x, weight, bias, dy = (draw(rng, shape, "float64") for shape in [(7, 3), (3, 5), (5,), (7, 5)])

    def function(x: Array, weight: Array, bias: Array) -> Array:
        return linear.forward(Emulated(), x, weight) + bias

    dweight, dbias = np.zeros_like(weight), np.zeros_like(bias)
    dx = linear.backward(Emulated(), dy, x, weight, dweight, dbias)
    gradcheck.check(function, [x, weight, bias], dy, [dx, dweight, dbias], rng)
