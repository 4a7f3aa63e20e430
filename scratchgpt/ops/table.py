"""The contract between the model and a backend: a table of sublayers that is bound to one architecture.

The model calls sublayers, and a backend may replace each of them, since speed is won across the borders of small ops.
`ops/sublayers.py` has the reference, made of the small ops. One test holds every table equal to it.

A sublayer is a record whose fields are the choices of the architecture (norm, activation, number of heads) and what a
backend needs (buffers, a device). Convention: `forward(x, params, step, layer) -> saved` updates the residual stream x
(B, T, C) in place, so no record may save x by reference. `backward(dx, saved, params, grads, step, layer)` adds into
`grads`. It turns dx, the gradient with respect to the new x, into the one with respect to the old x, in place.

A gradient that is None is not wanted, and a fast table does not compute it.

Texts need three methods more, which save nothing and know no dropout: `embed.at`, `attention.extend`, `head.logits`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, Self, TypeVar, cast

from scratchgpt.ops.array import Array
from scratchgpt.ops.cache import LayerCache, Positions, Span

Leaf = TypeVar("Leaf", Array, Array | None)
"""Of parameters an array; of gradients None, too."""


class EmbedParams(NamedTuple, Generic[Leaf]):
    """Parameters of `embed`."""

    token_table: Leaf  # (V, C)
    position_table: Leaf  # (block_size, C)


class AttentionParams(NamedTuple, Generic[Leaf]):
    """Parameters of `attention`. A model without biases has None for each of them."""

    gain: Leaf  # (C,): the norm's
    bias: Array | None  # (C,)
    qkv_weight: Leaf  # (C, 3C): columns are q, k, v, and within each the heads
    qkv_bias: Array | None  # (3C,)
    proj_weight: Leaf  # (C, C)
    proj_bias: Array | None  # (C,)


class MLPParams(NamedTuple, Generic[Leaf]):
    """Parameters of `mlp`. A model without biases has None for each of them."""

    gain: Leaf  # (C,): the norm's
    bias: Array | None  # (C,)
    fc_weight: Leaf  # (C, K)
    fc_bias: Array | None  # (K,)
    out_weight: Leaf  # (K, C)
    out_bias: Array | None  # (C,)


class HeadParams(NamedTuple, Generic[Leaf]):
    """Parameters of `head`. A model without biases has None for the norm's, and GPT-2 None for the logits'."""

    gain: Leaf  # (C,): the final norm's
    bias: Array | None  # (C,)
    weight: Leaf  # (V, C): the token table itself where the two are tied
    logit_bias: Array | None = None  # (V,)


class Block(NamedTuple, Generic[Leaf]):
    """Parameters of one layer."""

    attention: AttentionParams[Leaf]
    mlp: MLPParams[Leaf]


class Tree(NamedTuple, Generic[Leaf]):
    """All parameters, or all gradients: a tree of views on one flat array. A frozen parameter has no gradient.

    Where embedding and head are tied, `head.weight` is `embed.token_table`: one leaf, two contributors.
    """

    embed: EmbedParams[Leaf]
    blocks: tuple[Block[Leaf], ...]
    head: HeadParams[Leaf]


Wanted = Array | None
"""A gradient to add into; None if it is not wanted."""

Params = Tree[Array]
Grads = Tree[Wanted]


class Step(NamedTuple):
    """The chance and the objective of one call. The defaults are those of a model that is used, not trained."""

    dropout: float = 0.0
    seed: int = 0
    step: int = 0
    sequences: Sequence[int] = ()  # the number of each of the B sequences within the whole step
    n_targets: int = 1  # that count in the whole step: the sum of losses is divided by it
    loss_scale: float = 1.0  # factor of all gradients, so that in float16 few of them become 0
    weights: Array | None = None  # (B, T): factor of each target's loss; None: all are 1


Params_contra = TypeVar("Params_contra", contravariant=True)
Grads_contra = TypeVar("Grads_contra", contravariant=True)
Saved = TypeVar("Saved")


class Sublayer(Protocol[Params_contra, Grads_contra, Saved]):
    """A branch of a layer: a forward and its backward."""

    def forward(self, x: Array, params: Params_contra, step: Step, layer: int) -> Saved:
        """Update x (B, T, C) in place; return what the backward needs."""

    def backward(
        self, dx: Array, saved: Saved, params: Params_contra, grads: Grads_contra, step: Step, layer: int
    ) -> None:
        """Add to `grads`. dx (B, T, C) keeps its residual part and gains the branch's."""


