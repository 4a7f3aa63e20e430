"""One contender in a process of its own: ``python -m scratchgpt.bench.generation.worker NAME``.

As the worker of the training benchmark, but what follows the workload are wishes for texts.
"""

import importlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from scratchgpt.bench.generation import SOURCES, Workload
from scratchgpt.bench.worker import main, max_rss_mb


def answers(name: str, requests: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the answer to each request."""
    lines = iter(requests)
    workload = Workload.from_mapping(json.loads(next(lines)))
    source = SOURCES[name]
    module = importlib.import_module(f"scratchgpt.bench.{source.module}")
    writer = getattr(module, source.function)(workload)
    yield writer.about
    for line in lines:
        wish = json.loads(line)
        text = writer.write(workload.prompt(wish["n_prompt"]), wish["n_samples"], wish["n_tokens"], wish["is_check"])
        yield text._asdict() | {"device_bytes": writer.device_bytes(), "max_rss_mb": max_rss_mb()}


if __name__ == "__main__":
    main(answers)
