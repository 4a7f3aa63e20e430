"""x += dropout(out(activation(fc(norm(x))))), and back, on buffers and in blocks that stay in the cache.

The forward keeps the activation's derivative, so that the backward only multiplies.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from scratchgpt.backend.cpu.activations import Activation
from scratchgpt.backend.cpu.branch import add_gradients, add_output, output_gradient
from scratchgpt.backend.cpu.dropout import Masks
from scratchgpt.backend.cpu.norm import Norm
from scratchgpt.backend.workspace import Workspace
from scratchgpt.chance import Place
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import MLPParams, Step, Wanted


class Saved(NamedTuple):
    """What the backward needs; N = B * T, K is the branch's width."""

    norm: Any  # the norm's record
    normed: Array  # (N, C)
    active: Array  # (N, K)
    slope: Array  # (N, K): the activation's derivative
    mask: Array | None


@dataclasses.dataclass(frozen=True)
class MLP:
    """The sublayer, on these buffers."""

    norm: Norm[Any]
    activate: Activation
    workspace: Workspace
    masks: Masks
    block_bytes: int

    def forward(self, x: Array, params: MLPParams[Array], step: Step, layer: int) -> Saved:
        """Update x (B, T, C) in place."""
        B, T, C = x.shape
        take = self.workspace.taker("mlp", layer, dtype=x.dtype)
        normed, norm_saved = self.norm.forward(x.reshape(-1, C), params.gain, params.bias, take)
        K = params.fc_weight.shape[1]
        active, slope = take("active", B * T, K), take("slope", B * T, K)
        np.matmul(normed, params.fc_weight, out=active)
        if params.fc_bias is not None:
            active += params.fc_bias
        flat, flat_slope = active.reshape(-1), slope.reshape(-1)
        block = self.block_bytes // flat.itemsize
        for start in range(0, flat.size, block):
            self.activate(flat[start : start + block], flat_slope[start : start + block], self.workspace)
        mask = self.masks.mask(step, layer, Place.MLP_OUTPUT, (T, C), x)
        add_output(x, active, params.out_weight, params.out_bias, mask, self.workspace)
        return Saved(norm_saved, normed, active, slope, mask)

    def backward(
        self,
        dx: Array,
        saved: Saved,
        params: MLPParams[Array],
        grads: MLPParams[Wanted],
        step: Step,  # noqa: ARG002 - the mask is saved
        layer: int,  # noqa: ARG002
    ) -> None:
        """Add to `grads` and turn dx (B, T, C) into the gradient with respect to the sublayer's input, in place."""
        workspace = self.workspace
        dout = output_gradient(dx, saved.mask, workspace)
        add_gradients(saved.active, dout, grads.out_weight, grads.out_bias)
        dhidden = workspace.take("dhidden", saved.active.shape, dx.dtype)
        np.matmul(dout, params.out_weight.T, out=dhidden)
        dhidden *= saved.slope
        add_gradients(saved.normed, dhidden, grads.fc_weight, grads.fc_bias)
        dnormed = workspace.take("dnormed", saved.normed.shape, dx.dtype)
        np.matmul(dhidden, params.fc_weight.T, out=dnormed)
        self.norm.backward(dnormed, saved.norm, params.gain, grads.gain, grads.bias, workspace)
        dx += dnormed.reshape(dx.shape)
