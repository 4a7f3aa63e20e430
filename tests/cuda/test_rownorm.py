"""The kernels of norms against their ops."""

import numpy as np
import pytest

from scratchgpt.backend.gpu.rownorm import RowNorm
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import NORMS
from tests import gradcheck
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

EPSILONS = {"float16": 1e-5, "float32": 1e-5, "float64": 0.03}

SHAPES = [
    (1, 1),
    (1, 17),
    (5, 61),
    (17, 64),
    (64, 65),
    (65, 33),
    (65, 128),
    (127, 200),
    (200, 36),
    (3, 1032),
    (9, 1600),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("R", "C"), SHAPES)
@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str, R: int, C: int, dtype: str, seed: int) -> None:
    has_bias, reference = bool(R % 2), NORMS[name]
    device, rng = Emulated(seed=seed), np.random.default_rng([R, C])
    x, gain, bias, dx, dgain, dbias = (
        draw(rng, shape, wide(dtype)) for shape in [(R, C), (C,), (C,), (R, C), (C,), (C,)]
    )
    dnormed = draw(rng, (R, C), dtype)
    given_bias, given_dbias = (bias, dbias) if has_bias else (None, None)
    expected, expected_saved = reference.forward(
        x.astype(float), gain.astype(float), bias.astype(float) * has_bias, EPSILONS[dtype]
    )
    increments = reference.backward(dnormed.astype(float), expected_saved, gain.astype(float))
    expected_dx, expected_dgain, expected_dbias = (
        prefill + increment for prefill, increment in zip((dx, dgain, dbias), increments, strict=True)
    )

    norm = RowNorm(name, EPSILONS[dtype])
    normed, saved = norm.forward(device, x, gain, given_bias, dtype)
    assert_close(normed, expected, dtype)
    assert np.array_equal(norm.again(device, saved, gain, given_bias), normed) or dtype == "float16"
    norm.backward(device, dnormed, saved, gain, dx, dgain, given_dbias)
    assert_close(dx, expected_dx, dtype)
    assert_close(dgain, expected_dgain, dtype)
    if has_bias:
        assert_close(dbias, expected_dbias, dtype)


@pytest.mark.parametrize(("R", "C"), [(1, 5), (5, 8), (3, 70)])
@pytest.mark.parametrize("name", NORMS)
def test_gradient(name: str, R: int, C: int) -> None:
    rng = np.random.default_rng([R, C])
    x, gain, bias, dy = (draw(rng, shape, "float64") for shape in [(R, C), (C,), (C,), (R, C)])

    norm = RowNorm(name, 1e-5)

    def function(x: Array, gain: Array, bias: Array) -> Array:
        return norm.forward(Emulated(), x, gain, bias, "float64")[0]

    _, saved = norm.forward(Emulated(), x, gain, bias, "float64")
    gradients = np.zeros_like(x), np.zeros_like(gain), np.zeros_like(bias)
    norm.backward(Emulated(), dy, saved, gain, *gradients)
    gradcheck.check(function, [x, gain, bias], dy, gradients, rng)
