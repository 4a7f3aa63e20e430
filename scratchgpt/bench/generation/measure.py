"""Let the contenders write in turn, and put their numbers together."""

import contextlib
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import IO, Any, NamedTuple, cast

from scratchgpt import tokenizer as tokenizers
from scratchgpt.bench import LIMIT, OURS, parsed
from scratchgpt.bench.generation import Text, Workload
from scratchgpt.bench.measure import Answer, Worker, started
from scratchgpt.bench.rounds import Key, Rounds, Turn, cpu_ratios, joined, length, play, ratios, spread
from scratchgpt.config import ModelConfig
from scratchgpt.errors import BenchmarkError
from scratchgpt.generation import default_prompt
from scratchgpt.model import folder as model_folder
from scratchgpt.model.formats.base import GPT2_CHOICES, require_known
from scratchgpt.model.params import Layout

WORKER = "scratchgpt.bench.generation.worker"
CHECKED_TOKENS = 20
TOLERANCE = 1e-3
"""Between natural logarithms of probabilities."""
LEAST_TOKENS, MOST_TOKENS = 10, 100
"""In a text, unless their number is given."""
PRODUCTS = 10
"""Of the matrix and the vector, for each number of threads, after one that is not timed."""
KINDS = ("alone", "together", "prefill")
"""One text, several at once, and a long prompt."""
FIRST_CHARACTER = 0x10000
"""Of the vocabulary of a model of random numbers: from here on, there are no code points that are no characters."""


class Kind(NamedTuple):
    """Texts of one kind, whose time is taken."""

    n_prompt: int
    n_samples: int
    n_tokens: int
    repetitions: int = 1  # of the text; the time of the last one counts
    first: int = 1  # token whose time counts


