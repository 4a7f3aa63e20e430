"""The kernels of the update against ops/adamw.py and ops/optimizer.py."""

import math

import numpy as np
import pytest

from scratchgpt.backend.gpu import adamw
from scratchgpt.ops.adamw import Settings
from scratchgpt.ops.optimizer import RULES, State, Update
from tests.cuda.checks import DTYPES, SEEDS, assert_close, draw, needs_emulator, wide
from tests.cuda.device import Emulated

pytestmark = needs_emulator

SIZES = [1, 2, 3, 4, 7, 8, 9, 61, 64, 127, 200, 255, 1023, 1024, 2049, 4099]

RANGES = [
    *((1, 0, 1), (3, 0, 2), (3, 2, 3), (8, 0, 8), (8, 3, 4), (17, 0, 16), (17, 16, 17), (61, 0, 61), (64, 0, 63)),
    *((65, 3, 65), (200, 5, 6), (200, 7, 199), (1023, 0, 1017), (1023, 1017, 1023), (4099, 2050, 4099)),
    *((4099, 1, 4097), (9, 1, 3), (9, 5, 7)),
]
"""How many parameters, and of them the range that is updated."""


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
@pytest.mark.parametrize(("P", "begin", "end"), RANGES)
def test_update(P: int, begin: int, end: int, dtype: str, seed: int) -> None:
    """Outside of the range nothing changes, in the rounded copy either. That is one number shorter where it can be."""
    settings, update = Settings(0.9, 0.99, 0.3, 1e-3), Update(3e-2, scale=0.37, number=P % 5 + 1)
    rng = np.random.default_rng([P, begin, end])
    params, grads, first, second = (draw(rng, (P,), wide(dtype)) for _ in range(4))
    slots = {"first": first, "second": np.abs(second)}
    expected = State(params.astype(float), grads.astype(float), {name: x.astype(float) for name, x in slots.items()})
    RULES["adamw"](expected, slice(begin, end), settings, update)

    device = Emulated(seed=seed)
    rounded = device.empty((P - 1,), dtype) if dtype == "float16" else None
    if rounded is not None:
        rounded[...] = params[:-1]
    state = State(params, grads, slots, rounded)
    adamw.by_adamw(state, slice(begin, end), settings, update, device=device)
    assert_close(params, expected.params, wide(dtype))
    for name, values in slots.items():
        assert_close(values, expected.slots[name], wide(dtype))
    assert np.array_equal(grads, expected.grads.astype(grads.dtype))
    assert rounded is None or np.array_equal(rounded, params[:-1].astype(np.float16))


def test_the_square_of_a_large_gradient_does_not_overflow() -> None:
    params, grads, first, second = (np.full(5, value, np.float32) for value in (0, 1e25, 0, 0))
    state = State(params, grads, {"first": first, "second": second})
    adamw.by_adamw(state, slice(0, 5), Settings(), Update(1e-3, scale=1e-8, number=1), device=Emulated())
    assert np.abs(params + 1e-3).max() <= 1e-8
