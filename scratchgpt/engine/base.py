"""The engine: all that the trainer needs of the hardware that runs its steps."""

import contextlib
from collections.abc import Sequence
from typing import Protocol

from scratchgpt.backend import select
from scratchgpt.config import ModelConfig
from scratchgpt.engine.loss_scale import LossScale
from scratchgpt.engine.one_device import OneDevice
from scratchgpt.engine.plan import Plan
from scratchgpt.engine.workers import Workers
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array


class Engine(Protocol):
    """The state of a run on the device that computes. Every method may raise LaneError and MemoryError."""

    plan: Plan
    note: str  # a sentence for the user, or empty
    gpt: GPT
    moments: adamw.Moments
    loss_scale: LossScale | None  # in half precision

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Start the workers; stop them on exit."""

    def warm_up(self) -> None:
        """Compile all kernels, so that the first step takes no longer than others."""

    def loss_and_grad(self, tokens: Array, targets: Array, *, seed: int, step: int) -> float:
        """Return the mean loss in nats of tokens, targets (B, T), NumPy arrays, and add its gradient."""

    def update(self, hyperparameters: adamw.Hyperparameters, *, clip: float, update_number: int) -> float:
        """Clip and apply the gradients, then zero them; return their norm before clipping.

        If that is not finite, the gradients are dropped, and in half precision the next ones will be scaled by less.
        """

    def skip(self) -> float:
        """Drop the gradients in place of an update; return NaN."""

    def device_bytes(self) -> int | None:
        """Return how much memory a GPU's pool holds; None for a CPU."""

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets."""


def open_engine(
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
        return Workers(model, params, moments, plan, n_tokens=n_tokens, freeze=freeze)
    backend = select(plan.device, precision=plan.precision)
    scale = loss_scale or LossScale()
    return OneDevice(model, params, moments, plan, backend=backend, loss_scale=scale, freeze=freeze)
