"""The GPT: embed, L times attention and MLP, head. Forward and backward over the table of sublayers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scratchgpt.backend import Backend
from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.model.params import Layout
from scratchgpt.ops import cross_entropy
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import State
from scratchgpt.ops.table import Grads, Step, Wanted

EVALUATION_LOGITS = {"cpu": 2**22, "gpu": 2**24}
"""Logits computed at once in an evaluation, the largest array there: to fit into a cache, or to keep a GPU busy."""


class Score(NamedTuple):
    """How well a model predicts some targets, summed over them."""

    loss: float  # nats
    n_correct: int  # how often the likeliest token was the right one
    n_targets: int


class Share(NamedTuple):
    """A worker's part of a larger batch."""

    first_sequence: int  # its place in the batch
    n_targets: int  # that count in the whole batch
    n_micro_batches: int  # at least; some without sequences, since workers have to meet


class GPT:
    """A model: its configuration, its flat parameters and gradients, and the table of sublayers that computes."""

    def __init__(self, config: ModelConfig, backend: Backend, *params: Array, freeze: Sequence[str] = ()) -> None:
        """Take over `params` (P,), laid out by `Layout(config)`, as the model's own, on the backend's device.

        They may come in parts, as they lie in a file, for a model that is used and not trained. Where the precision
        keeps copies, matrices are used as rounded copies that each update renews. Tensors whose names fit a pattern of
        `freeze` get no gradient and stay as they are. Raises UsageError.
        """
        self.config = config
        self.layout = Layout(config)
        parts = [backend.to_device(part) for part in params]
        self.params = _only(parts)  # all of them, flat, as training needs them
        self.masters = self.tree = self.layout.tree(*parts)  # of these, the tree may become one of rounded copies
        self.rounded: Array | None = None
        if backend.precision.keeps_copies:
            self.rounded = self.params[: self.layout.n_decayed].astype(backend.precision.matrices)
            self.tree = self.layout.tree(self.rounded, self.params[self.layout.n_decayed :])
        self._grads: Array | None = None
        self._freeze = freeze
        self.use(backend)

    def use(self, backend: Backend) -> None:
        """Compute by another backend of the same device from now on."""
        self.backend, self.table = backend, backend.table(self.config)

    @property
    def grads(self) -> Array:
        """The gradients (P,): zero at first, and after each update; made when they are first needed."""
        if self._grads is None:
            self._grads = self.backend.xp.zeros_like(self.params)
        return self._grads

    def state(self, slots: Mapping[str, Array]) -> State:
        """Return what an update reads and writes: the model's arrays, and what the rules keep, (P,) each."""
        return State(self.params, self.grads, slots, self.rounded)

    def loss_and_grad(
        self,
        tokens: Array,
        targets: Array,
        weights: Array | None = None,
        *,
        seed: int = 0,
        step: int = 0,
        micro_batch: int = 0,
        loss_scale: float = 1.0,
        share: Share | None = None,
        grads: Grads | None = None,
    ) -> float:
        """Return the mean loss in nats and add its gradient to `grads`. Raises UsageError if T is above block_size.

        tokens, targets (B, T) on any device. Targets of -1 do not count; the loss of each other one is multiplied by
        its weight, if there are weights (B, T), and their sum is divided by the number of targets that count. At most
        `micro_batch` sequences are computed at once (0: all); the result does not depend on it, beyond the order of
        float sums. `seed` and `step` determine dropout. The gradient, and not the loss, is multiplied by `loss_scale`.
        The sequences are the whole batch, unless they are a `share` of it. The gradients are the model's own, unless a
        worker gives `grads` of its own.
        """
        B = len(tokens)
        share = share or Share(0, n_counted(targets), 0)
        tokens, targets = self._move(tokens), self._move(targets)
        if weights is not None:
            weights = self.backend.xp.asarray(weights, dtype=self.params.dtype)
        size = micro_batch or max(B, 1)
        grads = grads or self.layout.wanted(self.grads, freeze=self._freeze)
        loss = self.backend.xp.zeros((), self.params.dtype)
        for start in range(0, max(B, share.n_micro_batches * size), size):
            chunk = slice(start, start + size)
            now = Step(
                dropout=self.config.dropout,
                seed=seed,
                step=step,
                sequences=range(share.first_sequence + start, share.first_sequence + min(start + size, B)),
                n_targets=max(share.n_targets, 1),
                loss_scale=loss_scale,
                weights=None if weights is None else weights[chunk],
            )
            loss += self._micro_batch(tokens[chunk], targets[chunk], grads, now)
        return float(loss)

    def _micro_batch(self, tokens: Array, targets: Array, grads: Grads, step: Step) -> Array:
        """Return the loss () and add its gradient. All that is kept for the backward is gone before the next begins."""
        table, blocks = self.table, self.tree.blocks
        x, embed_saved = table.embed.forward(tokens, self.tree.embed, step)
        saved = []
        for layer, block in enumerate(blocks):
            attention_saved = table.attention.forward(x, block.attention, step, layer)
            saved.append((attention_saved, table.mlp.forward(x, block.mlp, step, layer)))
        loss, dx = table.head.loss(x, targets, self.tree.head, grads.head, step)
        for layer in reversed(range(_first_trained(grads), len(blocks))):
            attention_saved, mlp_saved = saved.pop()
            block, grad = blocks[layer], grads.blocks[layer]
            table.mlp.backward(dx, mlp_saved, block.mlp, grad.mlp, step, layer)
            table.attention.backward(dx, attention_saved, block.attention, grad.attention, step, layer)
        if _is_trained(grads.embed):
            table.embed.backward(dx, embed_saved, grads.embed, step)
        return loss

    def hidden(self, tokens: Array) -> Array:
        """Run all layers: tokens (B, T) -> the residual stream (B, T, C) that the head reads. Raises UsageError."""
        table, step = self.table, Step()
        x, _ = table.embed.forward(self._move(tokens), self.tree.embed, step)
        for layer, block in enumerate(self.tree.blocks):
            table.attention.forward(x, block.attention, step, layer)
            table.mlp.forward(x, block.mlp, step, layer)
        return x

    def logits(self, x: Array) -> Array:
        """Final norm and projection, never in half precision: residual stream (..., C) -> logits (..., V)."""
        return self.table.head.logits(x, self.masters.head)

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets that count, those above -1."""
        rows = self.hidden(tokens).reshape(-1, self.config.n_embd)
        ids, weights = cross_entropy.weigh(self._move(targets), None, rows.dtype)
        loss, n_correct = 0.0, 0
        n_rows = max(1, EVALUATION_LOGITS[self.backend.name.partition(":")[0]] // self.config.vocab_size)
        for start in range(0, len(rows), n_rows):
            chunk = slice(start, start + n_rows)
            logits = self.logits(rows[chunk])
            losses, _ = cross_entropy.forward(logits, ids[chunk])
            loss += float((weights[chunk] * losses).sum())
            n_correct += int((weights[chunk] * (logits.argmax(axis=-1) == ids[chunk])).sum())
        return Score(loss, n_correct, n_counted(targets))

    def _move(self, ids: Array) -> Array:
        """Bring token ids (B, T) to the model's device, as whole numbers that index. Raises UsageError."""
        if ids.shape[1] > self.config.block_size:
            raise UsageError(
                f"{ids.shape[1]} tokens are more than this model's block_size of {self.config.block_size}."
            )
        moved: Array = self.backend.xp.asarray(ids, dtype="int64")
        return moved


def n_counted(targets: Array) -> int:
    """Return how many targets count: all but those of -1."""
    return int((targets >= 0).sum())


def _only(parts: Sequence[Any]) -> Any:
    """Return the only one of the parts, or None if there are several."""
    return parts[0] if len(parts) == 1 else None


def _is_trained(grads: Iterable[Wanted]) -> bool:
    """Return whether any of these gradients is wanted."""
    return any(grad is not None for grad in grads)


def _first_trained(grads: Grads) -> int:
    """Return the layer at which a backward can end: no parameter before it is trained."""
    if _is_trained(grads.embed):
        return 0
    trained = (layer for layer, block in enumerate(grads.blocks) if _is_trained((*block.attention, *block.mlp)))
    return next(trained, len(grads.blocks))
