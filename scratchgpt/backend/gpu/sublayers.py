"""The sublayers on a GPU: the reference's mathematics (ops/sublayers.py) in few launches.

Matrices and activations are of one type, float16 where that is the precision; the residual stream, statistics and
gradients of parameters are Wide, at least float32. What is cheap to compute is computed again in the backward instead
of being kept: masks, the result of a norm, the result of the activation.
"""

import math
from typing import Any, NamedTuple

import numpy.typing as npt

from scratchgpt.backend.gpu import activation, adamw, cross_entropy, dropout, embedding, layernorm, linear, ways
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.dropout import Mask
from scratchgpt.backend.gpu.memory import ALIGNMENT, logits_shape
from scratchgpt.chance import Place
from scratchgpt.ops.adamw import Hyperparameters, Moments, clip_scale
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import AttentionParams, Context, EmbedParams, HeadParams, MLPParams

LARGE = 1024
"""Tokens of a vocabulary whose products take long enough for their size to matter."""


def rows(x: Array) -> Array:
    """(B, T, C) -> (B * T, C): a view."""
    return x.reshape(-1, x.shape[-1])


# ------------------------------------------------------------------------------------------- embedding


class EmbedSaved(NamedTuple):
    """What the backward needs."""

    tokens: Array  # (B, T)
    mask: Mask
    dtype: npt.DTypeLike  # of the tables


def embed_forward(tokens: Array, params: EmbedParams, context: Context, *, device: Device) -> tuple[Array, EmbedSaved]:
    """tokens (B, T) -> x (B, T, C)."""
    mask = Mask.of(context, Place.EMBEDDING)
    x = embedding.forward(device, tokens, params.token_table, params.position_table, mask)
    return x, EmbedSaved(tokens, mask, params.token_table.dtype)


def embed_backward(dx: Array, saved: EmbedSaved, grads: EmbedParams, *, device: Device) -> None:
    """Add to both tables' gradients. dx (B, T, C), which may be overwritten."""
    embedding.backward(device, dx, saved.tokens, saved.mask, grads.token_table, grads.position_table, saved.dtype)


# ------------------------------------------------------------------------------------------- attention


class AttentionSaved(NamedTuple):
    """What the backward needs."""

    norm: layernorm.Saved
    attention: Any  # of whichever way attention was computed
    heads: Array  # (B * T, C)


