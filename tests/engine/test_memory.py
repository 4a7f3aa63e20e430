"""How much memory a run on a CPU takes: what is predicted is what is drawn, and what cannot fit is refused."""

from typing import Any

import numpy as np
import pytest

from scratchgpt.backend.cpu.memory import activation_bytes
from scratchgpt.backend.workspace import Workspace
from scratchgpt.config import ModelConfig, TrainConfig, load_preset
from scratchgpt.engine import plan
from scratchgpt.engine.plan import Plan, default_plan, expected_bytes, require_memory
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from tests.backends import on_cpu
from tests.engine import steps

SIZES: dict[str, Any] = {"vocab_size": 65, "block_size": 128, "n_layer": 4, "n_head": 4, "n_embd": 128}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.2},
        {"vocab_size": 5000, "n_layer": 2},
        {"block_size": 512, "n_embd": 64, "dropout": 0.1},
        {"activation": "relu", "bias": False},
        {"n_inner": 1024},
        {"n_inner": 64},
    ],
)
def test_buffers_are_what_was_predicted(changes: dict[str, Any]) -> None:
    config, workspace, B = ModelConfig(**SIZES | changes), Workspace(), 4
    model = GPT(config, on_cpu(workspace), Layout(config).initial(1))
    tokens = np.zeros((B, config.block_size), np.int64)
    model.loss_and_grad(tokens, tokens)
    used = sum(buffer.nbytes for buffer in workspace._buffers.values())  # noqa: SLF001
    assert abs(activation_bytes(config, B * config.block_size, 1) / used - 1) <= 0.1


@pytest.mark.parametrize(
    ("preset", "vocab_size", "measured"),
    [("shakespeare-cpu", 65, 114), ("rust512", 65, 387), ("gpt-nano", 50_257, 224), ("baby-gpt", 65, 683)],
)
def test_runs_take_what_was_measured(preset: str, vocab_size: int, measured: float) -> None:
    """In MB, two lanes without dropout, by `scratchgpt bench`."""
    recipe = load_preset(preset)
    model = ModelConfig(**recipe.model | {"vocab_size": vocab_size, "dropout": 0.0})
    train = TrainConfig(**recipe.train)
    expected = expected_bytes(model, train, default_plan(model, train, lanes=2)) / 1e6
    assert abs(expected / measured - 1) <= 0.05


def test_activations_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(**SIZES)
    monkeypatch.setattr(plan, "available_memory", lambda: 1e9)
    require_memory(model, steps.recipe(16), Plan(2, micro_batch=16))
    with pytest.raises(
        MemoryError, match=r"takes 1\.\d GB of memory, and 1\.0 GB are available\. Fewer --lanes than 2 "
    ):
        require_memory(model, steps.recipe(16), Plan(2, micro_batch=128))
