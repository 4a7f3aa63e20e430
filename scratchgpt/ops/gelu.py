"""Gaussian error linear unit in its tanh form, GPT-2's. Derivation: gelu.md."""

import math

from scratchgpt.ops.array import Array, array_module

SCALE = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def forward(x: Array) -> tuple[Array, Array]:
    """y = x/2 · (1 + tanh u)  with  u = √(2/π) · (x + 0.044715 x³).

    x (...) -> y (...), saved x. Hendrycks, Gimpel: Gaussian Error Linear Units, 2016 (arXiv 1606.08415).
    """
    xp = array_module(x)
    u = SCALE * x * (1 + CUBIC * x * x)
    y = 0.5 * x * (1 + xp.tanh(u))
    return y, x


def backward(dy: Array, saved: Array) -> Array:
    """dx = dy · ((1 + t)/2 + x/2 · (1 - t²) · u')  with  t = tanh u,  u' = √(2/π) · (1 + 3 · 0.044715 x²).

    dy (...), saved (...) -> dx (...).
    """
    x = saved
    xp = array_module(x)
    square = x * x
    t = xp.tanh(SCALE * x * (1 + CUBIC * square))
    slope = SCALE * (1 + 3 * CUBIC * square)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)
