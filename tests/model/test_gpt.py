"""The GPT as a whole: its gradient, its micro-batches, its causality, and its loss before any training."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scratchgpt.backend import reference
from scratchgpt.chance import Place
from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.model import gpt
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops import dropout
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import ACTIVATIONS
from tests import gradcheck
from tests.world import CPU

SIZES: dict[str, Any] = {"vocab_size": 11, "block_size": 7, "n_layer": 2, "n_head": 3, "n_embd": 12}
KINDS: list[dict[str, Any]] = [
    *(
        {"tie_word_embeddings": tied, "bias": bias, "activation": activation}
        for tied, bias, activation in itertools.product((True, False), (True, False), ("gelu_new", "relu"))
    ),
    {"n_inner": 17},
    {"norm": "rmsnorm"},
    {"norm": "rmsnorm", "bias": False},
    {"tie_word_embeddings": False, "activation": "relu", "head_bias": True},
]

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: ",".join(f"{k}={v}" for k, v in kind.items()))


def lively(config: ModelConfig, dtype: npt.DTypeLike = np.float64) -> GPT:
    """Return a model whose every part matters: its parameters are large, no bias is 0, no gain 1."""
    rng = np.random.default_rng(0)
    params = Layout(config).initial(seed=0, dtype=np.float64)
    return GPT(config, CPU, (params + rng.normal(scale=0.3, size=params.shape)).astype(dtype))


def batch(config: ModelConfig, B: int = 3, T: int = 5) -> tuple[Array, Array]:
    """Return random tokens and targets (B, T), with repetitions."""
    tokens, targets = np.random.default_rng(1).integers(config.vocab_size, size=(2, B, T))
    return tokens, targets


# -------------------------------------------------------------------------------------------- gradient


def check_gradient(check: Callable[..., None], config: ModelConfig) -> None:
    """Assert the gradient of a weighed loss with respect to all parameters, under one fixed dropout mask."""
    tokens, targets = batch(config)
    targets[0, 1:3] = -1  # do not count
    weights = np.random.default_rng(3).normal(size=targets.shape)
    place: dict[str, Any] = {"seed": 5, "step": 6}
    model = lively(config)
    model.loss_and_grad(tokens, targets, weights, **place)

    def loss(params: Array) -> float:
        return GPT(config, CPU, params).loss_and_grad(tokens, targets, weights, **place)

    check(loss, [model.params], np.ones(()), [model.grads])


@kinds
def test_gradient(kind: dict[str, Any]) -> None:
    config = ModelConfig(**SIZES, **kind, dropout=0.2)
    check_gradient(partial(gradcheck.check_direction, rng=np.random.default_rng(2)), config)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-2], KINDS[-1]], ids=["most", "n_inner", "least"])
def test_every_coordinate_of_the_gradient(kind: dict[str, Any]) -> None:
    config = ModelConfig(vocab_size=5, block_size=6, n_layer=1, n_head=2, n_embd=4, **kind, dropout=0.2)
    check_gradient(gradcheck.check_coordinates, config)


@kinds
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 8])
def test_micro_batches_add_up_to_the_batch(kind: dict[str, Any], micro_batch: int) -> None:
    config = ModelConfig(**SIZES, **kind, dropout=0.2)
    tokens, targets = batch(config, B=5)
    whole, parts = lively(config), lively(config)
    loss = whole.loss_and_grad(tokens, targets, seed=5, step=6)
    assert abs(parts.loss_and_grad(tokens, targets, seed=5, step=6, micro_batch=micro_batch) - loss) <= 1e-12
    assert np.abs(parts.grads - whole.grads).max() <= 1e-12


def test_targets_that_do_not_count() -> None:
    """The loss is the mean over the others, whatever the micro-batches, and those have no gradient."""
    config = ModelConfig(**SIZES)
    tokens, targets = batch(config, B=4)
    masked = targets.copy()
    masked[1:] = -1  # whole micro-batches without a target
    masked[0, -2:] = -1
    model, alone = lively(config), lively(config)
    loss = model.loss_and_grad(tokens, masked, micro_batch=1)
    assert abs(loss - alone.loss_and_grad(tokens[:1, :-2], targets[:1, :-2])) <= 1e-12
    assert np.abs(model.grads - alone.grads).max() <= 1e-12
    score, expected = model.score(tokens, masked), model.score(tokens[:1, :-2], targets[:1, :-2])
    assert abs(score.loss - expected.loss) <= 1e-12
    assert score[1:] == expected[1:]
    assert score.n_targets == targets.shape[1] - 2


def test_weights_of_losses() -> None:
    """They multiply; the sum of losses is divided by the number of targets, not by the sum of weights."""
    config = ModelConfig(**SIZES)
    tokens, targets = batch(config)
    weights = np.zeros(targets.shape)
    weights[1] = -2.5
    model, alone = lively(config), lively(config)
    loss = model.loss_and_grad(tokens, targets, weights, micro_batch=2)
    factor = -2.5 / len(targets)
    assert abs(loss - factor * alone.loss_and_grad(tokens[1:2], targets[1:2])) <= 1e-12
    assert np.abs(model.grads - factor * alone.grads).max() <= 1e-12


def test_a_batch_without_targets_has_neither_loss_nor_gradient() -> None:
    model = lively(ModelConfig(**SIZES))
    tokens, targets = batch(model.config)
    assert model.loss_and_grad(tokens, np.full_like(targets, -1)) == 0
    assert not model.grads.any()
    assert model.score(tokens, np.full_like(targets, -1)) == (0, 0, 0)


def test_gradients_accumulate_until_the_update() -> None:
    model = lively(ModelConfig(**SIZES))
    loss = model.loss_and_grad(*batch(model.config))
    once = model.grads.copy()
    assert model.loss_and_grad(*batch(model.config)) == loss
    assert np.abs(model.grads - 2 * once).max() <= 1e-14


def test_dropout_follows_from_seed_and_step() -> None:
    model = lively(ModelConfig(**SIZES, dropout=0.2))
    places = [(1, 2), (1, 3), (2, 2), (1, 2)]
    losses = [model.loss_and_grad(*batch(model.config), seed=seed, step=step) for seed, step in places]
    assert len({*losses}) == 3
    assert losses[-1] == losses[0]


def test_every_dropout_mask_has_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[int, Place, int]] = []

    def spy(rate: float, **where: Any) -> Array:
        places.extend((where["layer"], where["place"], sequence) for sequence in where["sequences"])
        return draw(rate, **where)

    draw = dropout.mask
    monkeypatch.setattr(dropout, "mask", spy)
    model = lively(ModelConfig(**SIZES, dropout=0.2))
    model.use(reference())  # any other is held equal to it
    model.loss_and_grad(*batch(model.config), micro_batch=2)
    in_layers = Place.ATTENTION, Place.ATTENTION_OUTPUT, Place.MLP_OUTPUT
    expected = [(0, Place.EMBEDDING, sequence) for sequence in range(3)]
    expected += itertools.product(range(model.config.n_layer), in_layers, range(3))
    assert sorted(places) == sorted(expected)


# ------------------------------------------------------------------------------------- what it predicts


@kinds
def test_causality(kind: dict[str, Any]) -> None:
    model = lively(ModelConfig(**SIZES, **kind), np.float32)
    tokens, _ = batch(model.config, T=7)
    before = model.logits(model.hidden(tokens))
    for t in range(7):
        changed = tokens.copy()
        changed[:, t] = (changed[:, t] + 1) % model.config.vocab_size
        after = model.logits(model.hidden(changed))
        assert np.array_equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(axis=(0, 2)).all()


def test_the_activation_is_the_one_asked_for() -> None:
    models = [lively(ModelConfig(**SIZES, activation=name)) for name in ACTIVATIONS]
    losses = {model.score(*batch(model.config)).loss for model in models}
    assert len(losses) == len(ACTIVATIONS)


@pytest.mark.parametrize("n_rows", [1, 4, 2048])
def test_score_is_the_loss_of_the_logits(n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(**SIZES)
    monkeypatch.setattr(gpt, "EVALUATION_LOGITS", {"cpu": n_rows * config.vocab_size})
    model = lively(config)
    tokens, targets = batch(config)
    score = model.score(tokens, targets)
    logits = model.logits(model.hidden(tokens))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = np.take_along_axis(probabilities, targets[..., np.newaxis], axis=-1)
    assert score.n_targets == 15
    assert score.n_correct == (logits.argmax(axis=-1) == targets).sum()
    assert abs(score.loss + np.log(chosen).sum()) <= 1e-12 * score.loss
    assert abs(score.loss / 15 - model.loss_and_grad(tokens, targets)) <= 1e-12
    # A score is of the model in use: dropout has no part in it.
    assert GPT(ModelConfig(**SIZES, dropout=0.5), CPU, model.params).score(tokens, targets) == score


@pytest.mark.parametrize(
    ("V", "C", "tied"), [(65, 48, True), (65, 128, True), (1000, 128, True), (65, 256, False), (3000, 256, False)]
)
def test_first_loss(V: int, C: int, *, tied: bool) -> None:
    """The final norm gives rows of length √C, so logits of variance 0.02² C: the mean loss is ln V + 0.02² C / 2.

    A tied head adds a little, for each token at first predicts itself; so C is not much larger than V there. With
    2048 targets the mean's standard error is below 0.02 √C / √2048 = 0.007.
    """
    config = ModelConfig(vocab_size=V, block_size=64, n_layer=2, n_head=4, n_embd=C, tie_word_embeddings=tied)
    model = GPT(config, CPU, Layout(config).initial(seed=3))
    score = model.score(*batch(config, B=32, T=64))
    assert abs(score.loss / score.n_targets - (math.log(V) + 2e-4 * C)) <= 0.1


def test_a_single_token() -> None:
    model = lively(ModelConfig(**SIZES))
    tokens, targets = batch(model.config)
    longer = model.logits(model.hidden(tokens))
    assert np.abs(model.logits(model.hidden(tokens[:, :1])) - longer[:, :1]).max() <= 1e-13
    assert math.isfinite(model.loss_and_grad(tokens[:1, :1], targets[:1, :1]))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_ids_may_be_of_any_integer_type(dtype: npt.DTypeLike) -> None:
    model = lively(ModelConfig(**SIZES))
    tokens, targets = batch(model.config)
    assert model.score(tokens.astype(dtype), targets.astype(dtype)) == model.score(tokens, targets)


def test_more_tokens_than_the_model_sees() -> None:
    model = lively(ModelConfig(**SIZES))
    for use in (model.score, model.loss_and_grad):
        with pytest.raises(UsageError, match="8 tokens are more than this model's block_size of 7"):
            use(*batch(model.config, T=8))