def attention_forward(x: Array, params: AttentionParams, context: Context, *, device: Device) -> AttentionSaved:
    """x += dropout(proj(attention(qkv(norm(x))))). x (B, T, C)."""
    B, T, C = x.shape
    normed, norm_saved = layernorm.forward(device, rows(x), params.gain, params.bias, params.qkv_weight.dtype)
    qkv = linear.forward(device, normed, params.qkv_weight).reshape(B, T, 3 * C)
    way = ways.way(device, qkv.dtype, C // context.n_head)
    mask = Mask.of(context, Place.ATTENTION)
    heads, attention_saved = way.forward(device, qkv, params.qkv_bias, context.n_head, mask)
    out = linear.forward(device, rows(heads), params.proj_weight)
    dropout.add(device, x, out, params.proj_bias, Mask.of(context, Place.ATTENTION_OUTPUT))
    return AttentionSaved(norm_saved, attention_saved, rows(heads))


def keys_values(
    saved: AttentionSaved, params: AttentionParams, context: Context, *, device: Device
) -> tuple[Array, Array]:
    """Return the keys and the values, each (B, H, T, D)."""
    way = ways.way(device, saved.heads.dtype, saved.heads.shape[-1] // context.n_head)
    keys, values = way.keys_values(device, saved.attention, params.qkv_bias, context.n_head)
    return keys, values


def attention_backward(
    dx: Array,
    saved: AttentionSaved,
    params: AttentionParams,
    grads: AttentionParams,
    context: Context,
    *,
    device: Device,
) -> None:
    """Each op of the forward, last first. dx (B, T, C) keeps its residual part and gains the branch's."""
    dout = rows(dropout.backward(device, dx, Mask.of(context, Place.ATTENTION_OUTPUT), saved.heads.dtype))
    dheads = linear.backward(device, dout, saved.heads, params.proj_weight, grads.proj_weight, grads.proj_bias)
    way = ways.way(device, dheads.dtype, dx.shape[-1] // context.n_head)
    mask = Mask.of(context, Place.ATTENTION)
    dqkv = way.backward(device, dheads.reshape(dx.shape), saved.attention, params.qkv_bias, context.n_head, mask)
    normed = layernorm.again(device, saved.norm, params.gain, params.bias)
    dnormed = linear.backward(device, rows(dqkv), normed, params.qkv_weight, grads.qkv_weight, grads.qkv_bias)
    layernorm.backward(device, dnormed, saved.norm, params.gain, rows(dx), grads.gain, grads.bias)


# ------------------------------------------------------------------------------------------------- MLP


class MLPSaved(NamedTuple):
    """What the backward needs."""

    norm: layernorm.Saved
    hidden: Array  # (B * T, 4C): what the activation is applied to, without its bias


def mlp_forward(x: Array, params: MLPParams, context: Context, *, device: Device) -> MLPSaved:
    """x += dropout(out(activation(fc(norm(x))))). x (B, T, C)."""
    normed, norm_saved = layernorm.forward(device, rows(x), params.gain, params.bias, params.fc_weight.dtype)
    hidden = linear.forward(device, normed, params.fc_weight)
    active = activation.forward(device, context.activation, hidden, params.fc_bias)
    out = linear.forward(device, active, params.out_weight)
    dropout.add(device, x, out, params.out_bias, Mask.of(context, Place.MLP_OUTPUT))
    return MLPSaved(norm_saved, hidden)


def mlp_backward(
    dx: Array, saved: MLPSaved, params: MLPParams, grads: MLPParams, context: Context, *, device: Device
) -> None:
    """Each op of the forward, last first. dx (B, T, C) keeps its residual part and gains the branch's."""
    dout = rows(dropout.backward(device, dx, Mask.of(context, Place.MLP_OUTPUT), saved.hidden.dtype))
    active = activation.forward(device, context.activation, saved.hidden, params.fc_bias)
    dhidden = linear.backward(device, dout, active, params.out_weight, grads.out_weight, grads.out_bias)
    activation.backward(device, context.activation, dhidden, saved.hidden, params.fc_bias)
    normed = layernorm.again(device, saved.norm, params.gain, params.bias)
    dnormed = linear.backward(device, dhidden, normed, params.fc_weight, grads.fc_weight, grads.fc_bias)
    layernorm.backward(device, dnormed, saved.norm, params.gain, rows(dx), grads.gain, grads.bias)


# ------------------------------------------------------------------------------------------------ head


def head_loss(
    x: Array, targets: Array, params: HeadParams, grads: HeadParams, context: Context, *, device: Device
) -> tuple[Array, Array]:
    """Return the loss () and its gradient with respect to x (B, T, C), times the loss scale; targets (B, T).

    The logits of some rows at a time become their gradient in place, so that no more of them ever exist. The last few
    tokens of an odd vocabulary have products of their own: cuBLAS is up to a quarter faster on whole packs of 16 bytes.
    """
    weight = params.weight
    V, dtype = len(weight), weight.dtype
    normed, norm_saved = layernorm.forward(device, rows(x), params.gain, params.bias, dtype)
    R, answers = len(normed), targets.reshape(-1)
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
        scale = context.loss_scale / context.n_targets
        losses.append(cross_entropy.forward_backward(device, logits, V, answers[chunk], scale))
        for part in parts:
            device.matmul(logits[:, part], weight[part], dnormed[chunk], add=part.start is not None)
            device.matmul(logits[:, part].T, normed[chunk], grads.weight[part], add=True)
        if grads.logit_bias is not None:
            grads.logit_bias[...] += logits[:, :V].sum(axis=0, dtype=grads.logit_bias.dtype)
    dx = device.xp.zeros_like(x)
    layernorm.backward(device, dnormed, norm_saved, params.gain, rows(dx), grads.gain, grads.bias)
    return device.xp.concatenate(losses).sum() * (1 / context.n_targets), dx


# ---------------------------------------------------------------------------------------------- update


def norm(grads: Array, *, device: Device) -> float:
    """√Σ g². grads (P,)."""
    return math.sqrt(float(adamw.sum_of_squares(device, grads)))


def update(
    params: Array,
    grads: Array,
    moments: Moments,
    hyperparameters: Hyperparameters,
    *,
    n_decayed: int,
    norm: float,
    clip: float,
    update_number: int,
    loss_scale: float = 1.0,
    rounded: Array | None = None,
    device: Device,
) -> None:
    """Do what the reference does; `rounded` (n_decayed,) becomes a copy of the decayed parameters in float16."""
    if not norm < math.inf:
        grads.fill(0)
        return
    adamw.update(
        device,
        params,
        grads,
        moments,
        hyperparameters,
        n_decayed=n_decayed,
        scale=clip_scale(norm, clip) / loss_scale,
        update_number=update_number,
        rounded=rounded,
    )
