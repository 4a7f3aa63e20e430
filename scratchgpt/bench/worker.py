"""One contender in a process of its own: ``python -m scratchgpt.bench.worker NAME``.

Standard input brings one JSON object a line: first the workload, then how many steps to make. Standard output answers
each with one: what there is to say about the contender, then the seconds and the loss of each step. A failure is an
answer too; what else happens can be read on standard error.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from scratchgpt.bench import SOURCES, Workload
from scratchgpt.errors import UsageError


def answers(name: str, requests: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the answer to each request."""
    lines = iter(requests)
    workload = Workload.from_mapping(json.loads(next(lines)))
    source = SOURCES[name]
    module = importlib.import_module(f"scratchgpt.bench.{source.module}")
    contender = getattr(module, source.function)(workload)
    yield contender.about
    n_done = 0
    for line in lines:
        n_steps = json.loads(line)["steps"]
        batches = [workload.batch(n_done + step) for step in range(n_steps)]
        n_done += n_steps
        if contender.profile:
            contender.profile.clear()
        seconds, losses = [], []
        for tokens, targets in batches:
            started = time.perf_counter()
            losses.append(contender.step(tokens, targets))
            seconds.append(time.perf_counter() - started)
        memory = {"device_bytes": contender.device_bytes(), "max_rss_mb": max_rss_mb()}
        yield {"seconds": seconds, "losses": losses, "profile": contender.profile} | memory


def max_rss_mb() -> float | None:
    """Return the most memory that this process held at any time, in MB, where the system tells."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(answers: Callable[[str, Iterable[str]], Iterator[dict[str, Any]]]) -> None:
    """Answer until standard input ends."""
    # Answers have a stream of their own: what libraries print goes to standard error.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)

        def answer(record: dict[str, Any]) -> None:
            stream.write(json.dumps(record) + "\n")
            stream.flush()

        try:
            for record in answers(sys.argv[1], sys.stdin):
                answer(record)
        except UsageError as error:
            answer({"usage_error": str(error)})
        except Exception as error:  # noqa: BLE001 - frameworks raise what they like
            first_line = (str(error).strip() or "no details").splitlines()[0]
            answer({"error": f"{type(error).__name__}: {first_line}"})


if __name__ == "__main__":
    main(answers)
