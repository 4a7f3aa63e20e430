"""x += dropout(out(activation(fc(norm(x))))), and back, on buffers and in blocks that stay in the cache.

The forward keeps the activation's derivative, so that the backward only multiplies.
"""

from typing import NamedTuple

import numpy as np

from scratchgpt.backend.cpu import norm
from scratchgpt.backend.cpu.attention import add_output, output_gradient
from scratchgpt.backend.cpu.blas import add_product
from scratchgpt.backend.cpu.dropout import Masks
from scratchgpt.backend.workspace import Workspace
from scratchgpt.chance import Place
from scratchgpt.ops.array import Array
from scratchgpt.ops.gelu import CUBIC, SCALE
from scratchgpt.ops.sublayers import Context, MLPParams


class Saved(NamedTuple):
    """What the backward needs; N = B * T."""

    xhat: Array  # (N, C)
    rstd: Array  # (N,)
    normed: Array  # (N, C)
    active: Array  # (N, 4C)
    slope: Array  # (N, 4C): the activation's derivative
    mask: Array | None


def _gelu(x: Array, slope: Array, workspace: Workspace) -> None:
    """Turn x (n,) into gelu(x), in place, and fill slope (n,) with its derivative.

    With p = (1 + tanh u)/2, y = x p: the derivative p + x · 2 p (1 - p) · u' is p + 2 y (1 - p) u'.
    """
    square, p = (workspace.take(name, x.shape, x.dtype) for name in ("gelu square", "gelu p"))
    np.multiply(x, x, out=square)
    np.multiply(square, SCALE * CUBIC, out=p)
    p += SCALE
    p *= x
    np.tanh(p, out=p)
    p += 1
    p *= 0.5
    x *= p  # y
    square *= 6 * SCALE * CUBIC
    square += 2 * SCALE  # 2 u'
    square *= x
    np.subtract(1, p, out=slope)
    slope *= square
    slope += p


def _relu(x: Array, slope: Array, workspace: Workspace) -> None:  # noqa: ARG001 - it needs no buffers
    """Turn x (n,) into max(x, 0), in place, and fill slope (n,) with its derivative."""
    np.greater(x, 0, out=slope)
    np.maximum(x, 0, out=x)


ACTIVATIONS = {"gelu_new": _gelu, "relu": _relu}


def forward(
    x: Array, params: MLPParams, context: Context, *, workspace: Workspace, block_bytes: int, masks: Masks
) -> Saved:
    """Update x (B, T, C) in place."""
    B, T, C = x.shape
    layer, dtype = context.layer, x.dtype

    def take(name: str, *shape: int) -> Array:
        return workspace.take((name, layer), shape, dtype)

    xhat, rstd, normed = take("mlp xhat", B * T, C), take("mlp rstd", B * T), take("mlp normed", B * T, C)
    norm.forward(x.reshape(-1, C), params.gain, params.bias, xhat, rstd, normed)
    active, slope = take("active", B * T, 4 * C), take("slope", B * T, 4 * C)
    np.matmul(normed, params.fc_weight, out=active)
    if params.fc_bias is not None:
        active += params.fc_bias
    activate = ACTIVATIONS[context.activation]
    flat, flat_slope = active.reshape(-1), slope.reshape(-1)
    block = block_bytes // flat.itemsize
    for start in range(0, flat.size, block):
        activate(flat[start : start + block], flat_slope[start : start + block], workspace)
    mask = masks.mask(context, Place.MLP_OUTPUT, (T, C), x)
    add_output(x, active, params.out_weight, params.out_bias, mask, workspace)
    return Saved(xhat, rstd, normed, active, slope, mask)


def backward(
    dx: Array, saved: Saved, params: MLPParams, grads: MLPParams, context: Context, *, workspace: Workspace
) -> None:  # context is part of every backward's signature
    """Add to `grads` and turn dx (B, T, C) into the gradient with respect to the sublayer's input, in place."""
    del context
    dout = output_gradient(dx, saved.mask, workspace)
    add_product(saved.active.T, dout, grads.out_weight)
    if grads.out_bias is not None:
        norm.add_column_sums(dout, grads.out_bias)
    dhidden = workspace.take("dhidden", saved.active.shape, dx.dtype)
    np.matmul(dout, params.out_weight.T, out=dhidden)
    dhidden *= saved.slope
    add_product(saved.normed.T, dhidden, grads.fc_weight)
    if grads.fc_bias is not None:
        norm.add_column_sums(dhidden, grads.fc_bias)
    dnormed = workspace.take("dnormed", saved.normed.shape, dx.dtype)
    np.matmul(dhidden, params.fc_weight.T, out=dnormed)
    norm.backward(dnormed, saved.xhat, saved.rstd, params.gain, grads.gain, grads.bias, workspace)
    dx += dnormed.reshape(dx.shape)
