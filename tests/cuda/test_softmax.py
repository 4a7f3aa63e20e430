"""The causal softmax kernels against ops/softmax.py and ops/dropout.py."""

import math

import numpy as np
import pytest

from scratchgpt.backend.gpu import softmax
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.chance import Place
from scratchgpt.ops import softmax as reference
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import dropout_mask
from scratchgpt.ops.table import Step
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SHAPES = [(1, 1, 1), (2, 3, 7), (1, 3, 17), (2, 1, 31), (1, 2, 32), (1, 1, 61), (1, 2, 64), (1, 1, 65), (1, 1, 127)]

LARGE = [(1, 1, 200), (1, 1, 257), (1, 1, 264)]


def step(B: int, dropout: float) -> Step:
    return Step(dropout=dropout, seed=2**63 + 1, step=7, sequences=range(5, 5 + B))


def causal(T: int) -> Array:
    return np.tri(T, dtype=bool)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout", [0, 0.3])
@pytest.mark.parametrize(("B", "H", "T"), SHAPES)
def test_softmax(B: int, H: int, T: int, dropout: float, dtype: str, seed: int) -> None:
    compare(B, H, T, dropout, dtype, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("B", "H", "T"), LARGE)
def test_softmax_of_long_rows(B: int, H: int, T: int, dtype: str) -> None:
    compare(B, H, T, 0.1, dtype, seed=T % 2)


def compare(B: int, H: int, T: int, dropout: float, dtype: str, seed: int) -> None:
    device, rng = Emulated(seed=seed), np.random.default_rng([B, H, T])
    given = step(B, dropout)
    mask = Mask.of(given, 3, Place.ATTENTION)
    factors = dropout_mask(given, Place.ATTENTION, 3, (H, T, T), np.zeros(0))
    if factors is None:
        factors = np.ones(())
    scores, dweights = draw(rng, (B, H, T, T), dtype) * 3, draw(rng, (B, H, T, T), dtype)
    expected, _ = reference.forward(np.where(causal(T), scores.astype(float), -math.inf))
    expected_gradient = reference.backward(dweights.astype(float) * factors, expected)
    for array in scores, dweights:
        array[..., ~causal(T)] = np.nan  # what is behind the diagonal must not matter

    weights = softmax.forward(device, scores, mask)
    probabilities = scores
    assert (weights is probabilities) == (dropout == 0)
    assert_close(probabilities, expected, dtype)
    assert_close(weights, expected * factors, dtype)
    assert np.array_equal(softmax.dropped(device, probabilities, mask), weights)
    softmax.backward(device, dweights, probabilities, mask)
    assert_close(dweights, expected_gradient, dtype)
    for array in probabilities, weights, dweights:
        assert not array[..., ~causal(T)].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [(-1e4, 0, 1e4), (-1e4, -9992), (-math.inf, 1)])
def test_large_scores(levels: tuple[float, ...], dtype: str) -> None:
    scores = np.random.default_rng(0).choice(levels, size=(1, 1, 65, 65)).astype(dtype)
    scores[..., 0] = levels[-1]  # in each row, at least one is finite
    expected, _ = reference.forward(np.where(causal(65), scores.astype(float), -math.inf))
    softmax.forward(Emulated(), scores, Mask.of(step(1, 0), 0, Place.ATTENTION))
    assert_close(scores, expected, dtype)


@pytest.mark.parametrize("room", [62 + 65, 62 + 5 * 65])
def test_rows_whose_random_bytes_barely_fit(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "SHARED_BYTES", room)
    compare(2, 1, 65, 0.3, "float32", seed=0)