class AttentionSublayer(Sublayer[AttentionParams[Array], AttentionParams[Wanted], Saved], Protocol[Saved]):
    """Attention, of whole sequences and of what is appended to them."""

    def extend(self, x: Array, params: AttentionParams[Array], cache: LayerCache) -> None:
        """Update x (B, T, C), the cache's span, in place, and keep its keys and values."""


class MLPSublayer(Sublayer[MLPParams[Array], MLPParams[Wanted], Saved], Protocol[Saved]):
    """The multilayer perceptron."""


class EmbedSublayer(Protocol[Saved]):
    """The beginning of the residual stream."""

    def at(self, tokens: Array, positions: Positions, params: EmbedParams[Array]) -> Array:
        """tokens (B, T) at any positions -> x (B, T, C), a new array or a buffer."""

    def forward(self, tokens: Array, params: EmbedParams[Array], step: Step) -> tuple[Array, Saved]:
        """tokens (B, T) -> x (B, T, C), a new array or a buffer."""

    def backward(self, dx: Array, saved: Saved, grads: EmbedParams[Wanted], step: Step) -> None:
        """Add to the gradients of both tables. dx (B, T, C), which may be overwritten."""


class HeadSublayer(Protocol):
    """The end of the residual stream."""

    def logits(self, x: Array, params: HeadParams[Array]) -> Array:
        """Residual stream (..., C) -> logits (..., V), in the type of the parameters."""

    def loss(
        self, x: Array, targets: Array, params: HeadParams[Array], grads: HeadParams[Wanted], step: Step
    ) -> tuple[Array, Array]:
        """Return the loss () and its gradient with respect to x (B, T, C), and add to `grads`; targets (B, T).

        x may be overwritten. The loss is the weighed sum over these targets divided by the step's `n_targets`:
        micro-batches add up to the mean. Targets of -1 do not count. All gradients, and only these, are multiplied by
        `step.loss_scale`.
        """


class Decoding(Protocol):
    """A model whose texts grow in one memory of keys and values. What it returns may be a buffer."""

    def extend(self, tokens: Array, span: Span, n_last: int) -> Array:
        """Append tokens (1, T) to a sequence; return the residual stream (1, n_last, C) of the last positions."""

    def step(self, tokens: Array, span: Span) -> Array:
        """Append tokens (B,), one to each of the first B sequences; return the logits (B, V) of what follows."""


E = TypeVar("E")
A = TypeVar("A")
M = TypeVar("M")


@dataclasses.dataclass(frozen=True)
class Table:
    """The sublayers of one architecture. Of what they save, the model only hands it back: to it, all are `object`.

    `decoding`, if there is one, is faster than the sublayers where a text goes on: given parameters and a memory
    (L, 2, N, H, room, D) of keys and values, it does what they do, in fewer calls.
    """

    embed: EmbedSublayer[object]
    attention: AttentionSublayer[object]
    mlp: MLPSublayer[object]
    head: HeadSublayer
    decoding: Callable[[Params, Array], Decoding] | None = None

    @classmethod
    def of(
        cls,
        embed: EmbedSublayer[E],
        attention: AttentionSublayer[A],
        mlp: MLPSublayer[M],
        head: HeadSublayer,
        decoding: Callable[[Params, Array], Decoding] | None = None,
    ) -> Self:
        """Make a table of sublayers, each with its own records."""
        return cls(
            cast("EmbedSublayer[object]", embed),
            cast("AttentionSublayer[object]", attention),
            cast("MLPSublayer[object]", mlp),
            head,
            decoding,
        )
