"""The whole model against PyTorch's GPT-2, from files that `scripts/make_golden` wrote: PyTorch is not needed here.

The files' numbers were computed in float64 from float32 parameters. Our float64 model must agree to all but the last
digits, our float32 model to its own rounding.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from scratchgpt.backend import Backend, reference
from scratchgpt.config import ModelConfig
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from tests.engine import steps
from tests.world import CPU

FOLDER = Path(__file__).parents[1] / "golden"


class Tolerance(NamedTuple):
    """The errors allowed in one float type."""

    logits: float
    gradients: float  # as a part of each gradient's largest entry
    losses: float  # after up to 20 steps
    norms: float


TOLERANCES = {
    np.float32: Tolerance(logits=1e-5, gradients=1e-5, losses=1e-4, norms=1e-4),
    # PyTorch clips by limit / (norm + 1e-6): its clipped gradients are smaller by a few parts in ten million.
    np.float64: Tolerance(logits=1e-12, gradients=1e-12, losses=1e-7, norms=1e-7),
}


class Golden(NamedTuple):
    """One file, the model that it describes, and how near the two must be."""

    file: dict[str, Any]
    about: dict[str, Any]
    model: GPT
    tolerance: Tolerance


@pytest.fixture(params=["gpt2_bias", "gpt2_no_bias"])
def file(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    with np.load(FOLDER / f"{request.param}.npz") as arrays:
        yield dict(arrays)


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return reference() if request.param == "reference" else CPU


@pytest.fixture(params=TOLERANCES, ids=lambda dtype: dtype.__name__)
def golden(file: dict[str, Any], backend: Backend, request: pytest.FixtureRequest) -> Golden:
    about = json.loads(str(file["about"]))
    config = ModelConfig(**about["config"])
    params = np.empty(Layout(config).size, request.param)
    for name, view in Layout(config).views(params).items():
        view[...] = file[f"params/{name}"]
    return Golden(file, about, GPT(config, backend, params), TOLERANCES[request.param])


def largest(x: Array) -> float:
    return float(np.abs(x).max())


def test_logits_and_loss(golden: Golden) -> None:
    model, file = golden.model, golden.file
    logits = model.logits(model.hidden(file["tokens"][0]))
    assert logits.dtype == model.params.dtype
    assert largest(logits - file["logits"]) <= golden.tolerance.logits
    score = model.score(file["tokens"][0], file["targets"][0])
    assert abs(score.loss / score.n_targets - file["loss"]) <= golden.tolerance.logits


def test_every_gradient(golden: Golden) -> None:
    model, file = golden.model, golden.file
    loss = model.loss_and_grad(file["tokens"][0], file["targets"][0])
    assert abs(loss - file["loss"]) <= golden.tolerance.logits
    gradients = model.layout.views(model.grads)
    assert {f"grads/{name}" for name in gradients} == {name for name in file if name.startswith("grads/")}
    for name, gradient in gradients.items():
        expected = file[f"grads/{name}"]
        # A key's bias moves all scores of a query alike: its third of c_attn.bias has gradient 0, ours but rounding.
        assert largest(gradient - expected) <= golden.tolerance.gradients * largest(expected), name


def test_twenty_steps(golden: Golden) -> None:
    model, file, clip = golden.model, golden.file, golden.about["clip"]
    assert min(file["norms"]) < clip < max(file["norms"])
    settings = golden.about["adamw"]
    train = steps.recipe(1, grad_clip=clip, adam_epsilon=settings.pop("epsilon"), **settings)
    slots = steps.slots_of(model, train)
    for step, (expected_loss, expected_norm) in enumerate(zip(file["losses"], file["norms"], strict=True)):
        batch = step % len(file["tokens"])
        loss = model.loss_and_grad(file["tokens"][batch], file["targets"][batch])
        norm = steps.update_model(model, slots, train, number=step + 1)
        assert abs(loss - expected_loss) <= golden.tolerance.losses
        assert abs(norm - expected_norm) <= golden.tolerance.norms
