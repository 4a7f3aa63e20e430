"""How a run computes: what changes its speed, its memory and, by the order of sums, its last bits, but no mathematics.

A plan is part of a run: it is recorded in the run's first checkpoint, and a resumed run keeps to it.
"""

import math
from typing import NamedTuple

from scratchgpt.backend.cpu import BLOCK_BYTES
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.machine import available_memory, usable_cores
from scratchgpt.model.params import Layout

MOST_LANES = 64

CACHE_ROWS = 512
"""Rows (sequences times their length) that a lane computes at once, unless measured or told otherwise."""

WIDE = 384
"""With so many channels, twice as many rows: a step of baby-gpt is 3% shorter, as large gradients are added to less."""


class Plan(NamedTuple):
    """How the work of a step is divided."""

    lanes: int  # that share it
    micro_batch: int  # sequences that a lane computes at once
    block_bytes: int = BLOCK_BYTES  # of what is done to single numbers, at once


def default_lanes() -> int:
    """Return how many lanes this machine is best used with: one for each core that this process may use."""
    return min(usable_cores(), MOST_LANES)


def cache_sequences(model: ModelConfig) -> int:
    """Return how many sequences a lane computes at once on most machines, if it has as many."""
    rows = CACHE_ROWS * (2 if model.n_embd >= WIDE else 1)
    return max(1, rows // model.block_size)


def default_plan(model: ModelConfig, train: TrainConfig, *, lanes: int | None = None) -> Plan:
    """Return the plan that suits most machines, with as many lanes as this one has cores unless told otherwise.

    There are never more lanes than sequences in a batch.
    """
    lanes = min(lanes or default_lanes(), train.batch_size)
    share = math.ceil(train.batch_size / lanes)
    return Plan(lanes, micro_batch=train.micro_batch or min(share, cache_sequences(model)))


def require_memory(model: ModelConfig, plan: Plan) -> None:
    """Raise MemoryError if the parameters alone, to be trained, would need more memory than there is.

    Without this, the system would grant it and end some program later, most likely this one, without a word.
    """
    layout = Layout(model)
    # Parameters and moments of the snapshot, the same in the memory of the lanes, and gradients:
    copies = 6 * layout.size + layout.n_split + plan.lanes * (layout.size - layout.n_split)
    needed, available = 4 * copies, available_memory()
    if needed > available:
        raise MemoryError(
            f"A model of {layout.size:,} parameters needs at least {needed / 1e9:,.1f} GB to be trained with "
            f"--lanes {plan.lanes}, and {available / 1e9:,.1f} GB are available; fewer --lanes need less, too."
        )
