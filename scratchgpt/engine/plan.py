"""How a run computes: what changes its speed, its memory and, by the order of sums, its last bits, but no mathematics.

A plan is part of a run: it is recorded in the run's first checkpoint, and a resumed run keeps to it.
"""

import math
from typing import NamedTuple

from scratchgpt.backend import free_memory, has_fused_attention, require_precision
from scratchgpt.backend.cpu import BLOCK_BYTES
from scratchgpt.backend.cpu.memory import activation_bytes as cpu_activation_bytes
from scratchgpt.backend.gpu.memory import activation_bytes, most_sequences, state_bytes
from scratchgpt.backend.precision import PRECISIONS
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.errors import MemoryShortageError
from scratchgpt.machine import amount, available_memory, usable_cores
from scratchgpt.model.groups import slot_names
from scratchgpt.model.params import Layout

MOST_LANES = 64

CACHE_ROWS = 512
"""Rows (sequences times their length) that a lane computes at once, unless measured or told otherwise."""

WIDE = 384
"""With so many channels, twice as many rows: a step of baby-gpt is 3% shorter, as large gradients are added to less."""


SPARE = 0.9
"""Of a GPU's free memory, what a plan may use: some is lost between arrays, some is taken by libraries."""


PROCESS_BYTES = 30 * 10**6
"""What a process with Python, NumPy and our modules has to itself."""


class Plan(NamedTuple):
    """How the work of a step is divided, and what does it."""

    lanes: int  # that share it
    micro_batch: int  # sequences that a lane computes at once
    block_bytes: int = BLOCK_BYTES  # of what is done to single numbers, at once
    device: str = "cpu"  # or gpu:N
    precision: str = "fp32"


def default_lanes() -> int:
    """Return how many lanes this machine is best used with: one for each core that this process may use."""
    return min(usable_cores(), MOST_LANES)


def cache_sequences(model: ModelConfig) -> int:
    """Return how many sequences a lane computes at once on most machines, if it has as many."""
    rows = CACHE_ROWS * (2 if model.n_embd >= WIDE else 1)
    return max(1, rows // model.block_size)


def default_plan(
    model: ModelConfig, train: TrainConfig, *, lanes: int | None = None, device: str = "cpu", precision: str = "fp32"
) -> Plan:
    """Return the plan that suits most machines, with as many lanes as this one has cores unless told otherwise.

    There are never more lanes than sequences in a batch. A GPU computes as many sequences at once as fit. Raises
    UsageError for a precision that the device does not have.
    """
    require_precision(device, precision)
    if device != "cpu":
        size = train.micro_batch or _fitting(model, train, device, precision)
        return Plan(1, min(size, most_sequences(model)), device=device, precision=precision)
    lanes = min(lanes or default_lanes(), train.batch_size)
    share = math.ceil(train.batch_size / lanes)
    return Plan(lanes, micro_batch=train.micro_batch or min(share, cache_sequences(model)))


def _fitting(model: ModelConfig, train: TrainConfig, device: str, precision: str) -> int:
    """Return how many sequences fit into the free memory of a GPU at once: the batch, or half of it, ..."""
    chosen, is_fused = PRECISIONS[precision], has_fused_attention(device, precision, model)
    layout = Layout(model)
    room = SPARE * free_memory(device) - state_bytes(layout.size, chosen, len(slot_names(layout, train)))
    size = train.batch_size
    while size > 1 and activation_bytes(model, size * model.block_size, chosen, is_fused=is_fused) > room:
        size = math.ceil(size / 2)
    return size


def expected_bytes(model: ModelConfig, train: TrainConfig, plan: Plan) -> int:
    """Return about how much memory a run takes while it trains: of a GPU's, or of this machine's."""
    layout, n_tokens = Layout(model), plan.micro_batch * model.block_size
    n_slots = len(slot_names(layout, train))
    if plan.device != "cpu":
        precision, is_fused = PRECISIONS[plan.precision], has_fused_attention(plan.device, plan.precision, model)
        activations = activation_bytes(model, n_tokens, precision, is_fused=is_fused)
        return state_bytes(layout.size, precision, n_slots) + activations
    state = 4 * ((1 + n_slots) * layout.size + _gradients(layout, plan))
    return state + plan.lanes * (PROCESS_BYTES + cpu_activation_bytes(model, n_tokens, plan.lanes))


def _gradients(layout: Layout, plan: Plan) -> int:
    """Return how many numbers the gradients of all lanes are."""
    return layout.n_split + plan.lanes * (layout.size - layout.n_split)


def needed_bytes(model: ModelConfig, train: TrainConfig, plan: Plan) -> int:
    """Return the most memory that a run takes at once, of a GPU's or of this machine's: while it begins or trains."""
    expected = expected_bytes(model, train, plan)
    return expected if plan.device != "cpu" else max(expected, _start_bytes(model, train, plan))


def _start_bytes(model: ModelConfig, train: TrainConfig, plan: Plan) -> int:
    """Return how much of this machine's memory a run takes while it begins."""
    layout = Layout(model)
    state = (1 + len(slot_names(layout, train))) * layout.size
    copies = state  # of the snapshot
    if plan.device == "cpu":
        copies += state + _gradients(layout, plan)  # the same in the memory of the lanes, and gradients
    return 4 * copies


def require_memory(model: ModelConfig, train: TrainConfig, plan: Plan) -> None:
    """Raise MemoryError if a run would need more memory than there is.

    Without this, the system would grant it and end some program later, most likely this one, without a word.
    """
    layout = Layout(model)
    who = f"To train a model of {layout.size:,} parameters"
    if plan.device != "cpu":
        n_slots = len(slot_names(layout, train))
        needed, free = state_bytes(layout.size, PRECISIONS[plan.precision], n_slots), free_memory(plan.device)
        if needed > free:
            raise MemoryShortageError(
                f"{who} takes at least {amount(needed)}, and {amount(free)} are free on {plan.device}."
            )
    is_cpu, available = plan.device == "cpu", available_memory()
    needed = needed_bytes(model, train, plan) if is_cpu else _start_bytes(model, train, plan)
    if needed > available:
        where = "of memory" if is_cpu else f"of this machine's own memory besides {plan.device}'s"
        fact = f"{who} takes {amount(needed)} {where}, and {amount(available)} are available."
        raise MemoryShortageError(
            fact,
            advice=f"Fewer --lanes than {plan.lanes} and a smaller --micro-batch than {plan.micro_batch} take less.",
            page="A smaller n_embd, n_layer, block_size or batch_size takes less, and so do fewer lanes.",
        )
