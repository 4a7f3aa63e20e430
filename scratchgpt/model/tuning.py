"""Measure which plan suits this machine: caches and cores differ, and no table of processors would stay true.

A model of one layer, otherwise like the one to be trained, is timed with a few plans in turn. What is found is kept in
a file in the user's cache folder, so that the next run like it computes the same, to the last bit, without measuring.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import platform
import time
from statistics import median

import numpy as np

from scratchgpt import __version__
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.errors import DataError
from scratchgpt.files import read_json, write_json
from scratchgpt.machine import cache_folder, processor_name
from scratchgpt.model.lanes import Lanes
from scratchgpt.model.params import Layout
from scratchgpt.model.plan import Plan, default_plan
from scratchgpt.ops.adamw import Moments

ROWS = (128, 256, 512, 1024)
"""Rows of a micro-batch that are tried."""
BLOCKS = (2**17, 2**18, 2**19, 2**20)
"""Bytes of a block that are tried."""
ROUNDS = 5
"""How often each plan has its turn, after one that is not timed."""
SECONDS = 1.2
"""That measuring may take. A model that is too large for this is all matrix products, which no plan makes faster."""
GAIN = 0.05
"""Part of the time that a plan must save to be preferred to the default: less is often chance."""


def tuned_plan(model: ModelConfig, train: TrainConfig, *, lanes: int | None = None) -> Plan:
    """Return the plan that was found best for runs like this on this machine, now or earlier. Raises MemoryError."""
    plan = default_plan(model, train, lanes=lanes)
    choices = _choices(model, train, plan)
    key = _key(model, train, plan)
    path = cache_folder() / "plans.json"
    try:
        known = read_json(path, DataError)
    except DataError:
        known = {}
    for choice in choices:
        if known.get(key) == choice._asdict():
            return choice
    plan = _measured(model, plan, choices)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, known | {key: plan._asdict()})
    return plan


def _choices(model: ModelConfig, train: TrainConfig, plan: Plan) -> list[Plan]:
    """Return all plans that may be the best one, in order of preference; the default comes first."""
    share = math.ceil(train.batch_size / plan.lanes)
    sizes = (
        [train.micro_batch] if train.micro_batch else [min(share, max(1, rows // model.block_size)) for rows in ROWS]
    )
    pairs = itertools.product([plan.micro_batch, *sizes], [plan.block_bytes, *BLOCKS])
    return list(dict.fromkeys(Plan(plan.lanes, size, block) for size, block in pairs))


def _measured(model: ModelConfig, plan: Plan, choices: list[Plan]) -> Plan:
    """Return the best combination of what is best by itself."""
    candidates = [
        choice for choice in choices if plan.micro_batch == choice.micro_batch or plan.block_bytes == choice.block_bytes
    ]
    small = dataclasses.replace(model, vocab_size=64, n_layer=1)
    size = Layout(small).size
    B = plan.lanes * max(choice.micro_batch for choice in candidates)
    tokens = np.zeros((B, model.block_size), np.int64)
    moments = Moments(np.zeros(size, np.float32), np.zeros(size, np.float32))
    lanes = Lanes(small, Layout(small).initial(0), moments, plan, n_tokens=tokens.size)
    seconds: dict[Plan, list[float]] = {candidate: [] for candidate in candidates}
    with lanes.running():
        began = time.perf_counter()
        for turn in range(1 + ROUNDS):
            for candidate in candidates:
                if time.perf_counter() - began > SECONDS:
                    return plan
                lanes.adopt(candidate)
                started = time.perf_counter()
                lanes.loss_and_grad(tokens, tokens, seed=0, step=0)
                if turn:
                    seconds[candidate].append(time.perf_counter() - started)

    def best(those: list[Plan]) -> Plan:
        fastest = min(those, key=lambda candidate: median(seconds[candidate]))
        return fastest if median(seconds[fastest]) < (1 - GAIN) * median(seconds[plan]) else plan

    size = best([candidate for candidate in candidates if candidate.block_bytes == plan.block_bytes]).micro_batch
    block = best([candidate for candidate in candidates if candidate.micro_batch == plan.micro_batch]).block_bytes
    return Plan(plan.lanes, size, block)


def _key(model: ModelConfig, train: TrainConfig, plan: Plan) -> str:
    """Return what a measurement holds for: the machine, the programs, and the sizes that matter."""
    sizes = (model.block_size, model.n_embd, model.n_head, model.activation, model.bias, model.dropout)
    work = (train.batch_size, train.micro_batch, plan.lanes)
    programs = f"scratchgpt {__version__}, NumPy {np.__version__}, {platform.node()}, {processor_name()}"
    return f"{programs}, {os.cpu_count()} cores: {sizes} {work}"
