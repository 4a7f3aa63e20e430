"""Let the contenders take turns, and put their numbers together."""

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean, median
from typing import IO, Any, cast

from scratchgpt.bench import LIMIT, OURS, PEERS, SOURCES, Source, Workload, processes
from scratchgpt.errors import BenchmarkError, UsageError, did_you_mean
from scratchgpt.machine import processor_name

PYTHON = (sys.executable, "-m")
WORKER = "scratchgpt.bench.worker"
CHECKED_STEPS = 4
"""Steps after the first whose losses must agree too: the first shows that the models are equal, these the updates."""
TOLERANCE = 1e-3
PRODUCTS = 3
"""Large matrix products in a round."""
SETTLE = 0.1
"""Seconds before each turn: the threads of the last one fall asleep."""
SAMPLE_INTERVAL = 0.003
"""Seconds between two looks at a contender's memory."""

Answer = dict[str, Any]
Rounds = list[list[float]]


def check_peers(names: Sequence[str], peers: Sequence[str] = PEERS, sources: Mapping[str, Source] = SOURCES) -> None:
    """Refuse peers that are unknown or not installed. Raises UsageError."""
    for name in names:
        if name not in peers:
            raise UsageError(f"There is no peer {name!r}{did_you_mean(name, peers)}; there are {', '.join(peers)}.")
        package = sources[name].package
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"To compare with {name}, {package} must be installed: pip install {package}.")


