"""What trains a model by a plan: the lanes of a CPU, or one GPU alone."""

import contextlib
from collections.abc import Sequence
from typing import Protocol

from scratchgpt.backend import select
from scratchgpt.config import ModelConfig
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.model.lanes import Lanes
from scratchgpt.model.loss_scale import LossScale
from scratchgpt.model.plan import Plan
from scratchgpt.model.solo import Solo
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array


class Engine(Protocol):
    """The state of a run where it is computed with. Every method may raise LaneError and MemoryError."""

    plan: Plan
    note: str  # something that a person may want to know, or nothing
    gpt: GPT
    moments: adamw.Moments
    loss_scale: LossScale | None  # in half precision

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Have all that it takes to compute while this context lasts."""

    def loss_and_grad(self, tokens: Array, targets: Array, *, seed: int, step: int) -> float:
        """Return the mean loss in nats of tokens, targets (B, T), NumPy arrays, and add its gradient."""

    def update(self, hyperparameters: adamw.Hyperparameters, *, clip: float, update_number: int) -> float:
        """Clip and apply the gradients, then zero them; return their norm before clipping.

        If that is not finite, the gradients are dropped, and in half precision the next ones will be scaled by less.
        """

    def skip(self) -> float:
        """Drop the gradients in place of an update; return a norm that is none."""

    def device_bytes(self) -> int | None:
        """Return how much memory a GPU's pool holds; None for a CPU."""

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets."""


def engine(
    model: ModelConfig,
    params: Array,
    moments: adamw.Moments,
    plan: Plan,
    *,
    n_tokens: int,
    loss_scale: LossScale | None = None,
    freeze: Sequence[str] = (),
) -> Engine:
    """Copy the state to where the plan says, for batches of up to `n_tokens`. Raises UsageError and MemoryError.

    Tensors whose names fit a pattern of `freeze` stay as they are.
    """
    if plan.device == "cpu":
        return Lanes(model, params, moments, plan, n_tokens=n_tokens, freeze=freeze)
    backend = select(plan.device, precision=plan.precision)
    return Solo(model, params, moments, plan, backend=backend, loss_scale=loss_scale or LossScale(), freeze=freeze)
