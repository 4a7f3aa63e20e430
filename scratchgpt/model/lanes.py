"""Lanes: processes that compute one step together, each its share of the batch.

Two threads of one Python process take turns at its interpreter lock between any two NumPy calls; two processes do not.
So every core gets a process of its own, with one BLAS thread. Parameters, moments and gradients lie in memory that all
of them see; what a lane computes on the way is its own. A step goes:

1. every lane: forward and backward of its sequences, into gradients of its own; only the gradients of tables with a row
   for each token of a large vocabulary are common to all, and each lane fills its part (backend/cpu/exchange.py)
2. every lane: for its slice of the flat array, sum the gradients of all lanes, always in the same order
3. every lane: AdamW on its slice, once the norm of all slices is known

Lane 0 is the process that trains. It tells the others what to do by a line of JSON down a pipe, and hears back the
same way: a system call is a barrier on any processor, nobody spins, a lane that dies is noticed as the end of its
pipe, and lanes whose lane 0 dies end with theirs.
"""

import contextlib
import json
import math
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from scratchgpt.backend import Backend, cpu, select
from scratchgpt.backend.team import Team
from scratchgpt.config import ModelConfig
from scratchgpt.errors import TrainingError
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.model.params import Layout
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array

ALIGNMENT = 64
"""Bytes: a cache line, which two lanes should not both write into."""

MOST_LANES = 64

Barrier = Callable[[], None]

CACHE_ROWS = 512
"""Rows (sequences times their length) that a lane computes at once, unless told otherwise."""


def default_lanes() -> int:
    """Return how many lanes this machine is best used with: one for each core that this process may use."""
    if os.name != "posix":  # there is no passing of memory by descriptor
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_LANES)


class SharedArrays:
    """The arrays of a run, in anonymous memory that other processes can map: it vanishes with the last of them."""

    def __init__(self, model: ModelConfig, n_lanes: int, n_tokens: int, descriptor: int | None = None) -> None:
        """Lay out arrays for batches of up to `n_tokens`, in new memory or that of a descriptor. Raises OSError."""
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
        if descriptor is None:  # one lane needs no memory that others can see, and no system feature for it
            descriptor = _reserve(size) if n_lanes > 1 else -1
        self.descriptor = descriptor
        memory = mmap.mmap(descriptor, size)
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
    if hasattr(os, "posix_fallocate"):  # otherwise too small a memory would kill later, without a word
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
    return descriptor


