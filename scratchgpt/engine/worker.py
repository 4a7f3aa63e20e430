"""One worker: its share of a step, on arrays that all workers see."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import assert_never

from scratchgpt.backend import cpu, select
from scratchgpt.backend.team import Team
from scratchgpt.config import ModelConfig
from scratchgpt.engine.messages import Answer, Done, Gradient, Measure, Reduce, Request, Update, Value
from scratchgpt.engine.plan import Plan
from scratchgpt.engine.shared import ALIGNMENT, SharedArrays
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.model.params import Layout
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array


class Worker:
    """A worker's share of the batch, of the gradients and of the parameters. The same in every process."""

    def __init__(
        self,
        model: ModelConfig,
        arrays: SharedArrays,
        plan: Plan,
        *,
        index: int,
        barrier: Callable[[], None],
        freeze: Sequence[str] = (),
    ) -> None:
        """Take share number `index`. `barrier` returns when all workers have called it. Raises UsageError."""
        self._arrays, self._index, self._plan = arrays, index, plan
        layout = Layout(model)
        P, S, C, n_workers = layout.size, layout.n_split, model.n_embd, plan.lanes
        team = Team(index, n_workers, barrier, arrays.shared)
        self._backend = functools.cache(functools.partial(select, "cpu", team=team if S and n_workers > 1 else None))
        self.gpt = GPT(model, self._backend(block_bytes=plan.block_bytes), arrays["params"], freeze=freeze)
        self._private_grads = arrays["grads"][S:].reshape(n_workers, P - S)
        self._grads = layout.wanted(arrays["grads"][:S], self._private_grads[index], freeze=freeze)
        # The ranges that this worker reduces and updates, in the order of the parameters:
        tokens = cpu.vocabulary(model.vocab_size, team)
        tables = [table * model.vocab_size * C for table in range(layout.n_tables)]
        owned = [slice(start + tokens.start * C, start + tokens.stop * C) for start in tables]
        line = ALIGNMENT // 4
        first, stop = ((P - S) * i // n_workers // line * line for i in (index, index + 1))
        self._rest = slice(first, stop if index < n_workers - 1 else P - S)
        owned.append(slice(S + self._rest.start, S + self._rest.stop))
        trained, _ = layout.divide(freeze)
        self._trained = _overlaps(owned, trained)

    def answer(self, request: Request) -> Answer:
        """Do what a request asks for. Raises MemoryError."""
        match request:
            case Gradient():
                return Value(self._gradient(request))
            case Reduce():
                return Value(self._reduce())
            case Update():
                self._update(request)
            case Measure():
                return self._measure(request)
            case Plan():  # of as many workers
                self._plan = request
                self.gpt.use(self._backend(block_bytes=request.block_bytes))
            case _:
                assert_never(request)
        return Done()

    def _share(self, B: int, T: int) -> tuple[int, Array, Array]:
        """Return this worker's sequences of the batch: the first one's number, tokens and targets (b, T)."""
        first, stop = (B * i // self._plan.lanes for i in (self._index, self._index + 1))
        tokens, targets = (self._arrays[name][: B * T].reshape(B, T)[first:stop] for name in ("tokens", "targets"))
        return first, tokens, targets

    def _gradient(self, request: Gradient) -> float:
        """Run forward and backward; return this worker's part of the loss."""
        B, T, seed, step = request
        first, tokens, targets = self._share(B, T)
        return self.gpt.loss_and_grad(
            tokens,
            targets,
            seed=seed,
            step=step,
            micro_batch=self._plan.micro_batch,
            first_sequence=first,
            n_targets=B * T,
            n_micro_batches=math.ceil(math.ceil(B / self._plan.lanes) / self._plan.micro_batch),
            grads=self._grads,
        )

    def _measure(self, request: Measure) -> Score:
        """Measure without learning."""
        _, tokens, targets = self._share(*request)
        return self.gpt.score(tokens, targets) if len(tokens) else Score(0.0, 0, 0)

    def _reduce(self) -> float:
        """Sum this worker's part of the gradients over the workers; return the sum of squares of what is trained."""
        total, *others = self._private_grads[:, self._rest]
        for other in others:
            total += other
            other.fill(0)
        return math.fsum(self.gpt.backend.norm(self._arrays["grads"][part]) ** 2 for part in self._trained)

    def _update(self, request: Update) -> None:
        """Update this worker's part of the parameters."""
        for part in self._trained:
            params, grads, first, second = (self._arrays[name][part] for name in ("params", "grads", "first", "second"))
            self.gpt.backend.update(
                params,
                grads,
                adamw.Moments(first, second),
                request.hyperparameters,
                n_decayed=min(max(self.gpt.layout.n_decayed - part.start, 0), params.size),
                norm=request.norm,
                clip=request.clip,
                update_number=request.update_number,
            )


def _overlaps(some: Sequence[slice], others: Sequence[slice]) -> list[slice]:
    """Return the ranges that lie both in one of `some` and in one of `others`."""
    pairs = ((max(a.start, b.start), min(a.stop, b.stop)) for a in some for b in others)
    return [slice(start, stop) for start, stop in pairs if start < stop]
