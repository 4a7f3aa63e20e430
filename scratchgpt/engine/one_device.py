"""The engine of a GPU: one device that computes a whole step."""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from scratchgpt.backend import Backend, pool_bytes
from scratchgpt.config import ModelConfig
from scratchgpt.engine.loss_scale import LossScale
from scratchgpt.engine.plan import Plan
from scratchgpt.errors import MemoryShortageError
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array


class OneDevice:
    """A model and the optimizer's moments on one device."""

    note = ""

    def __init__(
        self,
        model: ModelConfig,
        params: Array,
        moments: adamw.Moments,
        plan: Plan,
        *,
        backend: Backend,
        loss_scale: LossScale,
        freeze: Sequence[str] = (),
    ) -> None:
        """Copy the state to the device. Raises MemoryError."""
        self.plan = plan
        self.loss_scale = loss_scale if backend.is_half else None
        self.gpt = GPT(model, backend, params, freeze=freeze)
        self.moments = adamw.Moments(*map(backend.to_device, moments))

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: there are no workers."""
        return contextlib.nullcontext()

    def warm_up(self) -> None:
        """Compute something, so that all kernels are compiled. Raises MemoryError."""
        tokens = np.zeros((1, self.gpt.config.block_size), np.int64)
        self.gpt.loss_and_grad(tokens, tokens)
        self.gpt.grads.fill(0)
        backend, zeros = self.gpt.backend, self.gpt.backend.xp.zeros
        params, grads, *moments = (zeros(8, self.gpt.params.dtype) for _ in range(4))
        rounded = {"rounded": zeros(8, "float16")} if self.gpt.backend.is_half else {}
        backend.update(
            *(params, grads, adamw.Moments(*moments), adamw.Hyperparameters(0.0)),
            n_decayed=8,
            norm=backend.norm(grads),
            clip=1.0,
            update_number=1,
            **rounded,
        )

    def loss_and_grad(self, tokens: Array, targets: Array, *, seed: int, step: int) -> float:
        """Return the mean loss in nats of tokens, targets (B, T), and add its gradient. Raises MemoryError."""
        compute = functools.partial(self.gpt.loss_and_grad, seed=seed, step=step, loss_scale=self._scale)
        try:
            return compute(tokens, targets, micro_batch=self.plan.micro_batch)
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

    def update(self, hyperparameters: adamw.Hyperparameters, *, clip: float, update_number: int) -> float:
        """Clip and apply the gradients, then zero them; return their norm before clipping."""
        norm = self.gpt.update(
            self.moments,
            hyperparameters,
            clip=clip,
            update_number=update_number,
            loss_scale=self._scale,
        )
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after(norm)
        return norm

    def skip(self) -> float:
        """Drop the gradients in place of an update; return NaN."""
        self.gpt.grads.fill(0)
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after(math.nan)
        return math.nan

    def device_bytes(self) -> int:
        """Return how much memory the device's pool holds."""
        return pool_bytes()

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets."""
        return self.gpt.score(tokens, targets)

    @property
    def _scale(self) -> float:
        return 1.0 if self.loss_scale is None else self.loss_scale.value
