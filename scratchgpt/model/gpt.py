"""The GPT: embed, L times attention and MLP, head. Forward, backward and update over the table of sublayers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from scratchgpt.backend import Backend
from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.model.params import Layout, Params
from scratchgpt.ops import adamw, cross_entropy, layernorm, linear
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import Context

EVALUATION_LOGITS = {"cpu": 2**22, "gpu": 2**24}
"""Logits computed at once in an evaluation, the largest array there: to fit into a cache, or to keep a GPU busy."""


class Score(NamedTuple):
    """How well a model predicts some targets, summed over them."""

    loss: float  # nats
    n_correct: int  # how often the likeliest token was the right one
    n_targets: int


class GPT:
    """A model: its configuration, its flat parameters and gradients, and the device that computes."""

    def __init__(self, config: ModelConfig, backend: Backend, *params: Array) -> None:
        """Take over `params` (P,), laid out by `Layout(config)`, as the model's own, on the backend's device.

        They may come in parts, as they lie in a file, for a model that is used and not trained. Where the backend
        multiplies in float16, matrices are used as a copy that each update renews.
        """
        self.config = config
        self.backend = backend
        self.layout = Layout(config)
        parts = [backend.to_device(part) for part in params]
        self.params = _only(parts)  # all of them, flat, as training needs them
        self.masters = self.tree = self.layout.tree(*parts)  # of these, the tree may become one of float16
        self._head = self.tree.head
        self._rounded: Array | None = None
        if backend.is_half:
            self._rounded = self.params[: self.layout.n_decayed].astype("float16")
            self.tree = self.layout.tree(self._rounded, self.params[self.layout.n_decayed :])
        self._grads: Array | None = None

    @property
    def grads(self) -> Array:
        """The gradients (P,): zero at first, and after each update; made when they are first needed."""
        if self._grads is None:
            self._grads = self.backend.xp.zeros_like(self.params)
        return self._grads

    def loss_and_grad(
        self,
        tokens: Array,
        targets: Array,
        *,
        seed: int = 0,
        step: int = 0,
        micro_batch: int = 0,
        first_sequence: int = 0,
        n_targets: int = 0,
        n_micro_batches: int = 0,
        loss_scale: float = 1.0,
        grads: Params | None = None,
    ) -> float:
        """Return the mean loss in nats and add its gradient to `grads`. Raises UsageError if T is above block_size.

        tokens, targets (B, T) on any device. At most `micro_batch` sequences are computed at once (0: all); the
        result does not depend on it, beyond the order of float sums. `seed` and `step` determine dropout. The gradient,
        and not the loss, is multiplied by `loss_scale`.

        Where this is a lane's part of a larger batch, `first_sequence` tells where in it, the loss is divided by its
        `n_targets`, there are at least `n_micro_batches`, if need be of no sequences, since lanes have to meet, and
        `grads` are the lane's and not the model's own.
        """
        B = len(tokens)
        tokens, targets = self._move(tokens), self._move(targets)
        size = micro_batch or max(B, 1)
        grads = grads or self.layout.tree(self.grads)
        loss = self.backend.xp.zeros((), self.params.dtype)
        for start in range(0, max(B, n_micro_batches * size), size):
            context = self._context(
                dropout=self.config.dropout,
                seed=seed,
                step=step,
                sequences=range(first_sequence + start, first_sequence + min(start + size, B)),
                n_targets=n_targets or targets.size,
                loss_scale=loss_scale,
            )
            chunk = slice(start, start + size)
            loss += self._micro_batch(tokens[chunk], targets[chunk], grads, context)
        return float(loss)

    def _micro_batch(self, tokens: Array, targets: Array, grads: Params, context: Context) -> Array:
        """Return the loss () and add its gradient. All that is kept for the backward is gone before the next begins."""
        table = self.backend.table
        x, embed_saved = table.embed.forward(tokens, self.tree.embed, context)
        saved = []
        for layer, block in enumerate(self.tree.blocks):
            here = context.at(layer)
            saved.append((table.attention.forward(x, block.attention, here), table.mlp.forward(x, block.mlp, here)))
        loss, dx = table.head_loss(x, targets, self.tree.head, grads.head, context)
        for layer in reversed(range(self.config.n_layer)):
            here = context.at(layer)
            attention_saved, mlp_saved = saved.pop()
            block, grad = self.tree.blocks[layer], grads.blocks[layer]
            table.mlp.backward(dx, mlp_saved, block.mlp, grad.mlp, here)
            table.attention.backward(dx, attention_saved, block.attention, grad.attention, here)
        table.embed.backward(dx, embed_saved, grads.embed)
        return loss

    def update(
        self,
        moments: adamw.Moments,
        hyperparameters: adamw.Hyperparameters,
        *,
        clip: float,
        update_number: int,
        loss_scale: float = 1.0,
        frozen: Sequence[slice] = (),
    ) -> float:
        """Divide the gradients by the scale, clip and apply them, then zero them; return their norm before clipping.

        `frozen` ranges of the parameters stay as they are, and their gradients do not count.
        """
        table = self.backend.table
        for part in frozen:
            self.grads[part].fill(0)
        # A kernel updates what is aligned, and ranges begin anywhere: so frozen ones are put back afterwards.
        kept = [self.params[part].copy() for part in frozen]
        norm = table.norm(self.grads) / loss_scale
        renewed = {} if self._rounded is None else {"rounded": self._rounded}
        table.update(
            self.params,
            self.grads,
            moments,
            hyperparameters,
            n_decayed=self.layout.n_decayed,
            norm=norm,
            clip=clip,
            update_number=update_number,
            loss_scale=loss_scale,
            **renewed,
        )
        for part, values in zip(frozen, kept, strict=True):
            self.params[part] = values
            if self._rounded is not None:
                self._rounded[part] = values[: max(self._rounded.size - part.start, 0)]
        return norm

    def hidden(
        self, tokens: Array, *, keep: Callable[[int, Array, Array], None] | None = None, only_last: bool = False
    ) -> Array:
        """Run all layers: tokens (B, T) -> the residual stream (B, T, C) that the head reads. Raises UsageError.

        `keep` is given each layer's number and its keys and values, each (B, H, T, D), before they are overwritten.
        With `only_last` the result is (B, 1, C), that of the last position: the last MLP is spared the others.
        """
        table = self.backend.table
        context = self._context()
        x, _ = table.embed.forward(self._move(tokens), self.tree.embed, context)
        for layer, block in enumerate(self.tree.blocks):
            saved = table.attention.forward(x, block.attention, context)
            if keep:
                keep(layer, *table.keys_values(saved, block.attention, context))
            if only_last and layer == self.config.n_layer - 1:
                x = x[:, -1:].copy()
            table.mlp.forward(x, block.mlp, context)
        return x

    def logits(self, x: Array) -> Array:
        """Final norm and projection, never in half precision: residual stream (..., C) -> logits (..., V)."""
        normed, _ = layernorm.forward(x, self._head.gain, self._head.bias)
        logits, _ = linear.forward(normed, self._head.weight.T, self._head.logit_bias)
        return logits

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all B · T targets."""
        rows = self.hidden(tokens).reshape(-1, self.config.n_embd)
        answers = self._move(targets).reshape(-1)
        loss, n_correct = 0.0, 0
        n_rows = max(1, EVALUATION_LOGITS[self.backend.name.partition(":")[0]] // self.config.vocab_size)
        for start in range(0, len(rows), n_rows):
            chunk = slice(start, start + n_rows)
            logits = self.logits(rows[chunk])
            losses, _ = cross_entropy.forward(logits, answers[chunk])
            loss += float(losses.sum())
            n_correct += int((logits.argmax(axis=-1) == answers[chunk]).sum())
        return Score(loss, n_correct, targets.size)

    def _context(self, **settings: Any) -> Context:
        """Return what is the same in all layers; without `settings`, for use rather than training."""
        return Context(n_head=self.config.n_head, activation=self.config.activation, **settings)

    def _move(self, ids: Array) -> Array:
        """Bring token ids (B, T) to the model's device, as whole numbers that index. Raises UsageError."""
        if ids.shape[1] > self.config.block_size:
            raise UsageError(
                f"{ids.shape[1]} tokens are more than this model's block_size of {self.config.block_size}."
            )
        moved: Array = self.backend.xp.asarray(ids, dtype="int64")
        return moved


def _only(parts: Sequence[Any]) -> Any:
    """Return the only one of the parts, or None if there are several."""
    return parts[0] if len(parts) == 1 else None
