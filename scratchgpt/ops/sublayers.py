"""The table of sublayers: the five steps of a GPT that the model calls and a backend may replace.

Speed is won across the borders of the small ops, so the model is written in these larger steps. Here is
their reference, made of the small ops and nothing else; a backend is
``dataclasses.replace(REFERENCE, mlp=...)``, and one test holds every table equal to this one.

Convention: ``forward(x, params, context) -> saved`` updates the residual stream x (B, T, C) in place, so
that nothing may save x by reference; ``backward(dx, saved, params, grads, context)`` adds into ``grads``
and turns dx, the gradient with respect to the new x, into the one with respect to the old, in place.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Self

from scratchgpt.chance import Place
from scratchgpt.ops import adamw, attention, cross_entropy, dropout, embedding, gelu, layernorm, linear, relu
from scratchgpt.ops.array import Array, array_module

ACTIVATIONS: dict[str, ModuleType] = {"gelu_new": gelu, "relu": relu}
"""By the names that GPT-2's configuration files use."""


class EmbedParams(NamedTuple):
    """Of `embed`."""

    token_table: Array  # (V, C)
    position_table: Array  # (block_size, C)


class AttentionParams(NamedTuple):
    """Of `attention`. A model without biases has None for each of them."""

    gain: Array  # (C,): the norm's
    bias: Array | None  # (C,)
    qkv_weight: Array  # (C, 3C): columns are q, k, v, and within each the heads
    qkv_bias: Array | None  # (3C,)
    proj_weight: Array  # (C, C)
    proj_bias: Array | None  # (C,)


class MLPParams(NamedTuple):
    """Of `mlp`. A model without biases has None for each of them."""

    gain: Array  # (C,): the norm's
    bias: Array | None  # (C,)
    fc_weight: Array  # (C, 4C)
    fc_bias: Array | None  # (4C,)
    out_weight: Array  # (4C, C)
    out_bias: Array | None  # (C,)


class HeadParams(NamedTuple):
    """Of `head_loss`. A model without biases has None for the norm's, and GPT-2 none for the logits'."""

    gain: Array  # (C,): the final norm's
    bias: Array | None  # (C,)
    weight: Array  # (V, C): the token table itself where the two are tied
    logit_bias: Array | None = None  # (V,)


@dataclasses.dataclass(frozen=True)
class Context:
    """What a sublayer must know that is neither parameter nor activation."""

    n_head: int
    activation: str = "gelu_new"
    dropout: float = 0.0  # 0 whenever the model is used rather than trained
    seed: int = 0
    step: int = 0
    sequences: Sequence[int] = ()  # the number of each of the B sequences within the whole step
    n_targets: int = 1  # the number of predictions in the whole step: the loss is their mean
    loss_scale: float = 1.0  # what the gradient is multiplied by, so that in float16 little of it becomes 0
    layer: int = 0

    def at(self, layer: int) -> Self:
        """Return the same context for another layer."""
        return dataclasses.replace(self, layer=layer)

    def mask(self, place: Place, shape: tuple[int, ...], like: Array) -> Array | None:
        """Return this layer's dropout mask (B, *shape) for one place, as an array of `like`'s kind."""
        if self.dropout == 0:
            return None
        drawn = dropout.mask(
            self.dropout,
            seed=self.seed,
            step=self.step,
            sequences=self.sequences,
            layer=self.layer,
            place=place,
            shape=shape,
            dtype=like.dtype,
        )
        moved: Array = array_module(like).asarray(drawn)
        return moved


def accumulate(grad: Array | None, increment: Array | None) -> None:
    """Add into a gradient in place; a parameter that the model does not have has neither."""
    if grad is not None:
        grad += increment


# ------------------------------------------------------------------------------------------- embedding


class EmbedSaved(NamedTuple):
    """What the backward needs."""

    embedding: embedding.Saved
    mask: Array | None


def embed_forward(tokens: Array, params: EmbedParams, context: Context) -> tuple[Array, EmbedSaved]:
    """x = dropout(token_table[tokens] + position_table).

    tokens (B, T) -> x (B, T, C), a new array: here the residual stream begins.
    """
    x, saved = embedding.forward(tokens, params.token_table, params.position_table)
    mask = context.mask(Place.EMBEDDING, x.shape[1:], x)
    x, _ = dropout.forward(x, mask)
    return x, EmbedSaved(saved, mask)


