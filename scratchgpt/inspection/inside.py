"""What a model does with a text: where each head looks, how likely each token was, and what else was likely."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.errors import UsageError
from scratchgpt.model.gpt import EVALUATION_LOGITS, GPT
from scratchgpt.ops import cross_entropy
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import sublayers
from scratchgpt.ops.table import Step

TOKENS_AT_ONCE = 2048
"""About so many tokens are computed together, as short windows alone would not keep a processor busy."""


class Predicted(NamedTuple):
    """What a model said of N tokens that follow each other in a text."""

    losses: npt.NDArray[np.float32]  # (N,): -log of each token's probability, in nats
    tokens: npt.NDArray[np.int64]  # (N, k): the likeliest in each place, the likeliest first
    probabilities: npt.NDArray[np.float32]  # (N, k): theirs


def attention_maps(model: GPT, ids: npt.ArrayLike) -> Array:
    """Return the attention weights of ids (T,) in all layers and heads: (L, H, T, T), a NumPy array.

    Row t says how position t divides its attention among positions 0 to t: it sums to 1, with 0 above the diagonal.
    The reference ops compute it, since the fast ones keep no such weights. Raises UsageError if T is 0 or above
    block_size.
    """
    tokens = _checked(ids)
    if tokens.size > model.config.block_size:
        raise UsageError(f"{tokens.size} tokens are more than this model's block_size of {model.config.block_size}.")
    (embed, attention, mlp, _), step = sublayers(model.config), Step()
    x, _ = embed.forward(model.backend.xp.asarray(tokens[None]), model.tree.embed, step)
    maps = np.empty((model.config.n_layer, model.config.n_head, tokens.size, tokens.size), x.dtype)
    for layer, block in enumerate(model.tree.blocks):
        saved = attention.forward(x, block.attention, step, layer)
        maps[layer] = model.backend.to_numpy(saved.attention.probabilities[0])
        mlp.forward(x, block.mlp, step, layer)
    return maps


def without_future(maps: Array) -> Array:
    """Return maps (..., T, T) with NaN above the diagonal: where a head cannot look, and not only does not."""
    return np.where(np.tri(maps.shape[-1], dtype=bool), maps, np.nan)


def next_tokens(
    model: GPT, ids: npt.ArrayLike, k: int, unused: Sequence[int] = ()
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the k likeliest tokens after ids (T,), the likeliest first, and their probabilities: (k,) each.

    Of a longer text the model sees the last block_size tokens. Ids that are `unused` are left out. Raises UsageError if
    T is 0.
    """
    tokens = _checked(ids)[None, -model.config.block_size :]
    logits = model.logits(model.hidden(tokens)[0, -1:])
    _, saved = cross_entropy.forward(logits, model.backend.xp.zeros(1, "int64"))
    likeliest, probabilities = _top(model.backend.to_numpy(saved.probabilities), k, unused)
    return likeliest[0], probabilities[0]


def token_losses(model: GPT, ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the loss in nats of each of ids (N,) but the first: (N - 1,). Raises UsageError if N is 0."""
    return joined(predictions(model, ids, 0)).losses


def joined(parts: Iterable[Predicted]) -> Predicted:
    """Return parts that follow each other, at least one, as one."""
    return Predicted(*map(np.concatenate, zip(*parts, strict=True)))


def predictions(model: GPT, ids: npt.ArrayLike, k: int, unused: Sequence[int] = ()) -> Iterator[Predicted]:
    """Yield what the model says of ids (N,) but the first, part by part, with the k likeliest in each place.

    What is longer than block_size is read in windows of that length, each half a window after the one before; of each
    only what no earlier one has predicted counts, so that each token is predicted from half a window or more, or from
    all there is before it. Ids that are `unused` are not among the likeliest. There is at least one part. Raises
    UsageError if N is 0.
    """
    tokens = _checked(ids)
    T = min(model.config.block_size, len(tokens) - 1)
    if not T:
        yield Predicted(np.empty(0, np.float32), np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        return
    stride, last = max(T // 2, 1), len(tokens) - 1 - T
    starts = np.minimum(np.arange(0, last + stride, stride), last)
    n_done = 0
    size = max(1, TOKENS_AT_ONCE // T)
    for first in range(0, len(starts), size):
        places = starts[first : first + size, None] + np.arange(T)
        hidden = model.hidden(tokens[places])
        for row, start in enumerate(places[:, 0].tolist()):
            rows = hidden[row, n_done - start :]
            yield from _predicted(model, rows, tokens[n_done + 1 : start + T + 1], k, unused)
            n_done = start + T


def _predicted(
    model: GPT, rows: Array, targets: npt.NDArray[np.int64], k: int, unused: Sequence[int]
) -> Iterator[Predicted]:
    """Yield what the residual stream (N, C) says of targets (N,), as many at once as memory should take."""
    n_rows = max(1, EVALUATION_LOGITS[model.backend.name.partition(":")[0]] // model.config.vocab_size)
    for start in range(0, len(targets), n_rows):
        chunk = slice(start, start + n_rows)
        losses, saved = cross_entropy.forward(model.logits(rows[chunk]), model.backend.xp.asarray(targets[chunk]))
        top = _top(model.backend.to_numpy(saved.probabilities), k, unused)
        yield Predicted(model.backend.to_numpy(losses), *top)


def _top(probabilities: Array, k: int, unused: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the k likeliest tokens, or all that are used, and their probabilities: (N, V) -> (N, k) each."""
    V = probabilities.shape[-1]
    k = min(k, V - len(unused))
    if unused:
        probabilities = probabilities.copy()
        probabilities[:, list(unused)] = -1
    tokens = np.argpartition(probabilities, V - max(k, 1), axis=-1)[:, V - k :]
    order = np.argsort(-np.take_along_axis(probabilities, tokens, axis=-1), axis=-1, kind="stable")
    tokens = np.take_along_axis(tokens, order, axis=-1)
    return tokens, np.take_along_axis(probabilities, tokens, axis=-1)


def _checked(ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return ids as an array. Raises UsageError if there are none."""
    tokens = np.asarray(ids, np.int64)
    if not tokens.size:
        raise UsageError("The text is empty; give at least one character.")
    return tokens
