"""Rectified linear unit. Derivation: relu.md."""

from scratchgpt.ops.array import Array, array_module


def forward(x: Array) -> tuple[Array, Array]:
    """y = max(x, 0).

    x (...) -> y (...), saved: where x is positive (...).
    """
    return array_module(x).maximum(x, 0), x > 0


def backward(dy: Array, saved: Array) -> Array:
    """dx = dy where x > 0, else 0 (at the kink too, as every framework has it).

    dy (...), saved (...) -> dx (...).
    """
    return dy * saved
