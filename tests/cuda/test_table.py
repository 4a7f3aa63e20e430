"""The GPU's table against the reference: the same losses, gradients and updates, launched as on a GPU."""

from typing import Any

import numpy as np
import pytest

from scratchgpt.backend import Backend, reference
from scratchgpt.backend.gpu import memory
from scratchgpt.config import ModelConfig
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from tests.backends import emulated
from tests.cuda.checks import needs_emulator
from tests.cuda.device import Emulated
from tests.engine import steps

pytestmark = needs_emulator

SIZES: dict[str, Any] = {"vocab_size": 11, "block_size": 9, "n_layer": 2, "n_head": 3, "n_embd": 12}

CASES: list[dict[str, Any]] = [
    {},
    {"dropout": 0.2, "norm_epsilon": 0.1},
    {"bias": False, "tie_word_embeddings": False, "dropout": 0.5},
    {"activation": "relu", "n_embd": 15, "n_head": 3, "dropout": 0.1},
    {"n_embd": 32, "n_head": 2, "block_size": 33, "vocab_size": 67, "dropout": 0.2},
    {"head_bias": True, "tie_word_embeddings": False},
    {"vocab_size": 1025, "head_bias": True, "n_embd": 16, "n_head": 2, "block_size": 5, "n_layer": 1},
    {"n_embd": 64, "n_head": 1, "block_size": 70, "n_layer": 1, "dropout": 0.1},
    {"n_embd": 48, "n_head": 1, "block_size": 65, "n_layer": 1, "dropout": 0.2},
    {"n_embd": 32, "n_head": 2, "n_layer": 3, "n_inner": 37},
    {"n_embd": 32, "n_head": 2, "n_layer": 3, "n_inner": 20, "activation": "relu", "bias": False},
    {"n_embd": 15, "n_inner": 40},
    {"n_embd": 32, "n_head": 2, "n_inner": 1},
    {"norm": "rmsnorm", "norm_epsilon": 0.1, "dropout": 0.2},
    {"norm": "rmsnorm", "bias": False, "n_embd": 15, "n_head": 3},
]


def step(model: GPT, *, loss_scale: float = 1.0, is_weighed: bool = False) -> tuple[float, Array, Array]:
    """Return the loss and the gradients, added to random numbers, of two micro-batches; then the updated parameters.

    If it `is_weighed`, some targets do not count, and the others have weights.
    """
    rng, xp, to_numpy = np.random.default_rng(5), model.backend.xp, model.backend.to_numpy
    prefill = rng.normal(size=model.layout.size).astype(model.params.dtype) * 1e-3
    model.grads[...] = xp.asarray(prefill * loss_scale)
    tokens, targets = rng.integers(0, model.config.vocab_size, (2, 3, model.config.block_size))
    weights = rng.random(targets.shape) + 0.5 if is_weighed else None
    if is_weighed:
        targets[:2, 1] = -1
    loss = model.loss_and_grad(tokens, targets, weights, seed=2**40, step=3, micro_batch=2, loss_scale=loss_scale)
    grads = to_numpy(model.grads) / loss_scale - prefill
    recipe = steps.recipe(3, learning_rate=0.1, adam_epsilon=1e-2)
    steps.update_model(model, steps.slots_of(model, recipe), recipe, loss_scale=loss_scale)
    assert not model.grads.any()
    return loss, grads, to_numpy(model.params)


def compare(case: dict[str, Any], backend: Backend, *, is_weighed: bool = False) -> None:
    """Compare a step on a backend with the reference's."""
    config, precision = ModelConfig(**(SIZES | case)), backend.precision
    params = np.random.default_rng(4).normal(size=Layout(config).size) * 0.2
    expected = step(GPT(config, reference(), params.copy()), is_weighed=is_weighed)
    own = params.astype(precision.sums)
    model = GPT(config, backend, own)
    loss, grads, updated = step(model, loss_scale=256.0 if precision.has_loss_scale else 1.0, is_weighed=is_weighed)
    tolerance = precision.tolerance
    assert abs(loss - expected[0]) <= tolerance * expected[0]
    views, largest = model.layout.views, np.abs(expected[1]).max()
    for name, gradient in views(grads).items():
        error = np.abs(gradient - views(expected[1])[name]).max()
        assert error <= tolerance * largest, name
    assert np.abs(updated - expected[2]).max() <= 2 * tolerance
    rounded, master = model.tree.embed.token_table, views(updated)["transformer.wte.weight"]
    assert rounded.dtype == precision.matrices
    assert np.array_equal(backend.to_numpy(rounded), master.astype(precision.matrices))


@pytest.mark.parametrize("precision", ["fp64", "fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_a_step(case: dict[str, Any], precision: str) -> None:
    compare(case, emulated(Emulated(), precision))


@pytest.mark.parametrize("precision", ["fp64", "fp32", "fp16"])
def test_a_weighed_step(precision: str) -> None:
    compare(CASES[0], emulated(Emulated(), precision), is_weighed=True)


@pytest.mark.parametrize(("rows", "parts"), [(5, 28 + 14), (69, 3 + 2), (200, 2 + 1)])
def test_logits_in_parts(rows: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 140 and 70 rows: with memory for 69, the last part has 1; for 200, the first has 128."""
    monkeypatch.setattr(memory, "LOGIT_BYTES", rows * 16 * 4)
    device = Emulated()
    compare({"block_size": 70, "n_layer": 1}, emulated(device))
    assert device.launched.count("cross_entropy<float, 4>") == parts


def test_how_many_rows_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least one row, at most as many as there are, whole tiles if there is room for one, and no column is lost."""
    monkeypatch.setattr(memory, "LOGIT_BYTES", 300 * 16 * 4)
    assert [memory.logits_shape(n, 9, 4) for n in (5, 255, 257)] == [(5, 16), (255, 16), (256, 16)]
    assert [memory.logits_shape(500, V, 4) for V in (8, 17, 4800, 4801)] == [(500, 8), (128, 24), (1, 4800), (1, 4808)]
