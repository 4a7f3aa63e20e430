"""Workers: processes that compute one step together, each its share of the batch.

Two threads of one Python process take turns at its interpreter lock between any two NumPy calls; two processes do not.
So every core gets a process of its own, with one BLAS thread. Parameters, moments and gradients lie in memory that all
of them see; the activations of a worker are its own. The steps of an update:

1. Every worker runs forward and backward of its sequences, into gradients of its own. The exceptions are tables with a
   row for each token of a large vocabulary: they have one gradient, and each worker fills its part of it
   (backend/cpu/exchange.py).
2. Every worker sums the gradients of all workers for its slice of the flat array, always in the same order.
3. Every worker applies the optimiser's rules to its slice, once the norm of all slices is known.

Worker 0 is the process that trains. It sends the others requests through pipes and reads their answers from pipes: a
system call is a barrier on any processor, no process spins, the end of a pipe shows that a worker has died, and workers
end when worker 0 dies. Where the system has no such processes or memory, the other workers are threads, which compute
the same bits, only slower.
"""

import contextlib
import functools
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from scratchgpt import processes
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.loss_scale import LossScale
from scratchgpt.engine.messages import (
    Accumulate,
    Answer,
    Barrier,
    Done,
    Failed,
    Measure,
    Message,
    Norm,
    Reduce,
    Request,
    Setup,
    Value,
    decode,
    encode,
)
from scratchgpt.engine.plan import Plan
from scratchgpt.engine.shared import SharedArrays
from scratchgpt.engine.worker import Worker
from scratchgpt.errors import LaneError
from scratchgpt.model.gpt import Score, n_counted
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import Update

END_SECONDS = 1.0
"""For workers to end by themselves."""

AnswerType = TypeVar("AnswerType", bound=Answer)


def serve(
    make: Callable[[Callable[[], None]], Worker],
    receive: Callable[[], Message | None],
    send: Callable[[Message], None],
) -> None:
    """Make a worker, given its barrier, and answer requests until there are no more."""

    def barrier() -> None:
        """Report to worker 0, and wait until it has heard all the others."""
        send(Barrier())
        if receive() is None:
            sys.exit()

    try:
        worker = make(barrier)
        while (request := receive()) is not None:
            send(worker.answer(request))  # type: ignore[arg-type] # worker 0 sends requests between barriers
    except MemoryError as error:
        send(Failed(str(error)))


class _Other(Protocol):
    """Another worker, as worker 0 sees it."""

    def send(self, message: Message) -> None: ...

    def receive(self) -> Message:
        """Return the next message. Raises LaneError if the worker has ended."""

    def dismiss(self) -> None:
        """Send the end of the requests."""

    def join(self, seconds: float) -> None:
        """Wait for a dismissed worker; then end it, if it can be ended."""


class _Process:
    """A worker in a process of its own (worker_main.py)."""

    def __init__(self, setup: Setup, descriptor: int) -> None:
        """Start the process. Raises OSError."""
        self.process = processes.start(
            "scratchgpt.engine.worker_main",
            pass_fds=[descriptor],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            encoding="utf-8",
        )
        self.send(setup)

    def send(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # `receive` notices a worker that has ended
            self.process.stdin.write(encode(message) + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def receive(self) -> Message:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            code = self.process.wait()
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            why = ", as happens when memory runs out" if code == -signal.SIGKILL else ""
            raise LaneError(f"Process {self.process.pid}, one of the run's lanes, {how}{why}.")
        return decode(line)

    def dismiss(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]

    def join(self, seconds: float) -> None:
        """Wait for the process: it ends when its input does, unless it computes."""
        try:
            self.process.wait(seconds)
        except processes.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]


class _Thread:
    """A worker in a thread of this process."""

    def __init__(self, make: Callable[[Callable[[], None]], Worker]) -> None:
        """Start the thread."""
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=[make], daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[Callable[[], None]], Worker]) -> None:
        try:
            with np.errstate(all="ignore"):
                serve(make, self._requests.get, self._answers.put)
        finally:
            self._answers.put(None)

    def send(self, message: Message) -> None:
        self._requests.put(message)

    def receive(self) -> Message:
        message = self._answers.get()
        if message is None:
            raise LaneError("A thread, one of the run's lanes, has failed.")
        return message

    def dismiss(self) -> None:
        self._requests.put(None)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)


