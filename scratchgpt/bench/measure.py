"""Start the contenders, check that they compute the same, let them take turns, and put their numbers together."""

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
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import IO, Any, cast

from scratchgpt.backend.precision import PRECISIONS
from scratchgpt.bench import LIMIT, OURS, PEERS, SOURCES, Source, Workload, parsed, processes, settings_of
from scratchgpt.bench.rounds import Rounds, Turn, cpu_ratios, joined, length, play, ratios
from scratchgpt.errors import BenchmarkError, UsageError, did_you_mean
from scratchgpt.machine import processor_name
from scratchgpt.model.formats.base import GPT2_CHOICES, require_known

PYTHON = (sys.executable, "-m")
WORKER = "scratchgpt.bench.worker"
CHECKED_STEPS = 4
"""Steps after the first whose losses must agree too: the first shows that the models are equal, these the updates."""
TOLERANCE = 1e-4
"""Of losses in float32. Rounding moves these steps by up to 1e-5, no clipping by 5e-4."""
ROUNDED_TOLERANCE = 1e-3
"""Of losses in another precision than float32, whose products round their factors to 11 bits."""
TOLERANCES = {"torch-bf16": 3e-3, "jax": ROUNDED_TOLERANCE}
"""Of contenders that round the factors of products in any case.

bfloat16 keeps 8 bits. That moves these steps by up to 3e-4 for small presets and 8e-4 for gpt2; relu in place of gelu
moves them by 5e-3 or more. JAX rounds float32 to 11 bits on a GPU.
"""
MOST_STEPS = 10
"""Steps in a turn at most, unless their number is given."""
PRODUCTS = 3
"""Large matrix products in a round."""
SETTLE = 0.1
"""Seconds before each turn: the threads of the last one fall asleep."""
SAMPLE_INTERVAL = 0.003
"""Seconds between two looks at a contender's memory."""

Answer = dict[str, Any]


def check_peers(names: Sequence[str], peers: Sequence[str] = PEERS, sources: Mapping[str, Source] = SOURCES) -> None:
    """Refuse peers that are unknown or not installed. Raises UsageError."""
    for name in names:
        source, folder = parsed(name)
        if folder and source == OURS:
            if not (Path(folder) / "scratchgpt" / "bench" / "worker.py").is_file():
                raise UsageError(f"{folder} holds no checkout of scratchgpt.", advice=f"Use {OURS}@FOLDER.")
            continue
        if name not in peers:
            known = ", ".join((*peers, f"{OURS}@FOLDER"))
            raise UsageError(f"There is no peer {name!r}{did_you_mean(name, peers)}; there are {known}.")
        package = sources[name].package
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"To compare with {name}, {package} must be installed: pip install {package}.")


