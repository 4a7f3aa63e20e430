"""A recipe as somebody types it: what it means, what is wrong with it, what it costs."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from scratchgpt import backend
from scratchgpt.config import RECORDS, ModelConfig, Patterns, TrainConfig, load_recipe, read_setting
from scratchgpt.engine.plan import default_plan, needed_bytes, require_memory
from scratchgpt.errors import UsageError, for_page
from scratchgpt.model.cost import training_flops
from scratchgpt.model.params import Layout

FIELDS = {
    field.name: field
    for record in RECORDS.values()
    for field in dataclasses.fields(record)
    if field.name != "vocab_size"
}
LONGEST_FIELD = 1000
EFFICIENCY = 0.4
"""Of the speed of a large matrix product, what a training step reaches on a CPU, roughly."""


SIDE, PRODUCTS, TURNS = 64, 20, 50
"""Of the matrices whose products are timed, so small that one thread computes them; of products together; of trials."""


class Cost(NamedTuple):
    """What a training takes."""

    n_parameters: int
    n_bytes: int  # of memory
    n_tokens: int  # in all steps
    seconds: float | None  # roughly; None on a GPU, of which nothing was measured
    shortage: str  # of memory, as a sentence; nothing if there is enough


def written(value: Any) -> str:
    """Return a setting as a person types it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(f"'{pattern}'" for pattern in value) + "]"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def preset_texts(preset: str) -> dict[str, str]:
    """Return the fields of a preset as one would type them."""
    settings = load_recipe(preset, None).settings
    return {name: written(settings[name].value) for name in FIELDS}


def size_texts(model: ModelConfig) -> dict[str, str]:
    """Return the fields that weights decide which exist, as one would type them."""
    return {name: written(value) for name, value in vars(model).items() if name in FIELDS and name != "dropout"}


def understood(name: str, text: str) -> Any:
    """Return the value of one field. Raises UsageError."""
    if len(text) > LONGEST_FIELD:
        raise UsageError(f"{name} must have at most {LONGEST_FIELD:,} characters.")
    if FIELDS[name].type == Patterns and not text.strip():
        return ()
    return read_setting(f"{name}={text.strip()}")[1]


def changes(preset: str, texts: Mapping[str, str]) -> list[str]:
    """Return the options that turn a preset into what was typed. Raises UsageError."""
    before = preset_texts(preset)
    changed = [name for name in FIELDS if understood(name, texts[name]) != understood(name, before[name])]
    return [word for name in changed for word in ("--set", f"{name}={texts[name].strip()}")]


def problems(texts: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong, by the field that it is about."""
    found: dict[str, str] = {}
    for record in RECORDS.values():
        values: dict[str, Any] = {"vocab_size": 1} if record is ModelConfig else {}
        names = [field.name for field in dataclasses.fields(record) if field.name in FIELDS]
        for name in names:
            try:
                values[name] = understood(name, texts[name])
            except UsageError as error:
                found[name] = str(error)
        if not found.keys() & set(names):
            try:
                record.from_mapping(values)
            except UsageError as error:
                about = next((name for name in names if str(error).startswith(f"{name} ")), names[0])
                found[about] = str(error)
    return found


def configs(texts: Mapping[str, str], vocab_size: int) -> tuple[ModelConfig, TrainConfig]:
    """Return what was typed, as records. Raises UsageError."""
    values = {name: understood(name, text) for name, text in texts.items()}
    model, train = (
        {field.name: values[field.name] for field in dataclasses.fields(record) if field.name in values}
        for record in (ModelConfig, TrainConfig)
    )
    return ModelConfig.from_mapping(model | {"vocab_size": vocab_size}), TrainConfig.from_mapping(train)


def cost(
    model: ModelConfig, train: TrainConfig, *, device: str, precision: str, lanes: int | None, rate: float
) -> Cost:
    """Return what a training takes, given the floating-point operations a second of a core. Raises UsageError."""
    plan = default_plan(model, train, lanes=lanes, device=device, precision=precision)
    seconds = None
    if device == "cpu":
        flops = training_flops(model, train.batch_size * model.block_size)
        seconds = train.steps * flops / (rate * EFFICIENCY * plan.lanes)
    n_tokens, shortage = train.steps * train.batch_size * model.block_size, ""
    try:
        require_memory(model, train, plan)
    except MemoryError as error:
        shortage = for_page(error)
    return Cost(Layout(model).size, needed_bytes(model, train, plan), n_tokens, seconds, shortage)


def matrix_rate() -> float:
    """Return how many floating-point operations a second a core makes here in matrix products."""
    a, best = np.ones((SIDE, SIDE), np.float32), math.inf
    for _ in range(TURNS):
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            a @ a
        best = min(best, time.perf_counter() - start)
    return PRODUCTS * 2 * SIDE**3 / best


def devices() -> list[str]:
    """Return what can compute here: the CPU, and a GPU if there is one that works."""
    try:
        return ["cpu", backend.resolve("gpu")]
    except UsageError:
        return ["cpu"]
