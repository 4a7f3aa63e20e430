"""The sublayers on a GPU: the reference's mathematics (ops/sublayers.py) in few launches.

Matrices and activations are of one type, float16 where that is the precision; the residual stream, statistics and
gradients of parameters are Wide, at least float32. What is cheap to compute is computed again in the backward instead
of being kept: masks, the result of a norm, the result of the activation.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu import activation, cross_entropy, dropout, embedding, linear, ways
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.backend.gpu.memory import ALIGNMENT, logits_shape
from scratchgpt.backend.gpu.norm import Norm
from scratchgpt.chance import Place
from scratchgpt.ops import sublayers
from scratchgpt.ops.array import Array
from scratchgpt.ops.cache import LayerCache, Positions
from scratchgpt.ops.table import AttentionParams, EmbedParams, HeadParams, MLPParams, Step, Wanted

LARGE = 1024
"""Tokens of a vocabulary whose products take long enough for their size to matter."""


def rows(x: Array) -> Array:
    """(B, T, C) -> (B * T, C): a view."""
    return x.reshape(-1, x.shape[-1])


class EmbedSaved(NamedTuple):
    """Values that the backward needs."""

    tokens: Array  # (B, T)
    dtype: npt.DTypeLike  # of the tables


@dataclasses.dataclass(frozen=True)
class Embed:
    """x = dropout(token_table[tokens] + position_table)."""

    device: Device

    def forward(self, tokens: Array, params: EmbedParams[Array], step: Step) -> tuple[Array, EmbedSaved]:
        """tokens (B, T) -> x (B, T, C)."""
        mask = Mask.of(step, 0, Place.EMBEDDING)
        x = embedding.forward(self.device, tokens, params.token_table, params.position_table, mask)
        return x, EmbedSaved(tokens, params.token_table.dtype)

    def at(self, tokens: Array, positions: Positions, params: EmbedParams[Array]) -> Array:
        """tokens (B, T) at any positions -> x (B, T, C). In half precision the sum is float32, as in `forward`."""
        wide = np.promote_types(params.token_table.dtype, np.float32)
        x: Array = params.token_table[tokens].astype(wide) + params.position_table[positions].astype(wide)
        return x

    def backward(self, dx: Array, saved: EmbedSaved, grads: EmbedParams[Wanted], step: Step) -> None:
        """Add to the gradients of both tables. dx (B, T, C), which may be overwritten."""
        mask = Mask.of(step, 0, Place.EMBEDDING)
        embedding.backward(self.device, dx, saved.tokens, mask, grads.token_table, grads.position_table, saved.dtype)


class AttentionSaved(NamedTuple):
    """Values that the backward needs."""

    norm: Any  # the norm's record
    attention: Any  # the record of the way in which attention was computed
    heads: Array  # (B * T, C)


@dataclasses.dataclass(frozen=True)
class Attention:
    """x += dropout(proj(attention(qkv(norm(x)))))."""

    device: Device
    reference: sublayers.Attention
    norm: Norm[Any]
    head_size: int

    def forward(self, x: Array, params: AttentionParams[Array], step: Step, layer: int) -> AttentionSaved:
        """Update x (B, T, C) in place."""
        B, T, _ = x.shape
        device, dtype = self.device, params.qkv_weight.dtype
        normed, norm_saved = self.norm.forward(device, rows(x), params.gain, params.bias, dtype)
        qkv = linear.forward(device, normed, params.qkv_weight).reshape(B, T, params.qkv_weight.shape[1])
        mask = Mask.of(step, layer, Place.ATTENTION)
        way = self._way(dtype)
        heads, attention_saved = way.forward(device, qkv, params.qkv_bias, self.reference.n_head, mask)
        out = linear.forward(device, rows(heads), params.proj_weight)
        dropout.add(device, x, out, params.proj_bias, Mask.of(step, layer, Place.ATTENTION_OUTPUT))
        return AttentionSaved(norm_saved, attention_saved, rows(heads))

    def _way(self, dtype: npt.DTypeLike) -> Any:
        return ways.way(self.device, dtype, self.head_size)

    def extend(self, x: Array, params: AttentionParams[Array], cache: LayerCache) -> None:
        """Update x (B, T, C), the cache's span, in place, and keep its keys and values."""
        if cache.span.n_kept:
            self.reference.extend(x, params, cache)
            return
        saved = self.forward(x, params, Step(), 0)
        way = self._way(params.qkv_weight.dtype)
        cache.keep(*way.keys_and_values(self.device, saved.attention, params.qkv_bias, self.reference.n_head))

    def backward(
        self,
        dx: Array,
        saved: AttentionSaved,
        params: AttentionParams[Array],
        grads: AttentionParams[Wanted],
        step: Step,
        layer: int,
    ) -> None:
        """Each op of the forward, last first. dx (B, T, C) keeps its residual part and gains the branch's."""
        device, heads, H = self.device, saved.heads, self.reference.n_head
        dout = rows(dropout.backward(device, dx, Mask.of(step, layer, Place.ATTENTION_OUTPUT), heads.dtype))
        dheads = linear.backward(device, dout, heads, params.proj_weight, grads.proj_weight, grads.proj_bias)
        mask = Mask.of(step, layer, Place.ATTENTION)
        way = self._way(dheads.dtype)
        dqkv = way.backward(device, dheads.reshape(dx.shape), saved.attention, params.qkv_bias, H, mask)
        normed = self.norm.again(device, saved.norm, params.gain, params.bias)
        dnormed = linear.backward(device, rows(dqkv), normed, params.qkv_weight, grads.qkv_weight, grads.qkv_bias)
        self.norm.backward(device, dnormed, saved.norm, params.gain, rows(dx), grads.gain, grads.bias)


