"""The cross-entropy kernel against ops/cross_entropy.py."""

import numpy as np
import numpy.typing as npt
import pytest

from scratchgpt.backend.gpu import cross_entropy
from scratchgpt.ops import cross_entropy as reference
from scratchgpt.ops.array import Array
from tests import gradcheck
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SHAPES = [(1, 1), (17, 2), (3, 7), (5, 8), (61, 9), (64, 65), (65, 64), (4, 127), (7, 200), (3, 2048), (2, 3001)]

SCALE = 0.3


def padded(logits: Array) -> Array:
    """Return the logits in rows of a multiple of 8, filled up with what must not matter."""
    V = logits.shape[1]
    return np.pad(logits, ((0, 0), (0, -V % 8)), constant_values=np.nan)


def compare(logits: Array, targets: npt.NDArray[np.int64], dtype: str, seed: int) -> None:
    V = logits.shape[1]
    expected, saved = reference.forward(logits.astype(float), targets)
    expected_gradient = reference.backward(np.full(len(targets), SCALE), saved)
    rows = padded(logits)
    losses = cross_entropy.forward_backward(Emulated(seed=seed), rows, V, targets, SCALE)
    assert losses.dtype == wide(dtype)
    assert_close(losses, expected, wide(dtype), largest=max(1, np.abs(expected).max()))
    assert_close(rows[:, :V], expected_gradient, dtype, largest=SCALE)
    assert not rows[:, V:].any()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "V"), SHAPES)
def test_cross_entropy(n: int, V: int, dtype: str, seed: int) -> None:
    rng = np.random.default_rng([n, V])
    compare(draw(rng, (n, V), dtype) * 3, rng.integers(V, size=n), dtype, seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_vocabulary_of_gpt2(dtype: str) -> None:
    rng = np.random.default_rng(0)
    compare(draw(rng, (2, 50257), dtype), np.array([50256, 0]), dtype, seed=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [(-1e4, 0, 1e4), (-1e4, -9992)])
@pytest.mark.parametrize("V", [2, 65, 300])
def test_large_logits(V: int, levels: tuple[float, ...], dtype: str) -> None:
    rng = np.random.default_rng(V)
    logits = rng.choice(levels, size=(9, V)).astype(dtype)
    compare(logits, rng.integers(V, size=9), dtype, seed=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_have_weights_or_do_not_count(dtype: str) -> None:
    rng = np.random.default_rng(2)
    logits, targets, weights = draw(rng, (7, 65), dtype) * 3, rng.integers(65, size=7), draw(rng, (7,), wide(dtype))
    targets[[0, 4]] = -1
    for given in (None, weights):
        factors = (targets >= 0) * (np.ones(7) if given is None else given.astype(float))
        expected, saved = reference.forward(logits.astype(float), np.maximum(targets, 0))
        rows = padded(logits)
        losses = cross_entropy.forward_backward(Emulated(), rows, 65, targets, SCALE, given)
        assert_close(losses, factors * expected, wide(dtype), largest=np.abs(expected).max())
        assert_close(rows[:, :65], reference.backward(SCALE * factors, saved), dtype, largest=SCALE)
        assert not rows[targets < 0].any()


def test_a_bad_logit_shows_in_the_loss() -> None:
    logits = np.zeros((2, 72), np.float32)
    logits[0, 3], logits[1, 70] = np.nan, np.inf  # the second lies behind the vocabulary
    losses = cross_entropy.forward_backward(Emulated(), logits, 65, np.zeros(2, np.int64), 1.0)
    assert np.isnan(losses[0])
    assert np.isfinite(losses[1])


def test_gradient() -> None:
    rng = np.random.default_rng(5)
    logits, targets = draw(rng, (6, 13), "float64"), rng.integers(13, size=6)

    def loss(logits: Array) -> Array:
        return cross_entropy.forward_backward(Emulated(), padded(logits), 13, targets, 1.0)

    rows = padded(logits)
    cross_entropy.forward_backward(Emulated(), rows, 13, targets, SCALE)
    gradcheck.check(loss, [logits], np.full(6, SCALE), [rows[:, :13]], rng)
