"""What must hold for every op, whichever it is, and for the few functions that are no op.

Each check takes what it tests as an argument, so that the same check can be given a wrong version of it.
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.chance import Place
from scratchgpt.config import ModelConfig
from scratchgpt.ops import layernorm, relu
from scratchgpt.ops.adamw import Moments, Settings
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import State, Update
from scratchgpt.ops.table import AttentionParams, HeadParams, Step
from tests import gradcheck
from tests.ops import plain


class Case(NamedTuple):
    """An op or sublayer with inputs to try it on; forward and backward are pure functions of float arrays."""

    forward: Callable[..., Any]  # (*inputs) -> y, saved
    backward: Callable[..., tuple[Array, ...]]  # (dy, saved, *inputs) -> the gradient of each input
    plain: Callable[..., Array]  # (*inputs) -> y
    inputs: list[Array]
    rng: np.random.Generator


def assert_close(actual: Array, expected: Array, tolerance: float = 1e-11) -> None:
    """Assert equal shapes, and differences within a part of the larger of 1 and the largest number expected."""
    assert np.shape(actual) == np.shape(expected)
    error = np.abs(actual - expected).max(initial=0)
    assert error <= tolerance * max(1, np.abs(expected).max(initial=0)) < math.inf, f"off by {error:.1e}"


# ------------------------------------------------------------------------------------------------- ops


def check(case: Case) -> None:
    """Value and gradient are right, nothing given is modified, and a second call gives the same bits."""
    given = [x.copy() for x in case.inputs]
    y, saved = case.forward(*case.inputs)
    assert_close(y, case.plain(*case.inputs))

    dy = case.rng.normal(size=np.shape(y))
    given_dy = dy.copy()
    gradients = case.backward(dy, saved, *case.inputs)
    gradcheck.check(lambda *inputs: case.forward(*inputs)[0], case.inputs, dy, gradients, case.rng)

    again = case.backward(dy, saved, *case.inputs)
    for first, second in zip([*gradients, *given, given_dy], [*again, *case.inputs, dy], strict=True):
        assert np.array_equal(first, second)


def check_dtype(case: Case, dtype: npt.DTypeLike) -> None:
    """In a smaller float type nothing is computed or saved in a larger, and results differ by its rounding only."""
    epsilon = float(np.finfo(dtype).eps)
    inputs = [x.astype(dtype) for x in case.inputs]
    exact = [x.astype(float) for x in inputs]
    y, saved = case.forward(*inputs)
    exact_y, exact_saved = case.forward(*exact)
    dy = case.rng.normal(size=np.shape(y)).astype(dtype)
    gradients = case.backward(dy, saved, *inputs)
    exact_gradients = case.backward(dy.astype(float), exact_saved, *exact)
    assert {array.dtype for array in [y, *gradients, *_float_arrays(saved)]} == {np.dtype(dtype)}
    for actual, expected in zip([y, *gradients], [exact_y, *exact_gradients], strict=True):
        assert_close(actual, expected, 32 * epsilon)


def _float_arrays(saved: Any) -> Iterator[Array]:
    """Every float array in a tree of tuples."""
    if isinstance(saved, tuple):
        for part in saved:
            yield from _float_arrays(part)
    elif isinstance(saved, np.ndarray) and saved.dtype.kind == "f":
        yield saved


def check_array_module(array: ModuleType) -> None:
    """A NumPy array belongs to NumPy."""
    assert array.array_module(np.zeros(1)) is np


def check_kink(relu: ModuleType) -> None:
    """At 0 itself, where ReLU has no derivative, the gradient is 0."""
    y, saved = relu.forward(np.zeros(3))
    assert not y.any()
    assert not relu.backward(np.ones(3), saved).any()


# ----------------------------------------------------------------------------------------------- chance


def check_places(chance: ModuleType) -> None:
    """The numbers of the places never change."""
    assert {place.name: place.value for place in chance.Place} == {
        "EMBEDDING": 0,
        "ATTENTION": 1,
        "ATTENTION_OUTPUT": 2,
        "MLP_OUTPUT": 3,
        "INITIALISATION": 16,
        "BATCH": 17,
        "SAMPLE": 18,
    }


def check_philox(chance: ModuleType, place: int, **where: int) -> None:
    """The bits are those of the published generator."""
    expected = list(islice(plain.random_words(place, **where), 9))
    assert chance.philox(place, **where).random_raw(9).tolist() == expected


def check_mask(dropout: ModuleType, rate: float, dtype: npt.DTypeLike = float, **where: Any) -> None:
    """The mask is the published generator's bytes against a threshold."""
    mask = dropout.mask(rate, dtype=dtype, **where)
    assert mask.dtype == dtype
    assert np.array_equal(mask, plain.dropout_mask(rate, **where).astype(dtype))