@contextlib.contextmanager
def random_model(model: ModelConfig, seed: int) -> Iterator[Path]:
    """Make the folder of a model of random numbers; it goes at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_folder.save(folder, model, Layout(model).initial(seed))
        characters = map(chr, range(FIRST_CHARACTER, FIRST_CHARACTER + model.vocab_size))
        tokenizers.save(tokenizers.CharTokenizer(characters), folder)
        yield folder


def compare(
    workload: Workload,
    peers: Sequence[str],
    *,
    n_tokens: int | None,
    rounds: int,
    starts: int,
    progress: Callable[[str], None],
) -> list[Answer]:
    """Measure the peers and ours in turn; return a record of each, ours last. Raises UsageError and BenchmarkError."""
    for name in peers:
        if parsed(name)[0] != OURS:
            require_known(workload.model, GPT2_CHOICES, f"The peer {name}", "; leave it out")
    n_prompt, n_room, n_long = workload.lengths
    records: dict[str, Answer] = {}
    played: list[Rounds] = []
    for number in range(starts):
        with contextlib.ExitStack() as stack:
            workers: dict[str, Worker] = {}
            texts: dict[str, Text] = {}
            # The order alternates, because the first process may get better memory than the last.
            for name in (OURS, *peers, LIMIT)[:: -1 if number % 2 else 1]:
                progress(f"start {number + 1} of {starts}: {name}")
                workers[name], records[name] = stack.enter_context(started(name, workload, WORKER))
                if name != LIMIT:
                    texts[name] = _write(workers[name], n_prompt, 1, min(CHECKED_TOKENS, n_room), is_check=True)
                    records[name] |= workers[name].ask_watched(_request(n_long, 1, 1))[1]
            check_texts(texts)
            slowest = (min(text.seconds) for text in texts.values())
            n_tokens = min(n_tokens or length(slowest, least=LEAST_TOKENS, most=MOST_TOKENS), n_room)
            alone = Kind(n_prompt, 1, n_tokens + 1)
            together = alone._replace(n_samples=workload.n_samples)
            prefill = Kind(n_long, 1, 1, repetitions=2, first=0)
            turns: dict[Key, Callable[[], Turn]] = {
                (name, what): partial(_timed, workers[name], kind)
                for what, kind in zip(KINDS, (alone, together, prefill), strict=True)
                for name in (OURS, *peers)
            }
            turns |= {_product(n): partial(_products, workers[LIMIT], n) for n in records[LIMIT]["threads"]}
            turns[OURS, "start"] = partial(seconds_to_start, workload)
            played.append(play(turns, rounds, progress=progress))
            for name, worker in workers.items():
                records[name]["idle_cpu"] = worker.idle_cpu
    shared = {
        "starts": starts,
        "n_prompt": n_prompt,
        "n_tokens": n_tokens,
        "n_samples": workload.n_samples,
        "n_long_prompt": n_long,
    }
    return _results(joined(played), records.pop(LIMIT), {name: records[name] | shared for name in (*peers, OURS)})


def _results(found: Rounds, product: Answer, records: Mapping[str, Answer]) -> list[Answer]:
    """Return the records, ours last, with their numbers. `product` is the description of the products."""
    times = {name: {kind: found.of(name, kind) for kind in KINDS} for name in records}
    limits = {n: found.of(*_product(n)) for n in product["threads"]}
    best = min(limits, key=lambda n: median(_seconds(limits[n])))
    intervals = {
        f"{name} / ours, {kind}": ratios(times[name][kind], times[OURS][kind])
        for name in records
        for kind in KINDS
        if name != OURS
    }
    shared = {
        "limit_gb_per_s": product["bytes"] / median(_seconds(limits[best])) / 1e9,
        "limit_threads": best,
        "weights_mb": product["bytes"] / 1e6,
        "doubts": found.doubts(intervals),
    }
    results = [
        {"contender": name}
        | record
        | shared
        | numbers(times[name], times[OURS], limits[best], record["n_samples"])
        | {"prefill_tokens_per_s": record["n_long_prompt"] / median(_seconds(times[name]["prefill"]))}
        | found.about()
        for name, record in records.items()
    ]
    results[-1] |= {"start_s": spread(_seconds(found.of(OURS, "start")))}
    return results


def check_texts(texts: dict[str, Text]) -> None:
    """Refuse to compare models that do not write the same. Raises BenchmarkError."""
    ours = texts[OURS]
    for name, theirs in texts.items():
        pairs = zip(ours.log_probabilities, theirs.log_probabilities, strict=True)
        if ours.tokens != theirs.tokens or not all(math.isclose(*pair, rel_tol=0, abs_tol=TOLERANCE) for pair in pairs):
            raise BenchmarkError(f"{name} does not write the same text as ours, token for token.")


def numbers(
    theirs: Mapping[str, Sequence[Turn]], ours: Mapping[str, Sequence[Turn]], limit: Sequence[Turn], n_samples: int
) -> Answer:
    """Return the results of a contender's turns of each kind."""
    alone, together = _seconds(theirs["alone"]), _seconds(theirs["together"])
    gains = ratios(theirs["alone"], theirs["together"])
    return {
        "token_ms": 1e3 * median(alone),
        "token_ms_mean": 1e3 * mean(alone),
        "token_ms_deviation": 1e3 * stdev(alone),
        "tokens_per_s": 1 / median(alone),
        "together_tokens_per_s": n_samples / median(together),
        "gain_together": {name: gain and n_samples * gain for name, gain in gains.items()},
        "share_of_limit": ratios(limit, theirs["alone"]),
        "ratio": {kind: ratios(theirs[kind], turns) for kind, turns in ours.items()},
        "cpu_ratio": {kind: cpu_ratios(theirs[kind], turns) for kind, turns in ours.items()},
    }


def seconds_to_start(workload: Workload) -> Turn:
    """Time `scratchgpt generate` until the first character after the prompt. Raises BenchmarkError."""
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
    return Turn([took])


def _timed(worker: Worker, kind: Kind) -> Turn:
    """Make texts of a kind and time the last one."""
    cpu, seconds = 0.0, [0.0]
    for _ in range(kind.repetitions):
        seconds = _write(worker, kind.n_prompt, kind.n_samples, kind.n_tokens).seconds
        cpu += worker.cpu
    return Turn(seconds[kind.first :], cpu)


def _product(n_threads: int) -> Key:
    """Return the key of a product's turns."""
    return LIMIT, f"{n_threads} threads"


def _products(worker: Worker, n_threads: int) -> Turn:
    """Time products of the matrix and the vector."""
    return Turn(_write(worker, 1, n_threads, 1 + PRODUCTS).seconds[1:], worker.cpu)


def _write(worker: Worker, n_prompt: int, n_samples: int, n_tokens: int, *, is_check: bool = False) -> Text:
    answer = worker.ask(_request(n_prompt, n_samples, n_tokens, is_check=is_check))
    return Text(**{name: answer[name] for name in Text._fields})


def _request(n_prompt: int, n_samples: int, n_tokens: int, *, is_check: bool = False) -> dict[str, Any]:
    return {"n_prompt": n_prompt, "n_samples": n_samples, "n_tokens": n_tokens, "is_check": is_check}


def _seconds(turns: Sequence[Turn]) -> list[float]:
    """Return the times of all turns in one list."""
    return list(itertools.chain.from_iterable(turn.seconds for turn in turns))
