"""The mathematics: every op as a pair (forward, backward), each beside its derivation.

One convention throughout::

    y, saved = layernorm.forward(x, gain, bias)
    dx, dgain, dbias = layernorm.backward(dy, saved, gain)

An op is pure: arrays in, arrays out, nothing changed in place (but for AdamW, whose work it is to change).
It runs unchanged on NumPy and CuPy arrays in any float dtype. ``saved`` holds exactly what the backward
needs; ``dy`` is the gradient of a scalar loss with respect to ``y``. README.md here explains the notation.

`sublayers` joins the ops into the five larger steps that the model calls and a backend may replace.
"""
