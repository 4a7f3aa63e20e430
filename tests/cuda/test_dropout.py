"""The dropout kernels against ops/dropout.py: the masks are the same to the last bit."""

import numpy as np
import pytest

from scratchgpt.backend.gpu import dropout
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.chance import Place
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import dropout_mask
from scratchgpt.ops.table import Step
from tests import gradcheck
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SHAPES = [
    *((1, 1, 1), (2, 1, 17), (3, 17, 8), (1, 61, 65), (2, 64, 16), (1, 65, 48), (3, 127, 9)),
    *((2, 200, 24), (1, 1, 1600), (2, 3, 1601)),
]


LAYER = 3


def step(B: int, rate: float) -> Step:
    """Return one whose numbers all need their upper bits."""
    first = 2**40 + 5
    return Step(dropout=rate, seed=2**63 + 7, step=2**33 + 1, sequences=range(first, first + B))


def masks(at: Step, like: Array) -> Array:
    """Return what the reference multiplies by."""
    mask = dropout_mask(at, Place.MLP_OUTPUT, LAYER, like.shape[1:], like)
    return np.ones_like(like) if mask is None else mask


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "T", "C"), SHAPES)
def test_dropout(B: int, T: int, C: int, dtype: str) -> None:
    device, rng = Emulated(seed=T % len(SEEDS)), np.random.default_rng([B, T, C])
    x, y, dx = draw(rng, (B, T, C), wide(dtype)), draw(rng, (B, T, C), dtype), draw(rng, (B, T, C), wide(dtype))
    bias = draw(rng, (C,), wide(dtype)) if C % 2 else None
    at = step(B, [0.1, 0.5, 0.99, 0][(T + C) % 4])
    mask, expected_mask = Mask.of(at, LAYER, Place.MLP_OUTPUT), masks(at, x.astype(float))
    expected = x + (y.astype(float) + (0 if bias is None else bias)) * expected_mask

    dropout.add(device, x, y.reshape(B * T, C), bias, mask)
    assert_close(x, expected, dtype)
    assert_close(dropout.backward(device, dx, mask, dtype), dx.astype(float) * expected_mask, dtype)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [17, 24])
def test_masks_are_the_references_bits(C: int, dtype: str, seed: int) -> None:
    """Tiles, rows and packs begin in different places: an element of the wrong block would be seen."""
    ones, at = np.ones((3, 127, C), wide(dtype)), step(3, 0.3)
    drawn = dropout.backward(Emulated(seed=seed), ones, Mask.of(at, LAYER, Place.MLP_OUTPUT), wide(dtype))
    assert np.array_equal(drawn, masks(at, ones))
    added, zeros = np.zeros_like(ones), np.zeros(ones.shape, dtype)
    dropout.add(Emulated(seed=seed), added, zeros, np.ones(C, wide(dtype)), Mask.of(at, LAYER, Place.MLP_OUTPUT))
    assert np.array_equal(added, masks(at, ones))


def test_nothing_is_done_without_dropout() -> None:
    device, dx = Emulated(), np.ones((2, 3, 4), np.float32)
    mask = Mask.of(step(2, 0), LAYER, Place.MLP_OUTPUT)
    assert dropout.backward(device, dx, mask, np.float32) is dx
    assert device.launched == []
    assert dropout.backward(device, dx, mask, np.float16).dtype == np.float16


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 5, 8)])
def test_gradients(shape: tuple[int, int, int]) -> None:
    rng, mask = np.random.default_rng(shape), Mask.of(step(2, 0.2), LAYER, Place.MLP_OUTPUT)
    x, y, bias, dx = (rng.normal(size=size) for size in (shape, shape, shape[2:], shape))

    def function(x: Array, y: Array, bias: Array) -> Array:
        x = x.copy()
        dropout.add(Emulated(), x, y, bias, mask)
        return x

    dy = dropout.backward(Emulated(), dx, mask, dx.dtype)
    gradcheck.check(function, [x, y, bias], dx, [dx, dy, dy.sum(axis=(0, 1))], rng)