# ----------------------------------------------------------------------------------------------- update


def check_norm(adamw: ModuleType) -> None:
    """The norm is Euclid's, as a Python number, and is not finite if a gradient is not."""
    norm = adamw.norm(np.array([3.0, 0.0, -4.0]))
    assert type(norm) is float
    assert norm == 5
    assert adamw.norm(np.array([1.0, -math.inf])) == math.inf
    assert math.isnan(adamw.norm(np.array([1.0, math.nan])))


def check_clip_scale(adamw: ModuleType) -> None:
    """Gradients are scaled down to `max_norm`, never up, and not at all if it is 0."""
    assert adamw.clip_scale(4.0, 1.0) == 0.25
    assert adamw.clip_scale(0.9, 0.75) == 0.75 / 0.9
    assert [adamw.clip_scale(norm, 2.0) for norm in (0.0, 0.5, 1.9, 2.0)] == [1, 1, 1, 1]
    assert [adamw.clip_scale(norm, 0.0) for norm in (0.0, 0.5, 4.0)] == [1, 1, 1]


def check_settings(adamw: ModuleType) -> None:
    """The defaults are those of GPT-2's training, with the β₂ that small models like."""
    assert adamw.Settings() == (0.9, 0.99, 0.1, 1e-8)


SETTINGS = Settings(beta1=0.8, beta2=0.95, weight_decay=0.3, epsilon=0.05)
"""Not the defaults, and strong: every term shows in the result."""


def check_adamw(adamw: ModuleType, seed: int = 0) -> None:
    """Three updates equal those of a loop over scalars; the gradients are left alone."""
    rng = np.random.default_rng(seed)
    params, moments = rng.normal(size=5), Moments(np.zeros(5), np.zeros(5))
    expected = [array.tolist() for array in (params, *moments)]
    for update_number in (1, 2, 3):
        grads = rng.normal(size=5)
        given = grads.copy()
        param, first, second = expected
        expected = list(plain.adamw(param, given.tolist(), first, second, SETTINGS, 0.1, update_number))
        adamw.update(params, grads, moments, SETTINGS, learning_rate=0.1, update_number=update_number)
        assert_close(np.array([params, *moments]), np.array(expected))
        assert np.array_equal(grads, given)


def check_rule(optimizer: ModuleType, *, span: slice = slice(1, 4), scale: float = 0.25, seed: int = 0) -> None:
    """Three updates of a range equal those of a loop over scalars; what is outside of it stays as it is."""
    rng = np.random.default_rng(seed)
    params, first, second = rng.normal(size=5), np.zeros(5), np.zeros(5)
    for number in (1, 2, 3):
        grads = rng.normal(size=5)
        before = [array.copy() for array in (params, grads, first, second)]
        expected = [array.tolist() for array in before]
        scaled = [scale * grad for grad in expected[1][span]]
        moved = plain.adamw(expected[0][span], scaled, expected[2][span], expected[3][span], SETTINGS, 0.1, number)
        for array, part in zip((expected[0], expected[2], expected[3]), moved, strict=True):
            array[span] = part
        expected[1][span] = [0.0] * len(scaled)
        state = State(params, grads, {"second": second, "first": first})
        optimizer.RULES["adamw"](state, span, SETTINGS, Update(0.1, scale, number))
        assert_close(np.array([params, grads, first, second]), np.array(expected))
    assert optimizer.SLOTS == {"adamw": ("first", "second")}


