"""Let the contenders write in turn, and put their numbers together."""

import contextlib
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import IO, Any, NamedTuple, cast

from scratchgpt import tokenizer as tokenizers
from scratchgpt.bench import LIMIT, OURS
from scratchgpt.bench.generation import Text, Workload
from scratchgpt.bench.measure import Answer, Worker, started
from scratchgpt.config import ModelConfig
from scratchgpt.errors import BenchmarkError
from scratchgpt.generation import default_prompt
from scratchgpt.model import files
from scratchgpt.model.params import Layout

WORKER = "scratchgpt.bench.generation.worker"
CHECKED_TOKENS = 20
TOLERANCE = 1e-3
"""Between natural logarithms of probabilities."""
REPETITIONS = 3
"""Of a long prompt in a round, after one that is not timed."""
PRODUCTS = 10
"""Of the matrix and the vector, for each number of threads, after one that is not timed."""
FIRST_CHARACTER = 0x10000
"""Of the vocabulary of a model of random numbers: from here on, there are no code points that are no characters."""


class Kind(NamedTuple):
    """What is timed: texts of one sort."""

    n_prompt: int
    n_samples: int
    n_tokens: int
    repetitions: int = 1  # of which the first is not timed, if there are several
    first: int = 1  # token whose time counts


@contextlib.contextmanager
def random_model(model: ModelConfig, seed: int) -> Iterator[Path]:
    """Make the folder of a model of random numbers; it goes at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files.save(folder, model, Layout(model).initial(seed))
        characters = map(chr, range(FIRST_CHARACTER, FIRST_CHARACTER + model.vocab_size))
        tokenizers.save(tokenizers.CharTokenizer(characters), folder)
        yield folder


def compare(workload: Workload, peers: Sequence[str], *, rounds: int, progress: Callable[[str], None]) -> list[Answer]:
    """Measure the peers and ours in turn; return a record of each, ours last. Raises UsageError and BenchmarkError."""
    n_prompt, n_tokens, n_long = workload.lengths
    kinds = {
        "alone": Kind(n_prompt, 1, n_tokens + 1),
        "together": Kind(n_prompt, workload.n_samples, n_tokens + 1),
        "prefill": Kind(n_long, 1, 1, 1 + REPETITIONS, first=0),
    }
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        records: dict[str, Answer] = {}
        texts: dict[str, Text] = {}
        for name in (OURS, *peers, LIMIT):
            progress(f"starting {name}")
            workers[name], records[name] = stack.enter_context(started(name, workload, WORKER))
            if name != LIMIT:
                texts[name] = _write(workers[name], n_prompt, 1, min(CHECKED_TOKENS, n_tokens), is_check=True)
                records[name] |= workers[name].ask_watched(_wish(n_long, 1, 1))[1]
        check_texts(texts)
        product = workers.pop(LIMIT)
        times: dict[str, dict[str, list[list[float]]]] = {name: {kind: [] for kind in kinds} for name in workers}
        limits: dict[int, list[list[float]]] = {n: [] for n in records[LIMIT]["threads"]}
        starts = []
        for number in range(rounds):
            for (what, kind), (name, worker) in itertools.product(kinds.items(), workers.items()):
                progress(f"round {number + 1} of {rounds}: {name}, {what}")
                times[name][what].append(_timed(worker, kind))
            for n_threads, turns in limits.items():
                progress(f"round {number + 1} of {rounds}: product, {n_threads} threads")
                turns.append(_write(product, 1, n_threads, 1 + PRODUCTS).seconds[1:])
            starts.append(seconds_to_start(workload))
    best = min(limits, key=lambda n: median(itertools.chain(*limits[n])))
    shared = {
        "rounds": rounds,
        "n_prompt": n_prompt,
        "n_tokens": n_tokens,
        "n_samples": workload.n_samples,
        "n_long_prompt": n_long,
        "limit_gb_per_s": records[LIMIT]["bytes"] / median(itertools.chain(*limits[best])) / 1e9,
        "limit_threads": best,
        "weights_mb": records[LIMIT]["bytes"] / 1e6,
    }
    found = [
        {"contender": name}
        | records[name]
        | shared
        | numbers(times[name], times[OURS], limits[best], workload.n_samples)
        | {"idle_cpu": workers[name].idle_cpu / workers[name].idle_seconds}
        | {"prefill_tokens_per_s": n_long / median(itertools.chain(*times[name]["prefill"]))}
        for name in (*peers, OURS)
    ]
    found[-1] |= {"start_s": _spread(starts)}
    return found


def check_texts(texts: dict[str, Text]) -> None:
    """Refuse to compare models that do not write the same. Raises BenchmarkError."""
    ours = texts[OURS]
    for name, theirs in texts.items():
        pairs = zip(ours.log_probabilities, theirs.log_probabilities, strict=True)
        if ours.tokens != theirs.tokens or not all(math.isclose(*pair, rel_tol=0, abs_tol=TOLERANCE) for pair in pairs):
            raise BenchmarkError(f"{name} does not write the same text as ours, token for token.")


def numbers(
    theirs: dict[str, list[list[float]]], ours: dict[str, list[list[float]]], limit: list[list[float]], n_samples: int
) -> Answer:
    """Return what follows from the seconds of each token in each round."""
    medians = {kind: list(map(median, rounds)) for kind, rounds in theirs.items()}
    alone = list(itertools.chain(*theirs["alone"]))
    together = list(itertools.chain(*theirs["together"]))
    return {
        "token_ms": 1e3 * median(alone),
        "token_ms_mean": 1e3 * mean(alone),
        "token_ms_deviation": 1e3 * stdev(alone),
        "tokens_per_s": 1 / median(alone),
        "together_tokens_per_s": n_samples / median(together),
        "gain_together": _spread(n_samples * a / b for a, b in zip(medians["alone"], medians["together"], strict=True)),
        "share_of_limit": _spread(median(a) / b for a, b in zip(limit, medians["alone"], strict=True)),
        "ratio": {
            kind: _spread(a / median(b) for a, b in zip(medians[kind], rounds, strict=True))
            for kind, rounds in ours.items()
        },
    }


def seconds_to_start(workload: Workload) -> float:
    """Return how long `scratchgpt generate` takes until the first character after the prompt. Raises BenchmarkError."""
    prompt = default_prompt(tokenizers.load(workload.path))
    options = ["--prompt", prompt, "--tokens=8", "--temperature=0", f"--device={workload.device}"]
    command = [sys.executable, "-m", "scratchgpt", "generate", workload.folder, *options]
    began = time.perf_counter()
    with subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE) as process:  # noqa: S603
        output, n_shown = cast(IO[bytes], process.stdout), 0
        while n_shown <= len(prompt.encode()):
            more = output.read(64)
            if not more:
                raise BenchmarkError("scratchgpt generate has written nothing after the prompt.")
            n_shown += len(more)
        took = time.perf_counter() - began
        output.read()
    return took


def _timed(worker: Worker, kind: Kind) -> list[float]:
    """Return the seconds that count."""
    texts = [_write(worker, kind.n_prompt, kind.n_samples, kind.n_tokens) for _ in range(kind.repetitions)]
    return [seconds for text in texts[-max(1, kind.repetitions - 1) :] for seconds in text.seconds[kind.first :]]


def _write(worker: Worker, n_prompt: int, n_samples: int, n_tokens: int, *, is_check: bool = False) -> Text:
    answer = worker.ask(_wish(n_prompt, n_samples, n_tokens, is_check=is_check))
    return Text(**{name: answer[name] for name in Text._fields})


def _wish(n_prompt: int, n_samples: int, n_tokens: int, *, is_check: bool = False) -> dict[str, Any]:
    return {"n_prompt": n_prompt, "n_samples": n_samples, "n_tokens": n_tokens, "is_check": is_check}


def _spread(values: Iterable[float]) -> dict[str, float]:
    """Return median and extremes of the rounds' values."""
    rounds = list(values)
    return {"median": median(rounds), "min": min(rounds), "max": max(rounds)}
