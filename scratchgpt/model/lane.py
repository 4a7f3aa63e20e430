"""One lane: its share of a step's work, on arrays that all lanes see."""

import errno
import functools
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchgpt.backend import cpu, select
from scratchgpt.backend.team import Team
from scratchgpt.config import ModelConfig
from scratchgpt.machine import available_memory
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.model.params import Layout
from scratchgpt.model.plan import Plan
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array

ALIGNMENT = 64
"""Bytes: a cache line, which two lanes should not both write into."""

PRIVATE = -1

Barrier = Callable[[], None]


class SharedArrays:
    """The arrays of a run, in memory without a name: it vanishes with the last process that maps it."""

    def __init__(self, model: ModelConfig, n_lanes: int, n_tokens: int, descriptor: int | None = PRIVATE) -> None:
        """Lay out arrays for batches of up to `n_tokens`, in the memory of a descriptor. Raises OSError.

        PRIVATE stands for memory that only this process sees; None for new memory with a descriptor.
        """
        layout = Layout(model)
        P, S = layout.size, layout.n_split
        shapes: cpu.Shapes = {
            "params": (np.float32, (P,)),
            "first": (np.float32, (P,)),
            "second": (np.float32, (P,)),
            "grads": (np.float32, (S + n_lanes * (P - S),)),  # what all share, then what each lane has to itself
            "tokens": (np.int64, (n_tokens,)),
            "targets": (np.int64, (n_tokens,)),
        }
        if n_lanes > 1 and layout.n_split:
            shapes |= cpu.shapes(model.n_embd, n_lanes)
        sizes = {name: math.prod(shape) * np.dtype(dtype).itemsize for name, (dtype, shape) in shapes.items()}
        padded = {name: -(-size // ALIGNMENT) * ALIGNMENT for name, size in sizes.items()}
        size = sum(padded.values())
        if descriptor in (None, PRIVATE) and size > available_memory():
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self.descriptor = _reserve(size) if descriptor is None else descriptor
        if self.descriptor != PRIVATE:  # the memory is there as long as one of its descriptors is
            weakref.finalize(self, os.close, self.descriptor)
        memory = mmap.mmap(self.descriptor, size)
        self._arrays: dict[str, Array] = {}
        start = 0
        for name, (dtype, shape) in shapes.items():
            self._arrays[name] = np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
            start += padded[name]

    def __getitem__(self, name: str) -> Array:
        """Return an array by its name."""
        return self._arrays[name]

    def shared(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return the array of this name. It has been laid out before, of this shape and type. Raises ValueError."""
        array = self._arrays[name]
        if (array.shape, array.dtype) != (shape, dtype):
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not {dtype} {shape}")
        return array


def _reserve(size: int) -> int:
    """Return a descriptor of so many bytes of memory, really there and zero. Raises OSError."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("scratchgpt")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        if hasattr(os, "posix_fallocate"):  # otherwise too small a memory would kill later, without a word
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Lane:
    """One lane's part of the work. The same in every process."""

    def __init__(
        self,
        model: ModelConfig,
        arrays: SharedArrays,
        plan: Plan,
        *,
        index: int,
        barrier: Barrier,
        freeze: Sequence[str] = (),
    ) -> None:
        """Take the share number `index` of the plan's lanes, which meet at the `barrier`. Raises UsageError."""
        self.arrays, self.index, self.plan = arrays, index, plan
        layout = Layout(model)
        P, S, C, n_lanes = layout.size, layout.n_split, model.n_embd, plan.lanes
        team = Team(index, n_lanes, barrier, arrays.shared)
        self._backend = functools.cache(functools.partial(select, "cpu", team=team if S and n_lanes > 1 else None))
        self.gpt = GPT(model, self._backend(block_bytes=plan.block_bytes), arrays["params"])
        self._private_grads = arrays["grads"][S:].reshape(n_lanes, P - S)
        self._grads = layout.tree(arrays["grads"][:S], self._private_grads[index])
        # What this lane reduces and updates, in the order of the parameters:
        tokens = cpu.vocabulary(model.vocab_size, team)
        tables = [table * model.vocab_size * C for table in range(layout.n_tables)]
        owned = [slice(start + tokens.start * C, start + tokens.stop * C) for start in tables]
        line = ALIGNMENT // 4
        first, stop = ((P - S) * i // n_lanes // line * line for i in (index, index + 1))
        self._rest = slice(first, stop if index < n_lanes - 1 else P - S)
        owned.append(slice(S + self._rest.start, S + self._rest.stop))
        self._trained, self._frozen = (_overlaps(owned, ranges) for ranges in layout.divide(freeze))

    def adopt(self, **plan: Any) -> None:
        """Compute by another plan from now on. It is of as many lanes."""
        self.plan = Plan(**plan)
        self.gpt.backend = self._backend(block_bytes=self.plan.block_bytes)

    def _share(self, B: int, T: int) -> tuple[int, Array, Array]:
        """Return this lane's sequences of the batch: the first one's number, tokens and targets (b, T)."""
        first, stop = (B * i // self.plan.lanes for i in (self.index, self.index + 1))
        tokens, targets = (self.arrays[name][: B * T].reshape(B, T)[first:stop] for name in ("tokens", "targets"))
        return first, tokens, targets

    def gradient(self, *, B: int, T: int, seed: int, step: int) -> float:
        """Compute forward and backward; return this lane's part of the loss."""
        first, tokens, targets = self._share(B, T)
        return self.gpt.loss_and_grad(
            tokens,
            targets,
            seed=seed,
            step=step,
            micro_batch=self.plan.micro_batch,
            first_sequence=first,
            n_targets=B * T,
            n_micro_batches=math.ceil(math.ceil(B / self.plan.lanes) / self.plan.micro_batch),
            grads=self._grads,
        )

    def score(self, *, B: int, T: int) -> Score:
        """Measure without learning."""
        _, tokens, targets = self._share(B, T)
        return self.gpt.score(tokens, targets) if len(tokens) else Score(0.0, 0, 0)

    def reduce(self) -> float:
        """Sum this lane's part of the gradients over the lanes; return the sum of squares of what is trained."""
        total, *others = self._private_grads[:, self._rest]
        for other in others:
            total += other
            other.fill(0)
        return math.fsum(self.gpt.backend.table.norm(self.arrays["grads"][part]) ** 2 for part in self._trained)

    def update(self, *, norm: float, clip: float, update_number: int, hyperparameters: list[float]) -> None:
        """Update this lane's part of the parameters."""
        for part in self._trained:
            params, grads, first, second = (self.arrays[name][part] for name in ("params", "grads", "first", "second"))
            self.gpt.backend.table.update(
                params,
                grads,
                adamw.Moments(first, second),
                adamw.Hyperparameters(*hyperparameters),
                n_decayed=min(max(self.gpt.layout.n_decayed - part.start, 0), params.size),
                norm=norm,
                clip=clip,
                update_number=update_number,
            )
        for part in self._frozen:
            self.arrays["grads"][part].fill(0)


def _overlaps(some: Sequence[slice], others: Sequence[slice]) -> list[slice]:
    """Return the ranges that lie both in one of `some` and in one of `others`."""
    pairs = ((max(a.start, b.start), min(a.stop, b.stop)) for a in some for b in others)
    return [slice(start, stop) for start, stop in pairs if start < stop]