class Workers:
    """All workers of a run, worker 0 in this process. A single worker shares nothing and starts no process."""

    def __init__(
        self,
        model: ModelConfig,
        train: TrainConfig,
        params: Array,
        slots: Mapping[str, Array],
        plan: Plan,
    ) -> None:
        """Copy the state into shared memory, for batches of the recipe's size. Raises UsageError and MemoryError."""
        self.plan = plan
        self.loss_scale: LossScale | None = None  # all is in float32
        self.note = ""  # why the workers are threads, if they are
        self._train = train
        self._arrays = self._lay_out(model)
        self.slots: Mapping[str, Array] = {name: self._arrays[f"slot {name}"] for name in slots}
        self._arrays["params"][...] = params
        for name, values in slots.items():
            self.slots[name][...] = values
        self._own = self._make(model, 0, self._meet)
        self._others: list[_Other] = []
        self.gpt = self._own.gpt

    def _lay_out(self, model: ModelConfig) -> SharedArrays:
        """Return the arrays, in memory that processes can share if there are several workers."""
        if self.plan.lanes > 1 and os.name != "posix":
            self._use_threads("this system does not pass memory on to other processes")
        elif self.plan.lanes > 1:
            try:
                return SharedArrays(model, self._train, self.plan.lanes, None)
            except OSError as error:
                self._use_threads(str(error.strerror))
        try:
            return SharedArrays(model, self._train, self.plan.lanes)
        except OSError as error:
            raise MemoryError(
                f"{Layout(model).size:,} parameters, with gradients for each lane, cannot be allocated "
                f"({error.strerror})."
            ) from error

    def _use_threads(self, reason: str) -> None:
        self.note = f"Lanes are threads and not processes, which is slower: {reason}."

    def _make(self, model: ModelConfig, index: int, barrier: Callable[[], None]) -> Worker:
        return Worker(model, self._train, self._arrays, self.plan, index=index, barrier=barrier)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the other workers, and end them afterwards; meanwhile this process too has one BLAS thread."""
        with threadpool_limits(1, user_api="blas"):
            try:
                self._start()
                yield
            finally:
                self._stop()

    def _start(self) -> None:
        others = range(1, self.plan.lanes)
        if not self.note:
            try:
                for index in others:
                    setup = Setup(vars(self.gpt.config), vars(self._train), self.plan, index, self._arrays.descriptor)
                    self._others.append(_Process(setup, self._arrays.descriptor))
            except OSError as error:
                self._use_threads(str(error.strerror))
                self._stop()
        if self.note:
            for index in others:
                self._others.append(_Thread(functools.partial(self._make, self.gpt.config, index)))

    def _stop(self) -> None:
        for other in self._others:
            other.dismiss()
        deadline = time.monotonic() + END_SECONDS
        for other in self._others:
            other.join(max(0.0, deadline - time.monotonic()))
        self._others.clear()

    def warm_up(self) -> None:
        """Do nothing: a CPU's table compiles nothing."""

    def adopt(self, plan: Plan) -> None:
        """Compute by another plan, of as many workers, from now on. Raises LaneError."""
        self.plan = plan
        self._ask(plan, Done)

    def accumulate(self, tokens: Array, targets: Array, weights: Array | None = None, *, seed: int, step: int) -> float:
        """Return the mean loss in nats of tokens, targets (B, T), and add its gradient. Raises LaneError."""
        self._hand_out(tokens=tokens, targets=targets, **{} if weights is None else {"weights": weights})
        B, T = tokens.shape
        request = Accumulate(B, T, seed, step, n_counted(targets), is_weighed=weights is not None)
        return math.fsum(loss.value for loss in self._ask(request, Value))

    def reduce(self) -> Array:
        """Sum the gradients of all workers; return them (P,). Raises LaneError."""
        self._ask(Reduce(), Done)
        return self._arrays["grads"][: self.gpt.layout.size]

    def norm(self) -> float:
        """Return the norm of the reduced gradients. Raises LaneError."""
        return math.sqrt(math.fsum(squares.value for squares in self._ask(Norm(), Value)))

    def update(self, update: Update) -> None:
        """Move the parameters by the reduced gradients; zero the gradients. Raises LaneError."""
        self._ask(update, Done)

    def drop(self) -> None:
        """Zero the gradients instead."""
        self._arrays["grads"].fill(0)

    def device_bytes(self) -> None:
        """Return None: the system reports the memory of processes."""

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets. Raises LaneError."""
        self._hand_out(tokens=tokens, targets=targets)
        losses, n_correct, n_targets = zip(*self._ask(Measure(*tokens.shape), Score), strict=True)
        return Score(math.fsum(losses), sum(n_correct), sum(n_targets))

    def _hand_out(self, **arrays: Array) -> None:
        """Put a batch where all workers see it: arrays (B, T)."""
        for name, values in arrays.items():
            self._arrays[name][: values.size] = values.reshape(-1)

    def _ask(self, request: Request, kind: type[AnswerType]) -> list[AnswerType]:
        """Let every worker do what is asked; return their answers, which are of this kind, worker 0's first."""
        for other in self._others:
            other.send(request)
        answers: list[AnswerType] = []
        for answer in (self._own.answer(request), *self._receive()):
            assert isinstance(answer, kind)  # noqa: S101 - the request decides it
            answers.append(answer)
        return answers

    def _meet(self) -> None:
        """Wait until all workers have come to a point in the middle of their request."""
        self._receive()
        for other in self._others:
            other.send(Barrier())

    def _receive(self) -> list[Message]:
        """Return the next message of each of the other workers. Raises MemoryError and LaneError."""
        messages = [other.receive() for other in self._others]
        if failed := [message for message in messages if isinstance(message, Failed)]:
            raise MemoryError(failed[0].reason)
        return messages
