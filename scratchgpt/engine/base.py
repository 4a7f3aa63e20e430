"""The engine: all that the trainer needs of the hardware that runs its steps."""

import contextlib
from collections.abc import Mapping
from typing import Protocol

from scratchgpt.backend import select
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.loss_scale import LossScale
from scratchgpt.engine.one_device import OneDevice
from scratchgpt.engine.plan import Plan
from scratchgpt.engine.workers import Workers
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import Update


class Engine(Protocol):
    """The state of a run on the device that computes. Every method may raise LaneError and MemoryError.

    A step has phases: `accumulate` once or several times, `reduce`, `norm`, then `update` or `drop`.
    """

    plan: Plan
    note: str  # a sentence for the user, or empty
    gpt: GPT
    slots: Mapping[str, Array]  # (P,) each: what the optimiser's rules keep
    loss_scale: LossScale | None  # in half precision

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Start the workers; stop them on exit."""

    def warm_up(self) -> None:
        """Compile all kernels, so that the first step takes no longer than others."""

    def accumulate(self, tokens: Array, targets: Array, weights: Array | None = None, *, seed: int, step: int) -> float:
        """Return the mean loss in nats of tokens, targets (B, T), NumPy arrays, and add its gradient.

        Targets of -1 do not count. The loss of each other one is multiplied by its weight, if there are weights (B, T),
        and their sum is divided by the number of targets that count.
        """

    def reduce(self) -> Array:
        """Sum the gradients of all workers; return them (P,), in half precision times the loss scale."""

    def norm(self) -> float:
        """Return the norm of the reduced gradients, without the loss scale."""

    def update(self, update: Update) -> None:
        """Move the parameters by the reduced gradients, without the loss scale; zero the gradients."""

    def drop(self) -> None:
        """Zero the gradients instead: they are not finite. In half precision, scale the next ones by less."""

    def device_bytes(self) -> int | None:
        """Return how much memory a GPU's pool holds; None for a CPU."""

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets."""


def open_engine(
    model: ModelConfig,
    train: TrainConfig,
    params: Array,
    slots: Mapping[str, Array],
    plan: Plan,
    *,
    loss_scale: LossScale | None = None,
) -> Engine:
    """Copy the state to where the plan says, for batches of the recipe's size. Raises UsageError and MemoryError."""
    if plan.device == "cpu":
        return Workers(model, train, params, slots, plan)
    backend = select(plan.device, precision=plan.precision)
    return OneDevice(model, train, params, slots, plan, backend=backend, loss_scale=loss_scale or LossScale())