def check_keys_values(sublayers: ModuleType) -> None:
    """What is kept of a forward are its keys and its values, head by head."""
    B, T, H, D = 2, 3, 2, 5
    C, rng = H * D, np.random.default_rng(0)
    x, gain, weight = rng.normal(size=(B, T, C)), rng.normal(size=C), rng.normal(size=(C, 3 * C))
    params = AttentionParams(gain, None, weight, None, np.eye(C), None)
    qkv = plain.linear(plain.layernorm(x, gain, None), weight)
    attention = sublayers.Attention(layernorm, layernorm.EPSILON, H)
    kept = attention.keys_values(attention.forward(x, params, Step(), 0), params)
    for i, array in enumerate(kept, 1):
        assert_close(array, qkv[..., i * C : (i + 1) * C].reshape(B, T, H, D).transpose(0, 2, 1, 3))


def check_table(sublayers: ModuleType) -> None:
    """An architecture's choices arrive in the sublayers of its table; the head gives logits."""
    sizes: dict[str, Any] = {"vocab_size": 5, "block_size": 3, "n_layer": 1, "n_head": 2, "n_embd": 4}
    config = ModelConfig(**sizes, activation="relu", norm_epsilon=0.25)
    table = sublayers.table(config)
    assert [(part.norm, part.epsilon) for part in (table.attention, table.mlp, table.head)] == [(layernorm, 0.25)] * 3
    assert table.attention.n_head == 2
    assert table.mlp.activation is relu
    rng = np.random.default_rng(0)
    x, params = rng.normal(size=(2, 3, 4)), HeadParams(*(rng.normal(size=n) for n in (4, 4, (5, 4), 5)))
    normed = plain.layernorm(x, params.gain, params.bias, 0.25)
    assert_close(table.head.logits(x, params), plain.linear(normed, params.weight.T, params.logit_bias))


def check_weigh(cross_entropy: ModuleType) -> None:
    """Targets of -1 become 0, of weight 0."""
    targets = np.array([[3, -1], [0, 5]])
    for weights, expected in ((None, [1, 0, 1, 1]), (np.array([[0.5, 7], [-2, 0]]), [0.5, 0, -2, 0])):
        ids, found = cross_entropy.weigh(targets, weights, np.float32)
        assert ids.tolist() == [3, 0, 0, 5]
        assert found.tolist() == expected
        assert found.dtype == np.float32


def check_masks(sublayers: ModuleType) -> None:
    """By default a model is used, not trained: no dropout, one prediction."""
    step = Step()
    assert (step.dropout, step.n_targets, step.loss_scale, step.weights) == (0, 1, 1, None)
    assert (step.seed, step.step, step.sequences) == (0, 0, ())
    assert sublayers.dropout_mask(step, Place.EMBEDDING, 0, (1,), np.zeros(1)) is None


def check_unwanted(sublayers: ModuleType) -> None:
    """A gradient of None is not added to."""
    sublayers.accumulate(None, np.ones(2))
    grad = np.ones(2)
    sublayers.accumulate(grad, np.full(2, 3.0))
    assert grad.tolist() == [4, 4]


def check_heads(attention: ModuleType) -> None:
    """Heads are split without a copy, and merged again."""
    x = np.arange(2 * 3 * 8).reshape(2, 3, 8)
    split = attention.split_heads(x, 4)
    assert split.shape == (2, 4, 3, 2)
    assert np.shares_memory(split, x)
    assert split[1, 2, 0].tolist() == x[1, 0, 4:6].tolist()
    assert np.array_equal(attention.merge_heads(split), x)