def embed_backward(dx: Array, saved: EmbedSaved, grads: EmbedParams) -> None:
    """Add to both tables' gradients. dx (B, T, C)."""
    dtoken_table, dposition_table = embedding.backward(dropout.backward(dx, saved.mask), saved.embedding)
    accumulate(grads.token_table, dtoken_table)
    accumulate(grads.position_table, dposition_table)


# ------------------------------------------------------------------------------------------- attention


class AttentionSaved(NamedTuple):
    """What the backward needs."""

    norm: layernorm.Saved
    qkv: linear.Saved
    attention: attention.Saved
    proj: linear.Saved
    mask: Array | None


def split_heads(x: Array, n_head: int) -> Array:
    """(B, T, C) -> (B, H, T, D): a view."""
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """(B, H, T, D) -> (B, T, C): the inverse of `split_heads`."""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * D)


def attention_forward(x: Array, params: AttentionParams, context: Context) -> AttentionSaved:
    """x += dropout(proj(attention(qkv(norm(x))))). x (B, T, C)."""
    xp = array_module(x)
    T, H = x.shape[1], context.n_head
    normed, norm_saved = layernorm.forward(x, params.gain, params.bias)
    qkv, qkv_saved = linear.forward(normed, params.qkv_weight, params.qkv_bias)
    q, k, v = (split_heads(part, H) for part in xp.split(qkv, 3, axis=-1))
    weights_mask = context.mask(Place.ATTENTION, (H, T, T), x)
    heads, attention_saved = attention.forward(q, k, v, weights_mask)
    out, proj_saved = linear.forward(merge_heads(heads), params.proj_weight, params.proj_bias)
    out, mask = dropout.forward(out, context.mask(Place.ATTENTION_OUTPUT, x.shape[1:], x))
    x += out
    return AttentionSaved(norm_saved, qkv_saved, attention_saved, proj_saved, mask)


def keys_values(saved: AttentionSaved, _params: AttentionParams, _context: Context) -> tuple[Array, Array]:
    """Return the keys and the values, each (B, H, T, D), that a forward has just computed. They may be views."""
    return saved.attention.k, saved.attention.v


def attention_backward(
    dx: Array, saved: AttentionSaved, params: AttentionParams, grads: AttentionParams, context: Context
) -> None:
    """Each op of the forward, last first. dx (B, T, C) keeps its residual part and gains the branch's."""
    xp = array_module(dx)
    dout = dropout.backward(dx, saved.mask)
    dmerged, dweight, dbias = linear.backward(dout, saved.proj, params.proj_weight)
    accumulate(grads.proj_weight, dweight)
    accumulate(grads.proj_bias, dbias)
    dparts = attention.backward(split_heads(dmerged, context.n_head), saved.attention)
    dqkv = xp.concatenate([merge_heads(dpart) for dpart in dparts], axis=-1)
    dnormed, dweight, dbias = linear.backward(dqkv, saved.qkv, params.qkv_weight)
    accumulate(grads.qkv_weight, dweight)
    accumulate(grads.qkv_bias, dbias)
    dbranch, dgain, dbias = layernorm.backward(dnormed, saved.norm, params.gain)
    accumulate(grads.gain, dgain)
    accumulate(grads.bias, dbias)
    dx += dbranch


# ------------------------------------------------------------------------------------------------- MLP


class MLPSaved(NamedTuple):
    """What the backward needs."""

    norm: layernorm.Saved
    fc: linear.Saved
    activation: Array
    out: linear.Saved
    mask: Array | None


def mlp_forward(x: Array, params: MLPParams, context: Context) -> MLPSaved:
    """x += dropout(out(activation(fc(norm(x))))). x (B, T, C)."""
    activation = ACTIVATIONS[context.activation]
    normed, norm_saved = layernorm.forward(x, params.gain, params.bias)
    hidden, fc_saved = linear.forward(normed, params.fc_weight, params.fc_bias)
    active, activation_saved = activation.forward(hidden)
    out, out_saved = linear.forward(active, params.out_weight, params.out_bias)
    out, mask = dropout.forward(out, context.mask(Place.MLP_OUTPUT, x.shape[1:], x))
    x += out
    return MLPSaved(norm_saved, fc_saved, activation_saved, out_saved, mask)