class Lane:
    """One lane's part of the work, on arrays that all lanes share. The same in every process."""

    def __init__(
        self, model: ModelConfig, backend: Backend, arrays: SharedArrays, index: int, n_lanes: int, barrier: Barrier
    ) -> None:
        """Take the share number `index` of `n_lanes`, which meet at the `barrier`."""
        self.arrays, self.index, self.n_lanes = arrays, index, n_lanes
        layout = Layout(model)
        P, S, C = layout.size, layout.n_split, model.n_embd
        team = Team(index, n_lanes, barrier, arrays.shared)
        if S and n_lanes > 1:
            backend = select(backend.name, team)
        self.gpt = GPT(model, backend, arrays["params"])
        self._private_grads = arrays["grads"][S:].reshape(n_lanes, P - S)
        self._grads = layout.tree(arrays["grads"][:S], self._private_grads[index])
        # What this lane reduces and updates, in the order of the parameters:
        tokens = cpu.vocabulary(model.vocab_size, team)
        tables = [table * model.vocab_size * C for table in range(layout.n_tables)]
        self._owned = [slice(start + tokens.start * C, start + tokens.stop * C) for start in tables]
        line = ALIGNMENT // 4
        first, stop = ((P - S) * i // n_lanes // line * line for i in (index, index + 1))
        self._rest = slice(first, stop if index < n_lanes - 1 else P - S)

    def _share(self, B: int, T: int) -> tuple[int, Array, Array]:
        """Return this lane's sequences of the batch: the first one's number, tokens and targets (b, T)."""
        first, stop = (B * i // self.n_lanes for i in (self.index, self.index + 1))
        tokens, targets = (self.arrays[name][: B * T].reshape(B, T)[first:stop] for name in ("tokens", "targets"))
        return first, tokens, targets

    def gradient(self, *, B: int, T: int, seed: int, step: int, micro_batch: int) -> float:
        """Compute forward and backward; return this lane's part of the loss."""
        first, tokens, targets = self._share(B, T)
        size = micro_batch or max(1, CACHE_ROWS // T)
        return self.gpt.loss_and_grad(
            tokens,
            targets,
            seed=seed,
            step=step,
            micro_batch=size,
            first_sequence=first,
            n_targets=B * T,
            n_micro_batches=math.ceil(math.ceil(B / self.n_lanes) / size),
            grads=self._grads,
        )

    def score(self, *, B: int, T: int) -> Score:
        """Measure without learning."""
        _, tokens, targets = self._share(B, T)
        return self.gpt.score(tokens, targets) if len(tokens) else Score(0.0, 0, 0)

    def reduce(self) -> float:
        """Sum this lane's part of the gradients over the lanes; return its sum of squares."""
        total, *others = self._private_grads[:, self._rest]
        for other in others:
            total += other
            other.fill(0)
        owned = (self.arrays["grads"][part] for part in self._owned)
        return math.fsum(adamw.norm(part) ** 2 for part in (*owned, total))

    def update(self, *, norm: float, clip: float, update_number: int, hyperparameters: list[float]) -> None:
        """Update this lane's part of the parameters."""
        layout = self.gpt.layout
        rest = slice(layout.n_split + self._rest.start, layout.n_split + self._rest.stop)
        for part in (*self._owned, rest):
            params, grads, first, second = (self.arrays[name][part] for name in ("params", "grads", "first", "second"))
            self.gpt.backend.table.update(
                params,
                grads,
                adamw.Moments(first, second),
                adamw.Hyperparameters(*hyperparameters),
                n_decayed=min(max(layout.n_decayed - part.start, 0), params.size),
                norm=norm,
                clip=clip,
                update_number=update_number,
            )


class Lanes:
    """All lanes of a run, lane 0 in this process. With one lane, nothing is shared and nobody else is started."""

    def __init__(
        self,
        model: ModelConfig,
        backend: Backend,
        params: Array,
        moments: adamw.Moments,
        *,
        n_lanes: int,
        n_tokens: int,
    ) -> None:
        """Copy the state into shared memory, for batches of up to `n_tokens`. Raises TrainingError."""
        try:
            self._arrays = SharedArrays(model, n_lanes, n_tokens)
        except OSError as error:
            raise TrainingError(
                f"Cannot reserve memory for {n_lanes} lanes: {error.strerror}; try --lanes 1."
            ) from error
        for name, values in (("params", params), ("first", moments.first), ("second", moments.second)):
            self._arrays[name][...] = values
        self._lane = Lane(model, backend, self._arrays, 0, n_lanes, self._barrier)
        self._workers: list[subprocess.Popen[str]] = []
        self._n_tokens = n_tokens
        self.n_lanes = n_lanes
        self.gpt = self._lane.gpt
        self.moments = adamw.Moments(self._arrays["first"], self._arrays["second"])

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the other lanes, and end them afterwards; meanwhile this process too has one BLAS thread."""
        with threadpool_limits(1, user_api="blas"):
            try:
                for index in range(1, self.n_lanes):
                    self._workers.append(self._start(index))
                yield
            finally:
                self._stop()

    def _stop(self) -> None:
        """Close the pipes: at the end of theirs, lanes end."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.stdin.close()  # type: ignore[union-attr]
        for worker in self._workers:
            worker.wait()
            worker.stdout.close()  # type: ignore[union-attr]
        self._workers.clear()

    def _start(self, index: int) -> "subprocess.Popen[str]":
        worker = subprocess.Popen(
            [sys.executable, "-m", "scratchgpt.model.lane_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._arrays.descriptor],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            cwd=Path(__file__).parent.parent.parent,  # where this package is, installed or not
            encoding="utf-8",
        )
        task = {
            "model": vars(self.gpt.config),
            "index": index,
            "n_lanes": self.n_lanes,
            "n_tokens": self._n_tokens,
            "descriptor": self._arrays.descriptor,
        }
        self._tell(worker, task)
        return worker

    def loss_and_grad(self, tokens: Array, targets: Array, *, seed: int, step: int, micro_batch: int) -> float:
        """Return the mean loss in nats of tokens, targets (B, T), and add its gradient. Raises TrainingError."""
        self._hand_out(tokens, targets)
        B, T = tokens.shape
        return math.fsum(self._do("gradient", B=B, T=T, seed=seed, step=step, micro_batch=micro_batch))

    def update(self, hyperparameters: adamw.Hyperparameters, *, clip: float, update_number: int) -> float:
        """Clip and apply the gradients, then zero them; return their norm before clipping. Raises TrainingError."""
        norm = math.sqrt(math.fsum(self._do("reduce")))
        self._do("update", norm=norm, clip=clip, update_number=update_number, hyperparameters=list(hyperparameters))
        return norm

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets. Raises TrainingError."""
        self._hand_out(tokens, targets)
        B, T = tokens.shape
        losses, n_correct, n_targets = zip(*self._do("score", B=B, T=T), strict=True)
        return Score(math.fsum(losses), sum(n_correct), sum(n_targets))

    def _hand_out(self, tokens: Array, targets: Array) -> None:
        """Put a batch where all lanes see it."""
        for name, values in (("tokens", tokens), ("targets", targets)):
            self._arrays[name][: values.size] = values.reshape(-1)

    def _do(self, task: str, **arguments: Any) -> list[Any]:
        """Let every lane do a task; return what each of them returns, lane 0 first."""
        for worker in self._workers:
            self._tell(worker, {"task": task, "arguments": arguments})
        own = getattr(self._lane, task)(**arguments)
        return [own, *self._hear()]

    def _barrier(self) -> None:
        """Wait until all lanes have come to a point in the middle of their task."""
        self._hear()
        for worker in self._workers:
            self._tell(worker, {})

    def _hear(self) -> list[Any]:
        """Return what each of the other lanes says next."""
        answers = []
        for index, worker in enumerate(self._workers, start=1):
            line = worker.stdout.readline()  # type: ignore[union-attr]
            if not line:
                raise TrainingError(f"Lane {index} has ended ({worker.wait()}); its memory may have run out.")
            answers.append(json.loads(line))
        return answers

    def _tell(self, worker: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
        try:
            worker.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            worker.stdin.flush()  # type: ignore[union-attr]
        except OSError as error:
            raise TrainingError(f"A lane has ended ({worker.wait()}).") from error
