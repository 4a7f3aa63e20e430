"""The activations' kernels against ops/gelu.py and ops/relu.py."""

import numpy as np
import pytest

from scratchgpt.backend.gpu import activation
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import ACTIVATIONS
from tests import gradcheck
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SHAPES = [
    (1, 1),
    (1, 17),
    (17, 1),
    (5, 61),
    (61, 64),
    (64, 65),
    (65, 20),
    (127, 6),
    (200, 48),
    (1, 257),
    (2, 1028),
    (1, 6400),
]


def test_every_activation_has_kernels() -> None:
    assert activation.KERNELS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("R", "K"), SHAPES)
def test_activation(R: int, K: int, name: str, dtype: str) -> None:
    seed = R % len(SEEDS)
    device, rng = Emulated(seed=seed), np.random.default_rng([R, K])
    hidden, dactive = 3 * draw(rng, (R, K), dtype), draw(rng, (R, K), dtype)
    bias = draw(rng, (K,), wide(dtype)) if K % 3 else None
    expected, saved = ACTIVATIONS[name].forward(hidden.astype(float) + (0 if bias is None else bias.astype(float)))
    dexpected = ACTIVATIONS[name].backward(dactive.astype(float), saved)

    assert_close(activation.forward(device, name, hidden, bias, K), expected, dtype)
    activation.backward(device, name, dactive, hidden, bias, K)
    assert_close(dactive, dexpected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bias_that_no_pack_begins_at(dtype: str) -> None:
    """Where C is odd, a bias may begin anywhere, for any K."""
    hidden, memory = np.ones((3, 16), dtype), np.arange(20, dtype=wide(dtype))
    device, C = Emulated(), 15
    assert_close(activation.forward(device, "relu", hidden, memory[1:17], C), hidden + memory[1:17], dtype)
    dactive = hidden.copy()
    activation.backward(device, "relu", dactive, hidden, memory[1:17], C)
    assert_close(dactive, hidden, dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(3, 5), (4, 8)])
def test_gradients(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    hidden, bias, dy = rng.normal(size=shape), rng.normal(size=shape[1]), rng.normal(size=shape)

    def function(hidden: Array, bias: Array) -> Array:
        return activation.forward(Emulated(), name, hidden, bias, shape[1])

    dhidden = dy.copy()
    activation.backward(Emulated(), name, dhidden, hidden, bias, shape[1])
    gradcheck.check(function, [hidden, bias], dy, [dhidden, dhidden.sum(axis=0)], rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_far_from_zero(name: str, dtype: str) -> None:
    """Large numbers neither overflow nor turn into nan, and nan is not hidden."""
    hidden = np.array([[-6e4, -100, -10, 0, 10, 100, 6e4, np.nan]], dtype)
    active = activation.forward(Emulated(), name, hidden, None, 8)
    assert np.array_equal(active[0], [0, 0, active[0, 2], 0, 10, 100, hidden[0, 6], np.nan], equal_nan=True)
    assert abs(active[0, 2]) <= 1e-20
    slope = np.ones_like(hidden)
    activation.backward(Emulated(), name, slope, hidden, None, 8)
    at_zero = {"gelu_new": 0.5, "relu": 0}[name]
    assert np.abs(slope[0, :7] - [0, 0, 0, at_zero, 1, 1, 1]).max() <= 1e-20