def mlp_backward(dx: Array, saved: MLPSaved, params: MLPParams, grads: MLPParams, context: Context) -> None:
    """Each op of the forward, last first. dx (B, T, C) keeps its residual part and gains the branch's."""
    dout = dropout.backward(dx, saved.mask)
    dactive, dweight, dbias = linear.backward(dout, saved.out, params.out_weight)
    accumulate(grads.out_weight, dweight)
    accumulate(grads.out_bias, dbias)
    dhidden = ACTIVATIONS[context.activation].backward(dactive, saved.activation)
    dnormed, dweight, dbias = linear.backward(dhidden, saved.fc, params.fc_weight)
    accumulate(grads.fc_weight, dweight)
    accumulate(grads.fc_bias, dbias)
    dbranch, dgain, dbias = layernorm.backward(dnormed, saved.norm, params.gain)
    accumulate(grads.gain, dgain)
    accumulate(grads.bias, dbias)
    dx += dbranch


# ------------------------------------------------------------------------------------------------ head


def head_loss(x: Array, targets: Array, params: HeadParams, grads: HeadParams, context: Context) -> tuple[Array, Array]:
    """Final norm, projection and cross-entropy, and back: the loss and its gradient in one go.

    x (B, T, C), which may be overwritten, targets (B, T) -> loss (), dx (B, T, C). The loss is the sum
    over these targets divided by the whole step's `context.n_targets`: micro-batches add up to the mean.
    All gradients, and only these, are multiplied by `context.loss_scale`.
    """
    xp = array_module(x)
    normed, norm_saved = layernorm.forward(x, params.gain, params.bias)
    logits, linear_saved = linear.forward(normed, params.weight.T, params.logit_bias)
    rows = logits.reshape(-1, logits.shape[-1])
    losses, loss_saved = cross_entropy.forward(rows, targets.reshape(-1))
    scale = 1 / context.n_targets
    dlogits = cross_entropy.backward(xp.full_like(losses, context.loss_scale * scale), loss_saved)
    dnormed, dweight, dlogit_bias = linear.backward(dlogits.reshape(logits.shape), linear_saved, params.weight.T)
    accumulate(grads.weight, dweight.T)
    accumulate(grads.logit_bias, dlogit_bias)
    dx, dgain, dbias = layernorm.backward(dnormed, norm_saved, params.gain)
    accumulate(grads.gain, dgain)
    accumulate(grads.bias, dbias)
    return losses.sum() * scale, dx


# ---------------------------------------------------------------------------------------------- update


def update(
    params: Array,
    grads: Array,
    moments: adamw.Moments,
    hyperparameters: adamw.Hyperparameters,
    *,
    n_decayed: int,
    norm: float,
    clip: float,
    update_number: int,
    loss_scale: float = 1.0,
) -> None:
    """Divide by the loss scale, clip by the norm of all gradients, move the parameters by AdamW, zero the gradients.

    params, grads (P,) and moments of (P,), or a slice of each: the first `n_decayed` parameters, the matrices, decay.
    The norm is that of the gradients divided by the scale. One that is not finite leaves parameters and moments as
    they were.
    """
    if norm < math.inf:
        grads *= adamw.clip_scale(norm, clip) / loss_scale
        no_decay = hyperparameters._replace(weight_decay=0.0)
        for part, settings in ((slice(n_decayed), hyperparameters), (slice(n_decayed, None), no_decay)):
            part_moments = adamw.Moments(moments.first[part], moments.second[part])
            adamw.update(params[part], grads[part], part_moments, settings, update_number=update_number)
    grads.fill(0)


# --------------------------------------------------------------------------------------------- the table


@dataclasses.dataclass(frozen=True)
class Sublayer:
    """A forward and its backward."""

    forward: Callable[..., Any]
    backward: Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Table:
    """The entries that a backend provides."""

    embed: Sublayer
    attention: Sublayer
    keys_values: Callable[..., tuple[Array, Array]]
    mlp: Sublayer
    head_loss: Callable[..., tuple[Array, Array]]
    norm: Callable[[Array], float]
    update: Callable[..., None]


REFERENCE = Table(
    embed=Sublayer(embed_forward, embed_backward),
    attention=Sublayer(attention_forward, attention_backward),
    keys_values=keys_values,
    mlp=Sublayer(mlp_forward, mlp_backward),
    head_loss=head_loss,
    norm=adamw.norm,
    update=update,
)