class Worker:
    """A contender in its process, with what was measured of it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        """Talk to a process that has been started."""
        self.name = name
        self.process = process
        self.losses: list[float] = []
        self._requests, self._answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        self._errors = errors
        self.cpu = 0.0  # processor seconds of the last request
        self._idle_cpu, self._idle_seconds = 0.0, 0.0
        self._idle_since: tuple[float, float] | None = None

    @property
    def idle_cpu(self) -> float:
        """Cores that the contender kept busy between its answers and the next requests."""
        return self._idle_cpu / self._idle_seconds

    def ask(self, request: dict[str, Any]) -> Answer:
        """Return the answer to a request. Raises UsageError and BenchmarkError."""
        time.sleep(SETTLE)
        cpu, clock = self._now()
        if self._idle_since:
            self._idle_cpu += cpu - self._idle_since[0]
            self._idle_seconds += clock - self._idle_since[1]
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
        self.cpu = self._idle_since[0] - cpu
        return answer

    def take_turn(self, steps: int) -> Turn:
        """Time some steps, after one whose time does not count."""
        seconds = self.ask({"steps": 1 + steps})["seconds"]
        return Turn(seconds[1:], self.cpu / (1 + steps))

    def warm_up(self) -> tuple[float, Answer]:
        """Make some steps; return how long the quickest took, and the most memory held after the first."""
        self.losses = self.ask({"steps": 1})["losses"]
        answer, memory = self.ask_watched({"steps": CHECKED_STEPS})
        self.losses += answer["losses"]
        return min(answer["seconds"]), memory

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
    """Start a contender; yields it and the description that it gives. It ends when its input ends.

    The workload is a dataclass that the worker in `module` understands. A worker with a folder imports the scratchgpt
    that lies there.
    """
    source, folder = parsed(name)
    command, pipe = [*PYTHON, module, source], subprocess.PIPE
    path = [str(Path(folder).resolve())] if folder else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603
            command,
            bufsize=0,
            stdin=pipe,
            stdout=pipe,
            stderr=errors,
            cwd=folder or None,  # for Python looks there first
            env=environment if folder else None,
        ) as process,
    ):
        worker = Worker(name, process, errors)
        yield worker, worker.ask(settings_of(workload))


def compare(
    workload: Workload,
    peers: Sequence[str],
    *,
    steps: int | None,
    rounds: int,
    starts: int,
    progress: Callable[[str], None],
) -> list[Answer]:
    """Measure the peers and ours in turn; return a record of each, ours last. Raises UsageError and BenchmarkError."""
    for name in peers:
        if parsed(name)[0] != OURS:
            require_known(workload.model, GPT2_CHOICES, f"The peer {name}", "; leave it out")
    records: dict[str, Answer] = {}
    played: list[Rounds] = []
    for number in range(starts):
        with contextlib.ExitStack() as stack:
            workers: dict[str, Worker] = {}
            seconds: list[float] = []
            # The order alternates, because the first process may get better memory than the last.
            for name in (OURS, *peers, LIMIT)[:: -1 if number % 2 else 1]:
                progress(f"start {number + 1} of {starts}: {name}")
                workers[name], records[name] = stack.enter_context(started(name, workload))
                if name != LIMIT:
                    step, memory = workers[name].warm_up()
                    records[name] |= memory
                    seconds.append(step)
                workload = dataclasses.replace(workload, device=records[OURS]["device"])
            product = workers.pop(LIMIT)
            check_losses({name: worker.losses for name, worker in workers.items()}, workload.precision)
            steps = steps or length(seconds, least=1, most=MOST_STEPS)
            turns = {(name, "steps"): partial(workers[name].take_turn, steps) for name in (OURS, *peers)}
            turns[LIMIT, "products"] = partial(product.take_turn, PRODUCTS)
            played.append(play(turns, rounds, progress=progress))
    found = joined(played)
    products = itertools.chain.from_iterable(turn.seconds for turn in found.of(LIMIT, "products"))
    rate = records[LIMIT]["flops"] / median(products)
    doubts = found.doubts(
        {f"{peer} / ours": ratios(found.of(peer, "steps"), found.of(OURS, "steps")) for peer in peers}
    )
    return [
        {"contender": name}
        | records[name]
        | {"idle_cpu": workers[name].idle_cpu, "first_loss": workers[name].losses[0]}
        | numbers(found.of(name, "steps"), found.of(OURS, "steps"), workload=workload, rate=rate)
        | {"steps": steps, "starts": starts, "doubts": doubts}
        | found.about()
        for name in (*peers, OURS)
    ]


def check_losses(losses: dict[str, list[float]], precision: str) -> None:
    """Refuse to compare models that do not compute the same. Raises BenchmarkError."""
    usual = TOLERANCE if PRECISIONS[precision].products == "float32" else ROUNDED_TOLERANCE
    for name, theirs in losses.items():
        tolerance = TOLERANCES.get(name, usual)
        for step, (our_loss, loss) in enumerate(zip(losses[OURS], theirs, strict=True), start=1):
            if not math.isclose(our_loss, loss, rel_tol=0, abs_tol=tolerance):
                raise BenchmarkError(
                    f"{name} does not compute the same as ours: at step {step} its loss is {loss:.5f}, "
                    f"ours {our_loss:.5f}."
                )


def numbers(turns: Sequence[Turn], our_turns: Sequence[Turn], *, workload: Workload, rate: float) -> Answer:
    """Return the results of a contender's turns.

    `rate` is the machine's largest number of floating-point operations a second. `ratio` and `cpu_ratio` are medians
    over the rounds, or over the starts if there are several.
    """
    seconds = list(itertools.chain.from_iterable(turn.seconds for turn in turns))
    step = median(seconds)
    ratio, cpu_ratio = ratios(turns, our_turns), cpu_ratios(turns, our_turns)
    return {
        "step_ms": 1e3 * step,
        "step_ms_min": 1e3 * min(seconds),
        "step_ms_max": 1e3 * max(seconds),
        "cpu_ms": 1e3 * median(turn.cpu for turn in turns) or None,
        "tokens_per_s": workload.batch_size * workload.model.block_size / step,
        "gflops": workload.flops / step / 1e9,
        "blas_gflops": rate / 1e9,
        "blas_limit_ms": 1e3 * workload.flops / rate,
        "ratio": ratio["median"],
        "ratio_low": ratio["low"],
        "ratio_high": ratio["high"],
        "cpu_ratio": cpu_ratio["median"],
        "cpu_ratio_low": cpu_ratio["low"],
        "cpu_ratio_high": cpu_ratio["high"],
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
