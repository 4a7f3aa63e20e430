"""The engine of a GPU: one device that computes a whole step."""

import contextlib
import functools
from collections.abc import Callable, Mapping

import numpy as np

from scratchgpt.backend import Backend, pool_bytes
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.loss_scale import LossScale
from scratchgpt.engine.plan import Plan
from scratchgpt.errors import MemoryShortageError
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.model.groups import apply, groups
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import State, Update


class OneDevice:
    """A model, and what the optimiser keeps, on one device."""

    note = ""

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        params: Array,
        slots: Mapping[str, Array],
        plan: Plan,
        *,
        backend: Backend,
        loss_scale: LossScale,
    ) -> None:
        """Copy the state to the device. Raises UsageError and MemoryError."""
        self.plan = plan
        self.loss_scale = loss_scale if backend.precision.has_loss_scale else None
        self.gpt = GPT(model, backend, params, freeze=train.freeze)
        self.slots: Mapping[str, Array] = {name: backend.to_device(values) for name, values in slots.items()}
        self._groups = groups(self.gpt.layout, train)

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: there are no workers."""
        return contextlib.nullcontext()

    def warm_up(self) -> None:
        """Compute something, so that all kernels are compiled. Raises MemoryError."""
        tokens = np.zeros((1, self.gpt.config.block_size), np.int64)
        self.gpt.loss_and_grad(tokens, tokens)
        self.gpt.grads.fill(0)
        backend = self.gpt.backend
        for group in self._groups:
            size = group.span.stop - group.span.start if group.is_whole else 8

            def zeros(size: int = size) -> Array:
                return backend.xp.zeros(size, self.gpt.params.dtype)

            rounded = None if self.gpt.rounded is None else zeros().astype(self.gpt.rounded.dtype)
            state = State(zeros(), zeros(), {name: zeros() for name in self.slots}, rounded)
            span = slice(0, size)
            apply(backend.rules, [group._replace(span=span)], state, Update(learning_rate=0.0, scale=1.0, number=1))
            backend.norm(state.grads)

    def accumulate(self, tokens: Array, targets: Array, weights: Array | None = None, *, seed: int, step: int) -> float:
        """Return the mean loss in nats of tokens, targets (B, T), and add its gradient. Raises MemoryError."""
        compute = functools.partial(self.gpt.loss_and_grad, seed=seed, step=step, loss_scale=self._scale)
        try:
            return compute(tokens, targets, weights, micro_batch=self.plan.micro_batch)
        except MemoryError as error:
            reason = str(error).rstrip(".")
        # Only here, where the error is gone, is the memory free again that its traceback held.
        fitting = self._fitting(compute, tokens, targets)
        self.gpt.grads.fill(0)
        would = f"{fitting} at a time would fit" if fitting else "not even one would fit"
        raise MemoryShortageError(
            f"{self.gpt.backend.name} cannot compute {min(self.plan.micro_batch, len(tokens))} sequences at once "
            f"({reason}); {would}.",
            advice=f"Use --micro-batch {fitting}." if fitting else "",
            page=f"Use a micro_batch of {fitting}." if fitting else "",
        )

    def _fitting(self, compute: Callable[..., float], tokens: Array, targets: Array) -> int:
        """Return how many sequences can be computed at once, found by trying; 0 if not even one."""
        size = min(self.plan.micro_batch, len(tokens)) // 2
        while size:
            with contextlib.suppress(MemoryError):
                compute(tokens, targets, micro_batch=size)
                return size
            size //= 2
        return 0

    def reduce(self) -> Array:
        """Return the gradients (P,), times the loss scale: there is one worker."""
        return self.gpt.grads

    def norm(self) -> float:
        """Return the norm of the gradients, without the loss scale."""
        return self.gpt.backend.norm(self.gpt.grads) / self._scale

    def update(self, update: Update) -> None:
        """Move the parameters by the gradients, without the loss scale; zero the gradients."""
        unscaled = update._replace(scale=update.scale / self._scale)
        apply(self.gpt.backend.rules, self._groups, self.gpt.state(self.slots), unscaled)
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after_update()

    def drop(self) -> None:
        """Zero the gradients instead. In half precision, scale the next ones by less."""
        self.gpt.grads.fill(0)
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after_overflow()

    def device_bytes(self) -> int:
        """Return how much memory the device's pool holds."""
        return pool_bytes()

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets."""
        return self.gpt.score(tokens, targets)

    @property
    def _scale(self) -> float:
        return 1.0 if self.loss_scale is None else self.loss_scale.value
