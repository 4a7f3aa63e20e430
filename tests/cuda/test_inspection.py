"""What is seen inside a model on the stand-in for CuPy is what is seen on a CPU."""

import numpy as np
import pytest

from scratchgpt.backend import select
from scratchgpt.config import ModelConfig
from scratchgpt.inspection.inside import attention_maps, next_tokens, token_losses
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from tests.cuda.checks import needs_emulator

pytestmark = [needs_emulator, pytest.mark.usefixtures("cupy")]


def test_the_same_as_on_a_cpu() -> None:
    config = ModelConfig(vocab_size=70, block_size=7, n_layer=2, n_head=2, n_embd=16)
    params = np.random.default_rng(1).normal(size=Layout(config).size, scale=0.2).astype(np.float32)
    ids = np.random.default_rng(2).integers(0, 70, 20)
    there, here = (GPT(config, select(device), params.copy()) for device in ("gpu:0", "cpu"))
    maps = attention_maps(there, ids[:7])
    assert type(maps) is np.ndarray
    assert np.abs(maps - attention_maps(here, ids[:7])).max() <= 1e-5
    assert np.abs(token_losses(there, ids) - token_losses(here, ids)).max() <= 1e-4
    found, expected = next_tokens(there, ids, 3), next_tokens(here, ids, 3)
    assert found[0].tolist() == expected[0].tolist()
    assert np.abs(found[1] - expected[1]).max() <= 1e-5
