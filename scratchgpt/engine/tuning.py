"""Measure which plan suits this machine: caches and cores differ, and no table of processors would stay true.

A model of one layer, otherwise like the one to be trained, is timed with a few plans in turn. What is found is kept in
a file of the user's cache folder, so that the next run like it computes the same, to the last bit, without measuring.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from scratchgpt import __version__
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.plan import Plan, default_plan
from scratchgpt.engine.workers import Workers
from scratchgpt.errors import DataError
from scratchgpt.files import read_json, replace_json
from scratchgpt.machine import cache_folder, processor_name, usable_cores
from scratchgpt.model import cost
from scratchgpt.model.groups import new_slots
from scratchgpt.model.params import Layout

Clock = Callable[[], float]

ROWS = (128, 256, 512, 1024)
"""Rows of a micro-batch that are tried."""
BLOCKS = (2**17, 2**18, 2**19, 2**20)
"""Bytes of a block that are tried."""
ROUNDS = 5
"""How often each plan has its turn, after one that is not timed."""
SECONDS = 1.2
"""That measuring may take. A model that is too large for this is all matrix products, which no plan makes faster."""
SPEED = 5e10
"""Floating-point operations a second that a lane is expected to make."""
GAIN = 0.05
"""Part of the time that a plan must save to be preferred to the default: less is often chance."""


def tuned_plan(
    model: ModelConfig, train: TrainConfig, *, lanes: int | None = None, clock: Clock = time.perf_counter
) -> Plan:
    """Return the plan that was found best for runs like this on this machine, now or earlier. Raises MemoryError.

    `clock` gives the seconds that pass.
    """
    plan = default_plan(model, train, lanes=lanes)
    choices = _choices(model, train, plan)
    path = _cache_path(model, train, plan)
    if path is not None:
        with contextlib.suppress(DataError):
            known = read_json(path, DataError)
            for choice in choices:
                if known == choice._asdict():
                    return choice
    measured = _measured(model, train, plan, choices, clock)
    if measured is None:
        return plan
    if path is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a second the next time
            replace_json(path, measured._asdict())
    return measured


def _choices(model: ModelConfig, train: TrainConfig, plan: Plan) -> list[Plan]:
    """Return all plans that may be the best one, in order of preference; the default comes first."""
    share = math.ceil(train.batch_size / plan.lanes)
    sizes = (
        [train.micro_batch] if train.micro_batch else [min(share, max(1, rows // model.block_size)) for rows in ROWS]
    )
    pairs = itertools.product([plan.micro_batch, *sizes], [plan.block_bytes, *BLOCKS])
    return list(dict.fromkeys(Plan(plan.lanes, size, block) for size, block in pairs))


def _measured(model: ModelConfig, train: TrainConfig, plan: Plan, choices: list[Plan], clock: Clock) -> Plan | None:
    """Return the best combination of what is best by itself; None if there is no time to measure."""
    candidates = [
        choice for choice in choices if plan.micro_batch == choice.micro_batch or plan.block_bytes == choice.block_bytes
    ]
    rows = max(choice.micro_batch for choice in candidates) * model.block_size
    operations = rows * cost.layer_flops(model)
    if len(candidates) * (1 + ROUNDS) * operations / SPEED > SECONDS:
        return None
    small = _small(model)
    layout = Layout(small)
    B = plan.lanes * max(choice.micro_batch for choice in candidates)
    tokens = np.zeros((B, model.block_size), np.int64)
    recipe = dataclasses.replace(train, batch_size=B, freeze=())
    workers = Workers(small, recipe, layout.initial(0), new_slots(layout, recipe), plan)
    seconds: dict[Plan, list[float]] = {candidate: [] for candidate in candidates}
    with workers.running():
        workers.adopt(plan)  # all workers have started when they have answered
        began = clock()
        for turn in range(1 + ROUNDS):
            for candidate in candidates:
                if clock() - began > SECONDS:
                    return None
                workers.adopt(candidate)
                started = clock()
                workers.accumulate(tokens, tokens, seed=0, step=0)
                if turn:
                    seconds[candidate].append(clock() - started)

    def best(those: list[Plan]) -> Plan:
        fastest = min(those, key=lambda candidate: median(seconds[candidate]))
        return fastest if median(seconds[fastest]) < (1 - GAIN) * median(seconds[plan]) else plan

    size = best([candidate for candidate in candidates if candidate.block_bytes == plan.block_bytes]).micro_batch
    block = best([candidate for candidate in candidates if candidate.micro_batch == plan.micro_batch]).block_bytes
    return Plan(plan.lanes, size, block)


def _small(model: ModelConfig) -> ModelConfig:
    """Return the model that is timed: like the one to be trained, but of one layer and few tokens."""
    return dataclasses.replace(model, vocab_size=64, n_layer=1)


def _cache_path(model: ModelConfig, train: TrainConfig, plan: Plan) -> Path | None:
    """Return the file for what a measurement holds for: the processor, the programs, the model that is timed."""
    folder = cache_folder()
    work = (train.batch_size, train.micro_batch, plan.lanes)
    key = repr((__version__, np.__version__, processor_name(), usable_cores(), _small(model), work))
    return folder and folder / "plans" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
