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
pipe, and lanes whose lane 0 dies end with theirs. Where processes or memory to share with them are not to be had, the
other lanes are threads, which compute the same to the last bit, only slower.
"""

import contextlib
import functools
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from scratchgpt.config import ModelConfig
from scratchgpt.errors import LaneError
from scratchgpt.model.gpt import Score
from scratchgpt.model.lane import Barrier, Lane, SharedArrays
from scratchgpt.model.loss_scale import LossScale
from scratchgpt.model.params import Layout
from scratchgpt.model.plan import Plan
from scratchgpt.ops import adamw
from scratchgpt.ops.array import Array

PATIENCE = 1.0
"""Seconds that lanes are given to end by themselves."""

Message = dict[str, Any]


def serve(make: Callable[[Barrier], Lane], hear: Callable[[], Message | None], say: Callable[[Message], None]) -> None:
    """Live as a lane: do what is asked, a task a message, until there are no more."""

    def barrier() -> None:
        """Wait until all lanes are here: say so, and wait for lane 0 to have heard it of all."""
        say({"here": True})
        if hear() is None:
            sys.exit()

    try:
        lane = make(barrier)
        while (message := hear()) is not None:
            say({"result": getattr(lane, message["task"])(**message["arguments"])})
    except MemoryError as error:
        say({"error": str(error)})


class _Worker(Protocol):
    """Another lane, as lane 0 sees it."""

    def tell(self, message: Message) -> None: ...

    def hear(self) -> Message:
        """Return what the lane says next. Raises LaneError if it says nothing any more."""

    def dismiss(self) -> None:
        """Tell the lane that there are no more tasks."""

    def stop(self, patience: float) -> None:
        """Wait so many seconds for a lane that has been dismissed; then end it, if that can be done."""


class _Process:
    """A lane in a process of its own (lane_worker.py)."""

    def __init__(self, setup: Message, descriptor: int) -> None:
        """Start the process. Raises OSError."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scratchgpt.model.lane_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[descriptor],
            process_group=0,  # Ctrl-C and the like are for lane 0
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            cwd=Path(__file__).parent.parent.parent,  # where this package is, installed or not
            encoding="utf-8",
        )
        self.tell(setup | {"descriptor": descriptor})

    def tell(self, message: Message) -> None:
        with contextlib.suppress(OSError):  # a lane that has ended is noticed when it does not answer
            self.process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def hear(self) -> Message:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            code = self.process.wait()
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            why = ", as happens when memory runs out" if code == -signal.SIGKILL else ""
            raise LaneError(f"Process {self.process.pid}, one of the run's lanes, {how}{why}.")
        message: Message = json.loads(line)
        return message

    def dismiss(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]

    def stop(self, patience: float) -> None:
        """End the process: it ends by itself when its input does, unless it is in the middle of something."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]


class _Thread:
    """A lane in a thread of this process."""

    def __init__(self, make: Callable[[Barrier], Lane]) -> None:
        """Start the thread."""
        self._tasks: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=[make], daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[Barrier], Lane]) -> None:
        try:
            with np.errstate(all="ignore"):
                serve(make, self._tasks.get, self._answers.put)
        finally:
            self._answers.put(None)

    def tell(self, message: Message) -> None:
        self._tasks.put(message)

    def hear(self) -> Message:
        message = self._answers.get()
        if message is None:
            raise LaneError("A thread, one of the run's lanes, has failed.")
        return message

    def dismiss(self) -> None:
        self._tasks.put(None)

    def stop(self, patience: float) -> None:
        self._thread.join(patience)


class Lanes:
    """All lanes of a run, lane 0 in this process. With one lane, nothing is shared and nobody else is started."""

    def __init__(
        self,
        model: ModelConfig,
        params: Array,
        moments: adamw.Moments,
        plan: Plan,
        *,
        n_tokens: int,
        freeze: Sequence[str] = (),
    ) -> None:
        """Copy the state into memory of the lanes', for batches of up to `n_tokens`. Raises MemoryError."""
        self.plan = plan
        self.loss_scale: LossScale | None = None  # all is in float32
        self.note = ""  # why the lanes are threads, if they are
        self._n_tokens, self._freeze = n_tokens, freeze
        self._arrays = self._lay_out(model)
        for name, values in (("params", params), ("first", moments.first), ("second", moments.second)):
            self._arrays[name][...] = values
        self._lane = self._make(model, 0, self._barrier)
        self._workers: list[_Worker] = []
        self.gpt = self._lane.gpt
        self.moments = adamw.Moments(self._arrays["first"], self._arrays["second"])

    def _lay_out(self, model: ModelConfig) -> SharedArrays:
        """Return the arrays, for processes if they can have them and there are any."""
        if self.plan.lanes > 1 and os.name != "posix":
            self._use_threads("this system does not pass memory on to other processes")
        elif self.plan.lanes > 1:
            try:
                return SharedArrays(model, self.plan.lanes, self._n_tokens, None)
            except OSError as error:
                self._use_threads(str(error.strerror))
        try:
            return SharedArrays(model, self.plan.lanes, self._n_tokens)
        except OSError as error:
            raise MemoryError(
                f"{Layout(model).size:,} parameters, with gradients for each lane, cannot be allocated "
                f"({error.strerror})."
            ) from error

    def _use_threads(self, reason: str) -> None:
        self.note = f"Lanes are threads and not processes, which is slower: {reason}."

    def _make(self, model: ModelConfig, index: int, barrier: Barrier) -> Lane:
        return Lane(model, self._arrays, self.plan, index=index, barrier=barrier, freeze=self._freeze)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the other lanes, and end them afterwards; meanwhile this process too has one BLAS thread."""
        with threadpool_limits(1, user_api="blas"):
            try:
                self._start()
                yield
            finally:
                self._stop()

    def _start(self) -> None:
        others = range(1, self.plan.lanes)
        setup = {"model": vars(self.gpt.config), "plan": self.plan._asdict(), "n_tokens": self._n_tokens}
        setup["freeze"] = list(self._freeze)
        if not self.note:
            try:
                for index in others:
                    self._workers.append(_Process(setup | {"index": index}, self._arrays.descriptor))
            except OSError as error:
                self._use_threads(str(error.strerror))
                self._stop()
        if self.note:
            for index in others:
                self._workers.append(_Thread(functools.partial(self._make, self.gpt.config, index)))

    def _stop(self) -> None:
        for worker in self._workers:
            worker.dismiss()
        deadline = time.monotonic() + PATIENCE
        for worker in self._workers:
            worker.stop(max(0.0, deadline - time.monotonic()))
        self._workers.clear()

    def adopt(self, plan: Plan) -> None:
        """Compute by another plan from now on. It is of as many lanes. Raises LaneError."""
        self.plan = plan
        self._do("adopt", **plan._asdict())

    def loss_and_grad(self, tokens: Array, targets: Array, *, seed: int, step: int) -> float:
        """Return the mean loss in nats of tokens, targets (B, T), and add its gradient. Raises LaneError."""
        self._hand_out(tokens, targets)
        B, T = tokens.shape
        return math.fsum(self._do("gradient", B=B, T=T, seed=seed, step=step))

    def update(self, hyperparameters: adamw.Hyperparameters, *, clip: float, update_number: int) -> float:
        """Clip and apply the gradients, then zero them; return their norm before clipping. Raises LaneError."""
        norm = math.sqrt(math.fsum(self._do("reduce")))
        self._do("update", norm=norm, clip=clip, update_number=update_number, hyperparameters=list(hyperparameters))
        return norm

    def skip(self) -> float:
        """Drop the gradients in place of an update; return a norm that is none."""
        self._arrays["grads"].fill(0)
        return math.nan

    def device_bytes(self) -> None:
        """Lanes have no memory of their own that a system could not tell of."""

    def score(self, tokens: Array, targets: Array) -> Score:
        """Predict without dropout: tokens, targets (B, T) -> the sums over all targets. Raises LaneError."""
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
            worker.tell({"task": task, "arguments": arguments})
        own = getattr(self._lane, task)(**arguments)
        return [own, *(answer["result"] for answer in self._hear())]

    def _barrier(self) -> None:
        """Wait until all lanes have come to a point in the middle of their task."""
        self._hear()
        for worker in self._workers:
            worker.tell({})

    def _hear(self) -> list[Message]:
        """Return what each of the other lanes says next."""
        answers = [worker.hear() for worker in self._workers]
        for answer in answers:
            if "error" in answer:
                raise MemoryError(answer["error"])
        return answers