class MLPSaved(NamedTuple):
    """Values that the backward needs."""

    norm: Any  # the norm's record
    hidden: Array  # (B * T, K): what the activation is applied to, without its bias


@dataclasses.dataclass(frozen=True)
class MLP:
    """x += dropout(out(activation(fc(norm(x)))))."""

    device: Device
    norm: Norm[Any]
    activation: str  # the name of its kernels

    def forward(self, x: Array, params: MLPParams[Array], step: Step, layer: int) -> MLPSaved:
        """Update x (B, T, C) in place."""
        device = self.device
        normed, norm_saved = self.norm.forward(device, rows(x), params.gain, params.bias, params.fc_weight.dtype)
        hidden = linear.forward(device, normed, params.fc_weight)
        active = activation.forward(device, self.activation, hidden, params.fc_bias, x.shape[-1])
        out = linear.forward(device, active, params.out_weight)
        dropout.add(device, x, out, params.out_bias, Mask.of(step, layer, Place.MLP_OUTPUT))
        return MLPSaved(norm_saved, hidden)

    def backward(
        self,
        dx: Array,
        saved: MLPSaved,
        params: MLPParams[Array],
        grads: MLPParams[Wanted],
        step: Step,
        layer: int,
    ) -> None:
        """Each op of the forward, last first. dx (B, T, C) keeps its residual part and gains the branch's."""
        device, hidden = self.device, saved.hidden
        dout = rows(dropout.backward(device, dx, Mask.of(step, layer, Place.MLP_OUTPUT), hidden.dtype))
        active = activation.forward(device, self.activation, hidden, params.fc_bias, dx.shape[-1])
        dhidden = linear.backward(device, dout, active, params.out_weight, grads.out_weight, grads.out_bias)
        activation.backward(device, self.activation, dhidden, hidden, params.fc_bias, dx.shape[-1])
        normed = self.norm.again(device, saved.norm, params.gain, params.bias)
        dnormed = linear.backward(device, dhidden, normed, params.fc_weight, grads.fc_weight, grads.fc_bias)
        self.norm.backward(device, dnormed, saved.norm, params.gain, rows(dx), grads.gain, grads.bias)


@dataclasses.dataclass(frozen=True)
class Head:
    """Final norm, projection to logits, and cross-entropy.

    The logits of some rows at a time become their gradient in place, so that no more of them ever exist. The last few
    tokens of an odd vocabulary have products of their own: cuBLAS is up to a quarter faster on whole packs of 16 bytes.
    """

    device: Device
    reference: sublayers.Head
    norm: Norm[Any]

    def logits(self, x: Array, params: HeadParams[Array]) -> Array:
        """Residual stream (..., C) -> logits (..., V)."""
        return self.reference.logits(x, params)

    def loss(
        self, x: Array, targets: Array, params: HeadParams[Array], grads: HeadParams[Wanted], step: Step
    ) -> tuple[Array, Array]:
        """Return the loss () and its gradient with respect to x (B, T, C), times the loss scale; targets (B, T)."""
        device, weight = self.device, params.weight
        V, dtype = len(weight), weight.dtype
        normed, norm_saved = self.norm.forward(device, rows(x), params.gain, params.bias, dtype)
        R, answers = len(normed), targets.reshape(-1)
        weights = None if step.weights is None else step.weights.reshape(-1)
        n, stride = logits_shape(R, V, dtype.itemsize)
        buffer, dnormed = device.empty((n, stride), dtype), device.empty(normed.shape, dtype)
        losses = []
        whole = V // ALIGNMENT * ALIGNMENT if V > LARGE else V
        parts = [part for part in (slice(whole), slice(whole, V)) if len(weight[part])]
        for start in range(0, R, n):
            chunk = slice(start, min(start + n, R))
            logits = buffer[: chunk.stop - start]
            for part in parts:
                device.matmul(normed[chunk], weight[part].T, logits[:, part])
            if params.logit_bias is not None:
                logits[:, :V] += params.logit_bias
            scale = step.loss_scale / step.n_targets
            own_weights = None if weights is None else weights[chunk]
            losses.append(cross_entropy.forward_backward(device, logits, V, answers[chunk], scale, own_weights))
            for part in parts:
                device.matmul(logits[:, part], weight[part], dnormed[chunk], add=part.start is not None)
                if grads.weight is not None:
                    device.matmul(logits[:, part].T, normed[chunk], grads.weight[part], add=True)
            if grads.logit_bias is not None:
                grads.logit_bias[...] += logits[:, :V].sum(axis=0, dtype=grads.logit_bias.dtype)
        dx = device.xp.zeros_like(x)
        self.norm.backward(device, dnormed, norm_saved, params.gain, rows(dx), grads.gain, grads.bias)
        return device.xp.concatenate(losses).sum() * (1 / step.n_targets), dx