class Worker:
    """A contender in its process, with what was measured of it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        """Talk to a process that has been started."""
        self.name = name
        self.process = process
        self.rounds: Rounds = []
        self.losses: list[float] = []
        self.idle_cpu, self.idle_seconds = 0.0, 0.0
        self._requests, self._answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        self._errors = errors
        self._idle_since: tuple[float, float] | None = None

    def ask(self, request: dict[str, Any]) -> Answer:
        """Return the answer to a request. Raises UsageError and BenchmarkError."""
        if self._idle_since:
            cpu, clock = self._now()
            self.idle_cpu += cpu - self._idle_since[0]
            self.idle_seconds += clock - self._idle_since[1]
        time.sleep(SETTLE)
        with contextlib.suppress(BrokenPipeError):  # a dead worker's silence is noticed below
            self._requests.write(json.dumps(request).encode() + b"\n")
        line = self._answers.readline()
        if not line:
            code = self.process.wait()
            self._errors.seek(0)
            words = self._errors.read().decode("utf-8", "replace").strip() or "it said nothing"
            raise BenchmarkError(f"The contender {self.name} died with exit code {code}: {words.splitlines()[-1]}")
        answer: Answer = json.loads(line)
        if "usage_error" in answer:
            raise UsageError(answer["usage_error"])
        if "error" in answer:
            raise BenchmarkError(f"The contender {self.name} failed: {answer['error']}")
        self._idle_since = self._now()
        return answer

    def take_turn(self, steps: int) -> None:
        """Time a round of steps, after one that is not timed."""
        self.rounds.append(self.ask({"steps": 1 + steps})["seconds"][1:])

    def warm_up(self) -> Answer:
        """Make some steps; return the most memory held after the first, and how that was found."""
        self.losses = self.ask({"steps": 1})["losses"]
        answer, memory = self.ask_watched({"steps": CHECKED_STEPS})
        self.losses += answer["losses"]
        return memory

    def ask_watched(self, request: dict[str, Any]) -> tuple[Answer, Answer]:
        """Return the answer to a request, and the most memory held meanwhile with how that was found."""
        peak, is_done = 0.0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not is_done.wait(SAMPLE_INTERVAL):
                peak = max(peak, processes.memory_mb(self.process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            answer = self.ask(request)
        finally:
            is_done.set()
            watcher.join()
        if answer["device_bytes"] is not None:
            return answer, {"peak_memory_mb": answer["device_bytes"] / 1e6, "memory_kind": "GPU"}
        if peak:
            return answer, {"peak_memory_mb": peak, "memory_kind": "PSS"}
        return answer, {"peak_memory_mb": answer["max_rss_mb"], "memory_kind": "max RSS"}

    def _now(self) -> tuple[float, float]:
        return processes.cpu_seconds(self.process.pid), time.perf_counter()


@contextlib.contextmanager
def started(name: str, workload: Any, module: str = WORKER) -> Iterator[tuple[Worker, Answer]]:
    """Start a contender; yields it and what it says of itself. At the end of its input it ends.

    The workload is a dataclass that the worker in `module` understands.
    """
    command, pipe = [*PYTHON, module, name], subprocess.PIPE
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=errors) as process,  # noqa: S603
    ):
        worker = Worker(name, process, errors)
        yield worker, worker.ask(dataclasses.asdict(workload))


def compare(
    workload: Workload, peers: Sequence[str], *, steps: int, rounds: int, progress: Callable[[str], None]
) -> list[Answer]:
    """Measure the peers and ours in turn; return a record of each, ours last. Raises UsageError and BenchmarkError."""
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        records: dict[str, Answer] = {}
        for name in (OURS, *peers, LIMIT):
            progress(f"starting {name}")
            workers[name], about = stack.enter_context(started(name, workload))
            records[name] = about if name == LIMIT else about | workers[name].warm_up()
            workload = dataclasses.replace(workload, device=records[OURS]["device"])
        check_losses({name: worker.losses for name, worker in workers.items() if name != LIMIT})
        for number in range(rounds):
            for name, worker in workers.items():
                progress(f"round {number + 1} of {rounds}: {name}")
                worker.take_turn(PRODUCTS if name == LIMIT else steps)
    product = workers.pop(LIMIT)
    rate = records[LIMIT]["flops"] / median(itertools.chain(*product.rounds))
    ours = workers.pop(OURS)
    return [
        {"contender": name}
        | records[name]
        | {
            "idle_cpu": worker.idle_cpu / worker.idle_seconds,
            "first_loss": worker.losses[0],
            "rounds": rounds,
            "steps": steps,
        }
        | numbers(worker.rounds, ours.rounds, workload=workload, rate=rate)
        for name, worker in (workers | {OURS: ours}).items()
    ]


def check_losses(losses: dict[str, list[float]]) -> None:
    """Refuse to compare models that do not compute the same. Raises BenchmarkError."""
    for name, theirs in losses.items():
        for step, (our_loss, loss) in enumerate(zip(losses[OURS], theirs, strict=True), start=1):
            if not math.isclose(our_loss, loss, rel_tol=0, abs_tol=TOLERANCE):
                raise BenchmarkError(
                    f"{name} does not compute the same as ours: at step {step} its loss is {loss:.5f}, "
                    f"ours {our_loss:.5f}."
                )


def numbers(rounds: Rounds, our_rounds: Rounds, *, workload: Workload, rate: float) -> Answer:
    """Return what follows from the seconds of each step, and from the floating-point operations a second at most.

    `ratio` is the median over the rounds of (median of theirs / median of ours in the same round).
    """
    seconds = list(itertools.chain(*rounds))
    step = median(seconds)
    return {
        "step_ms": 1e3 * step,
        "step_ms_min": 1e3 * min(seconds),
        "step_ms_max": 1e3 * max(seconds),
        "tokens_per_s": workload.batch_size * workload.model.block_size / step,
        "gflops": workload.flops / step / 1e9,
        "blas_gflops": rate / 1e9,
        "blas_limit_ms": 1e3 * workload.flops / rate,
        "ratio": median(median(turn) / median(ours) for turn, ours in zip(rounds, our_rounds, strict=True)),
    }


def profile(workload: Workload, steps: int) -> dict[str, float]:
    """Return the milliseconds that each part of our step takes on average; what remains of the step is "other"."""
    with started(OURS, dataclasses.replace(workload, profile=True)) as (worker, _):
        worker.ask({"steps": 1 + CHECKED_STEPS})
        answer = worker.ask({"steps": steps})
    parts = {name: 1e3 * seconds / steps for name, seconds in answer["profile"].items()}
    return parts | {"other": 1e3 * mean(answer["seconds"]) - sum(parts.values())}


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    python, system = platform.python_version(), platform.system()
    return {"cpu": processor_name(), "cores": os.cpu_count(), "python": python, "system": system}
