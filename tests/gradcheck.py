"""Is a gradient right? The definition of the derivative decides.

For a function y = f(x) with Jacobian J, a backward claims to compute Jᵀ dy for any dy. Two checks compare that
with finite differences of f alone:

- along a random direction u through all inputs at once: ⟨dy, J u⟩ = ⟨Jᵀ dy, u⟩. It costs four calls of f
  whatever the size, and a wrong entry goes unnoticed only if it is orthogonal to u, which has probability 0;
- at every coordinate by itself, where there are few enough: it leaves nothing to chance.

J u is the central difference of fourth order, (8 (f₊₁ - f₋₁) - (f₊₂ - f₋₂)) / 12h with fₖ = f(x + k h u), in float64.
Its error is h⁴ f⁽⁵⁾ / 30 from truncation and about 2⁻⁵³ |f| / h from rounding. With h = 2⁻¹⁴ that is 5e-19 f⁽⁵⁾ and
2e-12 |f|: room for functions that bend sharply (the layer norm of a constant row turns within √ε = 0.003), and still
far below both tolerances.

Every comparison is written so that NaN and infinity fail it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from scratchgpt.ops.array import Array

STEP = 2.0**-14

RELATIVE = 1e-6
"""The error allowed, as a part of the gradient's size."""

ABSOLUTE = 1e-9
"""The error allowed where the gradient vanishes, as a part of Σ |dy| (1 + |y|).

Rounding errors are proportional to the numbers that a function computes with: they are about as large as its result,
or, where it has cancelled, about 1.
"""

FEW = 200
"""So many coordinates or fewer are checked one by one."""

Function: TypeAlias = Callable[..., Any]
"""Of float64 arrays, to one float64 array or number."""


def check(
    function: Function, inputs: Sequence[Array], dy: Array, gradients: Sequence[Array], rng: np.random.Generator
) -> None:
    """Assert that `gradients` are those of ⟨dy, function(*inputs)⟩ with respect to each of the inputs."""
    assert [g.shape for g in gradients] == [x.shape for x in inputs]
    check_direction(function, inputs, dy, gradients, rng)
    if sum(x.size for x in inputs) <= FEW:
        check_coordinates(function, inputs, dy, gradients)


def check_direction(
    function: Function, inputs: Sequence[Array], dy: Array, gradients: Sequence[Array], rng: np.random.Generator
) -> None:
    """Assert ⟨dy, J u⟩ = ⟨gradients, u⟩ for one random u of length 1."""
    direction = [rng.normal(size=x.shape) for x in inputs]
    length = math.sqrt(sum(float(np.vdot(u, u)) for u in direction))
    direction = [u / length for u in direction]
    numerical = float(np.vdot(dy, _derivative(function, inputs, direction)))
    claimed = sum(float(np.vdot(g, u)) for g, u in zip(gradients, direction, strict=True))
    _assert_within(
        abs(claimed - numerical), RELATIVE * abs(numerical) + ABSOLUTE * _scale(function, inputs, dy), "along u"
    )


def check_coordinates(function: Function, inputs: Sequence[Array], dy: Array, gradients: Sequence[Array]) -> None:
    """Assert every entry of every gradient, to within a part of the largest entry of the same gradient."""
    scale = _scale(function, inputs, dy)
    for i, (x, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        numerical = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            direction = [np.zeros(other.shape) for other in inputs]
            direction[i][index] = 1
            numerical[index] = np.vdot(dy, _derivative(function, inputs, direction))
        error = float(np.abs(gradient - numerical).max())
        _assert_within(error, RELATIVE * float(np.abs(numerical).max()) + ABSOLUTE * scale, f"of input {i}")


def _derivative(function: Function, inputs: Sequence[Array], direction: Sequence[Array]) -> Array:
    """J u: how fast the function changes when its inputs move along `direction`."""

    def moved(steps: int) -> Any:
        return function(*(x + steps * STEP * u for x, u in zip(inputs, direction, strict=True)))

    slope: Array = np.asarray((8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * STEP))
    return slope


def _scale(function: Function, inputs: Sequence[Array], dy: Array) -> float:
    return float(np.sum(np.abs(dy) * (1 + np.abs(function(*inputs)))))


def _assert_within(error: float, tolerance: float, what: str) -> None:
    assert error <= tolerance < math.inf, f"the gradient {what} is off by {error:.1e}; allowed: {tolerance:.1e}"
