"""Activations in place, on a buffer that stays the same."""

from collections.abc import Callable

import numpy as np

from scratchgpt.ops.array import Array, array_module
from scratchgpt.ops.gelu import CUBIC, SCALE

PART_BYTES = 2**18
"""Of activations on which a CPU works several times in a row: they stay in the cache of a core."""

Take = Callable[..., Array]
"""Gives a buffer: `take(name, *shape)`."""

Activate = Callable[[], object]
"""Applies an activation to its buffer, in place."""


def gelu(hidden: Array, take: Take) -> Activate:
    """(1 + tanh u) / 2 is 1 / (1 + exp(-2u)). An infinite exponential gives the right 0."""
    xp, (R, K) = array_module(hidden), hidden.shape
    # Numbers as arrays (): NumPy takes half a microsecond to make one of a number.
    one, linear, cubic = (xp.full((), x, hidden.dtype) for x in (1.0, -2 * SCALE, -2 * SCALE * CUBIC))
    n_rows = max(1, PART_BYTES // hidden[0].nbytes) if xp is np else R
    buffer = take("scratch", min(n_rows, R), K)
    parts = [hidden[start : start + n_rows] for start in range(0, R, n_rows)]
    parts_and_scratch = [(part, buffer[: len(part)]) for part in parts]

    def activate_part(x: Array, scratch: Array) -> None:
        xp.multiply(x, x, out=scratch)
        scratch *= cubic
        scratch += linear
        scratch *= x
        xp.exp(scratch, out=scratch)
        scratch += one
        x /= scratch

    def activate() -> None:
        for part, scratch in parts_and_scratch:
            activate_part(part, scratch)

    return activate


def relu(hidden: Array, take: Take) -> Activate:  # noqa: ARG001 - it needs no buffer
    """hidden = max(hidden, 0)."""
    xp = array_module(hidden)
    return lambda: xp.maximum(hidden, 0, out=hidden)


ACTIVATIONS: dict[str, Callable[[Array, Take], Activate]] = {"gelu_new": gelu, "relu": relu}
"""By the names of the configuration: (hidden (R, K), take) -> what applies the activation to `hidden`."""
