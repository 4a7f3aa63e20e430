"""The reference of the table (ops/table.py): GPT's sublayers, made of the small ops and nothing else.

The fields of a sublayer are the choices of an architecture. The registries have the ops to choose from.
"""

import dataclasses
from types import ModuleType
from typing import Any, NamedTuple

from scratchgpt.chance import Place
from scratchgpt.config import ModelConfig
from scratchgpt.ops import attention, cross_entropy, dropout, embedding, gelu, layernorm, linear, relu, rmsnorm
from scratchgpt.ops.array import Array, array_module
from scratchgpt.ops.attention import merge_heads, split_heads
from scratchgpt.ops.cache import LayerCache, Positions
from scratchgpt.ops.table import AttentionParams, EmbedParams, HeadParams, MLPParams, Step, Table, Wanted

NORMS: dict[str, ModuleType] = {"layernorm": layernorm, "rmsnorm": rmsnorm}
ACTIVATIONS: dict[str, ModuleType] = {"gelu_new": gelu, "relu": relu}
"""By the names that GPT-2's configuration files use."""


def sublayers(config: ModelConfig) -> "tuple[Embed, Attention, MLP, Head]":
    """Return the reference's sublayers of an architecture."""
    norm, epsilon = NORMS[config.norm], config.norm_epsilon
    activation = ACTIVATIONS[config.activation]
    return Embed(), Attention(norm, epsilon, config.n_head), MLP(norm, epsilon, activation), Head(norm, epsilon)


def table(config: ModelConfig) -> Table:
    """Return the reference's table of an architecture."""
    return Table.of(*sublayers(config))


def accumulate(grad: Wanted, increment: Array | None) -> None:
    """Add into a gradient in place, if it is wanted."""
    if grad is not None:
        grad += increment


def dropout_mask(step: Step, place: Place, layer: int, shape: tuple[int, ...], like: Array) -> Array | None:
    """Return a layer's dropout mask (B, *shape) for one place, as an array of `like`'s kind; None without dropout."""
    if step.dropout == 0:
        return None
    drawn = dropout.mask(
        step.dropout,
        seed=step.seed,
        step=step.step,
        sequences=step.sequences,
        layer=layer,
        place=place,
        shape=shape,
        dtype=like.dtype,
    )
    moved: Array = array_module(like).asarray(drawn)
    return moved


class EmbedSaved(NamedTuple):
    """Values that the backward needs."""

    embedding: embedding.Saved
    mask: Array | None


class Embed:
    """x = dropout(token_table[tokens] + position_table)."""

    def forward(self, tokens: Array, params: EmbedParams[Array], step: Step) -> tuple[Array, EmbedSaved]:
        """tokens (B, T) -> x (B, T, C), a new array: here the residual stream begins."""
        x, saved = embedding.forward(tokens, params.token_table, params.position_table)
        mask = dropout_mask(step, Place.EMBEDDING, 0, x.shape[1:], x)
        x, _ = dropout.forward(x, mask)
        return x, EmbedSaved(saved, mask)

    def at(self, tokens: Array, positions: Positions, params: EmbedParams[Array]) -> Array:
        """tokens (B, T) at any positions -> x (B, T, C)."""
        x: Array = params.token_table[tokens] + params.position_table[positions]
        return x

    def backward(self, dx: Array, saved: EmbedSaved, grads: EmbedParams[Wanted], step: Step) -> None:  # noqa: ARG002
        """Add to the gradients of both tables. dx (B, T, C)."""
        dtoken_table, dposition_table = embedding.backward(dropout.backward(dx, saved.mask), saved.embedding)
        accumulate(grads.token_table, dtoken_table)
        accumulate(grads.position_table, dposition_table)


class AttentionSaved(NamedTuple):
    """Values that the backward needs."""

    norm: Any  # the norm's record
    qkv: linear.Saved
    attention: attention.Saved
    proj: linear.Saved
    mask: Array | None


@dataclasses.dataclass(frozen=True)
class Attention:
    """x += dropout(proj(attention(qkv(norm(x)))))."""

    norm: ModuleType
    epsilon: float
    n_head: int

    def forward(self, x: Array, params: AttentionParams[Array], step: Step, layer: int) -> AttentionSaved:
        """Update x (B, T, C) in place."""
        xp = array_module(x)
        T, H = x.shape[1], self.n_head
        normed, norm_saved = self.norm.forward(x, params.gain, params.bias, self.epsilon)
        qkv, qkv_saved = linear.forward(normed, params.qkv_weight, params.qkv_bias)
        q, k, v = (split_heads(part, H) for part in xp.split(qkv, 3, axis=-1))
        weights_mask = dropout_mask(step, Place.ATTENTION, layer, (H, T, T), x)
        heads, attention_saved = attention.forward(q, k, v, weights_mask)
        out, proj_saved = linear.forward(merge_heads(heads), params.proj_weight, params.proj_bias)
        out, mask = dropout.forward(out, dropout_mask(step, Place.ATTENTION_OUTPUT, layer, x.shape[1:], x))
        x += out
        return AttentionSaved(norm_saved, qkv_saved, attention_saved, proj_saved, mask)

    def extend(self, x: Array, params: AttentionParams[Array], cache: LayerCache) -> None:
        """Update x (B, T, C), the cache's span, in place, and keep its keys and values."""
        xp = array_module(x)
        normed, _ = self.norm.forward(x, params.gain, params.bias, self.epsilon)
        qkv, _ = linear.forward(normed, params.qkv_weight, params.qkv_bias)
        q, k, v = (split_heads(part, self.n_head) for part in xp.split(qkv, 3, axis=-1))
        heads = attention.between(q, *cache.extend(k, v))
        out, _ = linear.forward(merge_heads(heads), params.proj_weight, params.proj_bias)
        x += out

    def backward(
        self,
        dx: Array,
        saved: AttentionSaved,
        params: AttentionParams[Array],
        grads: AttentionParams[Wanted],
        step: Step,  # noqa: ARG002 - the masks are saved
        layer: int,  # noqa: ARG002
    ) -> None:
        """Each op of the forward, last first. dx (B, T, C) keeps its residual part and gains the branch's."""
        xp = array_module(dx)
        dout = dropout.backward(dx, saved.mask)
        dmerged, dweight, dbias = linear.backward(dout, saved.proj, params.proj_weight)
        accumulate(grads.proj_weight, dweight)
        accumulate(grads.proj_bias, dbias)
        dparts = attention.backward(split_heads(dmerged, self.n_head), saved.attention)
        dqkv = xp.concatenate([merge_heads(dpart) for dpart in dparts], axis=-1)
        dnormed, dweight, dbias = linear.backward(dqkv, saved.qkv, params.qkv_weight)
        accumulate(grads.qkv_weight, dweight)
        accumulate(grads.qkv_bias, dbias)
        dbranch, dgain, dbias = self.norm.backward(dnormed, saved.norm, params.gain)
        accumulate(grads.gain, dgain)
        accumulate(grads.bias, dbias)
        dx += dbranch


