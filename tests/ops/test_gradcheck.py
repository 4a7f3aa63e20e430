"""The judge is judged: the gradient check accepts what is right and refuses what is not."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from scratchgpt.ops.array import Array
from tests import gradcheck

X = np.random.default_rng(0).normal(size=(3, 4))
DY = np.random.default_rng(1).normal(size=(3, 4))
RIGHT = DY * np.cos(X)

ONE_WRONG = RIGHT.copy()
ONE_WRONG[2, 1] += 1e-4

CHECKS: list[Callable[[Callable[[Array], Array], Array, Array, Array], None]] = [
    lambda f, x, dy, dx: gradcheck.check_direction(f, [x], dy, [dx], np.random.default_rng(2)),
    lambda f, x, dy, dx: gradcheck.check_coordinates(f, [x], dy, [dx]),
]


@pytest.mark.parametrize("check", CHECKS)
def test_right_is_accepted(check: Callable[..., None]) -> None:
    check(np.sin, X, DY, RIGHT)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "wrong",
    [RIGHT * (1 + 1e-5), -RIGHT, DY * np.sin(X), np.zeros((3, 4)), RIGHT * math.nan, RIGHT * math.inf, ONE_WRONG],
    ids=["slightly too large", "sign", "not the derivative", "zero", "nan", "inf", "one entry"],
)
def test_wrong_is_refused(check: Callable[..., None], wrong: Array) -> None:
    with pytest.raises(AssertionError):
        check(np.sin, X, DY, wrong)


@pytest.mark.parametrize("check", CHECKS)
def test_where_the_gradient_vanishes_only_rounding_is_accepted(check: Callable[..., None]) -> None:
    def one(x: Array) -> Array:
        return x * (1 / x)

    noise = np.random.default_rng(3).normal(size=X.shape)
    check(one, X, DY, np.zeros(X.shape))
    check(one, X, DY, 1e-10 * noise)
    with pytest.raises(AssertionError):
        check(one, X, DY, 1e-6 * noise)


@pytest.mark.parametrize("check", CHECKS)
def test_a_function_that_is_not_finite_is_refused(check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError):
        check(lambda x: x * math.nan, X, DY, RIGHT)


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(AssertionError):
        gradcheck.check(np.sin, [X], DY, [RIGHT[:1]], np.random.default_rng(2))


def test_small_problems_are_checked_at_every_coordinate() -> None:
    """An error orthogonal to the one direction that is tried, so that only the coordinates can show it."""
    u = np.random.default_rng(2).normal(size=X.shape)
    error = np.zeros(X.shape)
    error[0, :2] = u[0, 1], -u[0, 0]
    gradcheck.check_direction(np.sin, [X], DY, [RIGHT + error], np.random.default_rng(2))
    with pytest.raises(AssertionError):
        gradcheck.check(np.sin, [X], DY, [RIGHT + error], np.random.default_rng(2))
