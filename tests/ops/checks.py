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
from scratchgpt.ops.cache import LayerCache, Span
from scratchgpt.ops.optimizer import State, Update
from scratchgpt.ops.table import AttentionParams, EmbedParams, HeadParams, Step
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


CAUSAL = np.triu(np.full((4, 4), -math.inf), 1)
"""Added to scores: a query looks at its own position and at earlier ones."""


def check_between(attention: ModuleType) -> None:
    """Queries of the last positions get the rows that they have among all; without a mask they meet every key."""
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 3, 4, 5))
    expected = plain.attention(q, k, v)
    for n in (1, 3, 4):
        assert_close(attention.between(q[:, :, -n:], k, v, CAUSAL[None, None, -n:]), expected[:, :, -n:])
    assert_close(attention.between(q[:, :, -1:], k, v, None), expected[:, :, -1:])


def check_span(cache: ModuleType) -> None:
    """New positions are behind the old ones of each sequence, and a query meets none that are later than its own."""
    even = cache.Span.of(range(1, 3), [2, 2], 1, np)
    assert even == (slice(1, 3), slice(2, 3), 2, 3)
    assert even.mask(np.zeros(0)) is None
    first = cache.Span.of([2], [0], 4, np)
    assert first == (slice(2, 3), slice(0, 4), 0, 4)
    assert np.array_equal(first.mask(np.zeros(0)), CAUSAL[None, None])
    apart = cache.Span.of([3, 1], [1, 1], 2, np)
    assert (apart.slots.tolist(), apart.positions, apart.n_met) == ([3, 1], slice(1, 3), 3)
    assert np.array_equal(apart.mask(np.zeros(0)), CAUSAL[None, None, 1:3, :3])
    for slots in (range(2, 4), [2, 0]):
        ragged = cache.Span.of(slots, [0, 2], 2, np)
        assert (ragged.positions.tolist(), ragged.n_kept, ragged.n_met) == ([[0, 1], [2, 3]], 2, 4)
        mask = ragged.mask(np.zeros(0, np.float32))
        assert mask.dtype == np.float32
        assert np.array_equal(mask, np.stack([CAUSAL[:2], CAUSAL[2:]])[:, None])
    assert cache.Span.of(range(2, 4), [2, 0], 1, np).slots == slice(2, 4)


def check_layer_cache(cache: ModuleType) -> None:
    """Each sequence's keys and values are kept in its own slot, and all that a query may meet come back."""
    B, H, D, room = 2, 3, 2, 5
    kept, rng = np.zeros((2, 4, H, room, D)), np.random.default_rng(0)
    expected = kept.copy()
    for slots, lengths, T in [
        (range(1, 3), (0, 0), 2),
        (range(1, 3), (2, 1), 2),
        ([3, 0], (0, 0), 1),
        ([3, 0], (1, 0), 2),
        ([0, 1], (2, 4), 1),
    ]:
        k, v = rng.normal(size=(2, B, H, T, D))
        for row, (slot, n) in enumerate(zip(slots, lengths, strict=True)):
            expected[0, slot, :, n : n + T], expected[1, slot, :, n : n + T] = k[row], v[row]
        span = cache.Span.of(slots, lengths, T, np)
        keys, values, mask = cache.LayerCache(*kept, span).extend(k, v)
        assert np.array_equal(kept, expected)
        n_met = max(lengths) + T
        assert np.array_equal(keys, expected[0, list(slots), :, :n_met])
        assert np.array_equal(values, expected[1, list(slots), :, :n_met])
        assert np.array_equal(mask, span.mask(k)) or mask is None


def check_extend(sublayers: ModuleType) -> None:
    """Sequences that grow by pieces, from any lengths on, get the rows that they have as a whole."""
    B, H, D, room = 2, 2, 5, 6
    C, rng = H * D, np.random.default_rng(0)
    shapes = ((C,), (C,), (C, 3 * C), (3 * C,), (C, C), (C,))
    params, x = AttentionParams(*(rng.normal(size=shape) for shape in shapes)), rng.normal(size=(B, room, C))
    attention, expected = sublayers.Attention(layernorm, 0.25, H), x.copy()
    qkv = plain.linear(plain.layernorm(x, params.gain, params.bias, 0.25), params.qkv_weight, params.qkv_bias)
    y = plain.attention(*qkv.reshape(B, room, 3, H, D).transpose(2, 0, 3, 1, 4))
    expected += plain.linear(y.transpose(0, 2, 1, 3).reshape(B, room, C), params.proj_weight, params.proj_bias)
    kept = np.zeros((2, B, H, room, D))
    for slots, lengths, T in [([1], (0,), 3), ([0, 1], (0, 3), 1), ([0], (1,), 2), ([0, 1], (3, 4), 2)]:
        span = Span.of(slots, lengths, T, np)
        places = [(slot, slice(n, n + T)) for slot, n in zip(slots, lengths, strict=True)]
        part = np.stack([x[place] for place in places])
        attention.extend(part, params, LayerCache(kept[0], kept[1], span))
        assert_close(part, np.stack([expected[place] for place in places]))


def check_at(sublayers: ModuleType) -> None:
    """Tokens stand at the positions that are given, the same for all sequences or each its own."""
    rng = np.random.default_rng(0)
    params, tokens = EmbedParams(rng.normal(size=(5, 3)), rng.normal(size=(4, 3))), np.array([[1, 2], [4, 0]])
    for positions, places in ((slice(1, 3), [[1, 2], [1, 2]]), (np.array([[0, 1], [2, 3]]), [[0, 1], [2, 3]])):
        x = sublayers.Embed().at(tokens, positions, params)
        assert_close(x, params.token_table[tokens] + params.position_table[np.array(places)])


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