class MLPSaved(NamedTuple):
    """Values that the backward needs."""

    norm: Any  # the norm's record
    fc: linear.Saved
    activation: Array
    out: linear.Saved
    mask: Array | None


@dataclasses.dataclass(frozen=True)
class MLP:
    """x += dropout(out(activation(fc(norm(x)))))."""

    norm: ModuleType
    epsilon: float
    activation: ModuleType

    def forward(self, x: Array, params: MLPParams[Array], step: Step, layer: int) -> MLPSaved:
        """Update x (B, T, C) in place."""
        normed, norm_saved = self.norm.forward(x, params.gain, params.bias, self.epsilon)
        hidden, fc_saved = linear.forward(normed, params.fc_weight, params.fc_bias)
        active, activation_saved = self.activation.forward(hidden)
        out, out_saved = linear.forward(active, params.out_weight, params.out_bias)
        out, mask = dropout.forward(out, dropout_mask(step, Place.MLP_OUTPUT, layer, x.shape[1:], x))
        x += out
        return MLPSaved(norm_saved, fc_saved, activation_saved, out_saved, mask)

    def backward(
        self,
        dx: Array,
        saved: MLPSaved,
        params: MLPParams[Array],
        grads: MLPParams[Wanted],
        step: Step,  # noqa: ARG002 - the mask is saved
        layer: int,  # noqa: ARG002
    ) -> None:
        """Each op of the forward, last first. dx (B, T, C) keeps its residual part and gains the branch's."""
        dout = dropout.backward(dx, saved.mask)
        dactive, dweight, dbias = linear.backward(dout, saved.out, params.out_weight)
        accumulate(grads.out_weight, dweight)
        accumulate(grads.out_bias, dbias)
        dhidden = self.activation.backward(dactive, saved.activation)
        dnormed, dweight, dbias = linear.backward(dhidden, saved.fc, params.fc_weight)
        accumulate(grads.fc_weight, dweight)
        accumulate(grads.fc_bias, dbias)
        dbranch, dgain, dbias = self.norm.backward(dnormed, saved.norm, params.gain)
        accumulate(grads.gain, dgain)
        accumulate(grads.bias, dbias)
        dx += dbranch


@dataclasses.dataclass(frozen=True)
class Head:
    """Final norm, projection to logits, and cross-entropy."""

    norm: ModuleType
    epsilon: float

    def logits(self, x: Array, params: HeadParams[Array]) -> Array:
        """Residual stream (..., C) -> logits (..., V)."""
        normed, _ = self.norm.forward(x, params.gain, params.bias, self.epsilon)
        logits, _ = linear.forward(normed, params.weight.T, params.logit_bias)
        return logits

    def loss(
        self, x: Array, targets: Array, params: HeadParams[Array], grads: HeadParams[Wanted], step: Step
    ) -> tuple[Array, Array]:
        """Forward and back in one go: x (B, T, C), targets (B, T) -> loss (), dx (B, T, C)."""
        normed, norm_saved = self.norm.forward(x, params.gain, params.bias, self.epsilon)
        logits, linear_saved = linear.forward(normed, params.weight.T, params.logit_bias)
        rows = logits.reshape(-1, logits.shape[-1])
        ids, weights = cross_entropy.weigh(targets, step.weights, rows.dtype)
        losses, loss_saved = cross_entropy.forward(rows, ids)
        scale = 1 / step.n_targets
        dlogits = cross_entropy.backward(weights * (step.loss_scale * scale), loss_saved)
        dnormed, dweight, dlogit_bias = linear.backward(dlogits.reshape(logits.shape), linear_saved, params.weight.T)
        accumulate(grads.weight, dweight.T)
        accumulate(grads.logit_bias, dlogit_bias)
        dx, dgain, dbias = self.norm.backward(dnormed, norm_saved, params.gain)
        accumulate(grads.gain, dgain)
        accumulate(grads.bias, dbias)
        return (weights * losses).sum() * scale, dx
