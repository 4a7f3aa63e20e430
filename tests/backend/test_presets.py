"""Every preset at its real sizes: gradients of the fast table in float32 beside the reference's in float64.

Two sequences stand for the batch. The larger models of GPT-2 are left out: they are the same code with more layers and
channels, and the reference would need tens of gigabytes.
"""

import numpy as np
import pytest

from scratchgpt.backend import reference
from scratchgpt.backend.workspace import Workspace
from scratchgpt.config import ModelConfig, load_preset, preset_names
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from tests.backends import on_cpu

LEFT_OUT = {"gpt2-medium", "gpt2-large", "gpt2-xl"}
PRESETS = [name for name in preset_names() if name not in LEFT_OUT]


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_gradients_of_presets(name: str) -> None:
    recipe = load_preset(name)
    changes = {"vocab_size": 50_257 if name.startswith("gpt") else 65, "dropout": 0.0}
    changes |= {"block_size": 256} if name == "gpt2" else {}
    config = ModelConfig.from_mapping(recipe.model | changes)
    layout = Layout(config)
    params = layout.initial(1)
    tokens, targets = np.random.default_rng(0).integers(0, config.vocab_size, (2, 2, config.block_size))
    fast = GPT(config, on_cpu(Workspace()), params)
    truth = GPT(config, reference(), params.astype(np.float64))
    assert abs(fast.loss_and_grad(tokens, targets) - truth.loss_and_grad(tokens, targets)) <= 1e-5
    expected = layout.views(truth.grads)
    for leaf, got in layout.views(fast.grads).items():
        assert np.abs(got - expected[leaf]).max() <= 1e-4 * np.abs(expected[leaf]).max(), leaf


def test_the_presets_left_out_exist() -> None:
    assert set(preset_names()) >= LEFT_OUT
