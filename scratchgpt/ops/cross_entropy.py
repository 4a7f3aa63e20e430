"""Cross-entropy of softmax against one right answer a row. Derivation: cross_entropy.md."""

from typing import NamedTuple

import numpy.typing as npt

from scratchgpt.ops.array import Array, array_module


def weigh(targets: Array, weights: Array | None, dtype: npt.DTypeLike) -> tuple[Array, Array]:
    """Return the targets (N,), and the weight of each one's loss (N,): targets of -1 become 0, of weight 0.

    targets and weights of N numbers, in any shape; without weights, those of all others are 1.
    """
    ids = targets.reshape(-1)
    found = (ids >= 0).astype(dtype)
    if weights is not None:
        found *= weights.reshape(-1)
    return array_module(ids).maximum(ids, 0), found


class Saved(NamedTuple):
    """Values that the backward needs."""

    probabilities: Array  # (N, V)
    targets: Array  # (N,)


def forward(logits: Array, targets: Array) -> tuple[Array, Saved]:
    """lossₙ = log Σᵥ exp logitsₙᵥ - logits[n, targetₙ], in nats, one for each row.

    logits (N, V), targets (N,) whole numbers below V -> losses (N,).
    """
    xp = array_module(logits)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exps = xp.exp(shifted)
    sums = exps.sum(axis=-1, keepdims=True)  # (N, 1): at least 1, for the largest exponential is 1
    losses = xp.log(sums[:, 0]) - shifted[xp.arange(len(targets)), targets]
    return losses, Saved(exps / sums, targets)


def backward(dlosses: Array, saved: Saved) -> Array:
    """dlogits[n] = dlossₙ · (softmax(logitsₙ) - onehot(targetₙ)).

    dlosses (N,) -> dlogits (N, V).
    """
    xp = array_module(dlosses)
    dlogits = saved.probabilities * dlosses[:, None]
    dlogits[xp.arange(len(dlosses)), saved.targets] -= dlosses
    return dlogits
