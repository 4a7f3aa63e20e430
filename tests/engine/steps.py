"""A step of an engine, as the trainer makes it, and the same of a model alone."""

from collections.abc import Mapping
from typing import Any

from scratchgpt.config import TrainConfig
from scratchgpt.engine.base import Engine
from scratchgpt.model.gpt import GPT
from scratchgpt.model.groups import apply, groups, slot_names
from scratchgpt.ops.adamw import clip_scale
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import Update


def recipe(batch_size: int, **changes: Any) -> TrainConfig:
    """Return a recipe for batches of this size."""
    return TrainConfig(**{"steps": 1, "batch_size": batch_size, "learning_rate": 1e-3} | changes)


def update(engine: Engine, learning_rate: float = 1e-3, *, clip: float = 1.0, number: int = 1) -> float:
    """Reduce, clip and update; return the norm of the gradients before clipping."""
    engine.reduce()
    norm = engine.norm()
    engine.update(Update(learning_rate, clip_scale(norm, clip), number))
    return norm


def slots_of(model: GPT, train: TrainConfig) -> dict[str, Array]:
    """Return what the rules keep before the first update, where the model's parameters are and of their type."""
    return {name: model.backend.xp.zeros_like(model.params) for name in slot_names(model.layout, train)}


def update_model(
    model: GPT, slots: Mapping[str, Array], train: TrainConfig, *, number: int = 1, loss_scale: float = 1.0
) -> float:
    """Clip and update as the recipe says; return the norm of the gradients before clipping."""
    norm = model.backend.norm(model.grads) / loss_scale
    now = Update(train.learning_rate, clip_scale(norm, train.grad_clip) / loss_scale, number)
    apply(model.backend.rules, groups(model.layout, train), model.state(slots), now)
    return norm
