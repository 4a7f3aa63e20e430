"""The kernels of the update against ops/adamw.py and ops/sublayers.py."""

import math

import numpy as np
import pytest

from scratchgpt.backend.gpu import adamw
from scratchgpt.ops import sublayers
from scratchgpt.ops.adamw import Hyperparameters, Moments
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SIZES = [1, 2, 3, 4, 7, 8, 9, 61, 64, 127, 200, 255, 1023, 1024, 2049, 4099]

DECAYED = [(1, 0), (1, 1), (3, 2), (8, 8), (17, 16), (61, 0), (64, 63), (65, 3), (200, 200), (1023, 1017), (4099, 2050)]
"""So many parameters, and of them so many matrices'."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("P", SIZES)
def test_sum_of_squares(P: int, dtype: str, seed: int) -> None:
    grads = draw(np.random.default_rng(P), (P,), dtype)
    got = adamw.sum_of_squares(Emulated(seed=seed), grads)
    assert_close(got, np.array((grads.astype(float) ** 2).sum()), dtype)


def test_a_sum_that_fills_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw, "MOST_BLOCKS", 3)
    grads = draw(np.random.default_rng(0), (9001,), "float32")
    assert_close(adamw.sum_of_squares(Emulated(), grads), np.array((grads.astype(float) ** 2).sum()), "float32")


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("at", [0, 5, 1026])
def test_a_bad_gradient_shows_in_the_sum(bad: float, at: int) -> None:
    grads = np.ones(1027, np.float32)
    grads[at] = bad
    assert not np.isfinite(adamw.sum_of_squares(Emulated(), grads))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("P", "n_decayed"), DECAYED)
def test_update(P: int, n_decayed: int, dtype: str, seed: int) -> None:
    hyperparameters, scale, update_number = Hyperparameters(3e-2, 0.9, 0.99, 0.3, 1e-3), 0.37, P % 5 + 1
    rng = np.random.default_rng([P, n_decayed])
    params, grads, first, second = (draw(rng, (P,), wide(dtype)) for _ in range(4))
    moments = Moments(first, np.abs(second))
    expected_params, expected_grads = params.astype(float), grads.astype(float) * scale
    expected_moments = Moments(*(moment.astype(float) for moment in moments))
    sublayers.update(
        expected_params,
        expected_grads,
        expected_moments,
        hyperparameters,
        n_decayed=n_decayed,
        norm=1.0,
        clip=0.0,
        update_number=update_number,
    )

    device = Emulated(seed=seed)
    rounded = device.empty((n_decayed,), dtype) if dtype == "float16" else None
    adamw.update(
        device,
        params,
        grads,
        moments,
        hyperparameters,
        n_decayed=n_decayed,
        scale=scale,
        update_number=update_number,
        rounded=rounded,
    )
    assert_close(params, expected_params, wide(dtype))
    assert_close(moments.first, expected_moments.first, wide(dtype))
    assert_close(moments.second, expected_moments.second, wide(dtype))
    assert not grads.any()
    assert rounded is None or np.array_equal(rounded, params[:n_decayed].astype(np.float16))


def test_the_square_of_a_large_gradient_does_not_overflow() -> None:
    params, grads, first, second = (np.full(5, value, np.float32) for value in (0, 1e25, 0, 0))
    adamw.update(
        Emulated(),
        params,
        grads,
        Moments(first, second),
        Hyperparameters(1e-3),
        n_decayed=0,
        scale=1e-8,
        update_number=1,
        rounded=None,
    )
    assert np.abs(params + 1e-3).max() <= 1e-8
