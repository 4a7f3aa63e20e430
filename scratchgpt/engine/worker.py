"""One worker: its share of a step, on arrays that all workers see."""

import functools
import math
from collections.abc import Callable
from typing import assert_never

from scratchgpt.backend import cpu, select
from scratchgpt.backend.team import Team
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.messages import Accumulate, Answer, Done, Measure, Norm, Reduce, Request, Value
from scratchgpt.engine.plan import Plan
from scratchgpt.engine.shared import ALIGNMENT, SharedArrays
from scratchgpt.model.gpt import GPT, Score, Share
from scratchgpt.model.groups import apply, groups, overlaps, slot_names, within
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import State, Update


class Worker:
    """A worker's share of the batch, of the gradients and of the parameters. The same in every process."""

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        arrays: SharedArrays,
        plan: Plan,
        *,
        index: int,
        barrier: Callable[[], None],
    ) -> None:
        """Take share number `index`. `barrier` returns when all workers have called it. Raises UsageError."""
        self._arrays, self._index, self._plan = arrays, index, plan
        layout = Layout(model)
        P, S, C, n_workers = layout.size, layout.n_split, model.n_embd, plan.lanes
        team = Team(index, n_workers, barrier, arrays.shared)
        self._backend = functools.cache(functools.partial(select, "cpu", team=team if S and n_workers > 1 else None))
        self.gpt = GPT(model, self._backend(block_bytes=plan.block_bytes), arrays["params"], freeze=train.freeze)
        self._private_grads = arrays["grads"][S:].reshape(n_workers, P - S)
        self._grads = layout.wanted(arrays["grads"][:S], self._private_grads[index], freeze=train.freeze)
        # The ranges that this worker reduces and updates, in the order of the parameters:
        tokens = cpu.vocabulary(model.vocab_size, team)
        tables = [table * model.vocab_size * C for table in range(layout.n_tables)]
        owned = [slice(start + tokens.start * C, start + tokens.stop * C) for start in tables]
        line = ALIGNMENT // 4
        first, stop = ((P - S) * i // n_workers // line * line for i in (index, index + 1))
        self._rest = slice(first, stop if index < n_workers - 1 else P - S)
        owned.append(slice(S + self._rest.start, S + self._rest.stop))
        trained, _ = layout.divide(train.freeze)
        self._trained = overlaps(owned, trained)
        self._groups = within(groups(layout, train), owned)
        slots = {name: arrays[f"slot {name}"] for name in slot_names(layout, train)}
        # Once they are reduced, the gradients are the first P numbers.
        self._state = State(arrays["params"], arrays["grads"][:P], slots)

    def answer(self, request: Request) -> Answer:
        """Do what a request asks for. Raises MemoryError."""
        match request:
            case Accumulate():
                return Value(self._accumulate(request))
            case Reduce():
                self._reduce()
            case Norm():
                return Value(self._sum_of_squares())
            case Update():
                apply(self.gpt.backend.rules, self._groups, self._state, request)
            case Measure():
                return self._measure(request)
            case Plan():  # of as many workers
                self._plan = request
                self.gpt.use(self._backend(block_bytes=request.block_bytes))
            case _:
                assert_never(request)
        return Done()

    def _share(self, B: int, T: int, *names: str) -> tuple[int, list[Array]]:
        """Return the number of this worker's first sequence in the batch, and its part (b, T) of some arrays."""
        first, stop = (B * i // self._plan.lanes for i in (self._index, self._index + 1))
        return first, [self._arrays[name][: B * T].reshape(B, T)[first:stop] for name in names]

    def _accumulate(self, request: Accumulate) -> float:
        """Run forward and backward; return this worker's part of the loss."""
        B, T, seed, step, n_targets, is_weighed = request
        first, arrays = self._share(B, T, "tokens", "targets", *["weights"] * is_weighed)
        n_micro_batches = math.ceil(math.ceil(B / self._plan.lanes) / self._plan.micro_batch)
        return self.gpt.loss_and_grad(
            *arrays,
            seed=seed,
            step=step,
            micro_batch=self._plan.micro_batch,
            share=Share(first, n_targets, n_micro_batches),
            grads=self._grads,
        )

    def _measure(self, request: Measure) -> Score:
        """Measure without learning."""
        _, (tokens, targets) = self._share(*request, "tokens", "targets")
        return self.gpt.score(tokens, targets) if len(tokens) else Score(0.0, 0, 0)

    def _reduce(self) -> None:
        """Sum this worker's part of the gradients over the workers."""
        total, *others = self._private_grads[:, self._rest]
        for other in others:
            total += other
            other.fill(0)

    def _sum_of_squares(self) -> float:
        """Return that of this worker's part of what is trained."""
        return math.fsum(self.gpt.backend.norm(self._state.grads[part]) ** 2 for part in self._trained)
