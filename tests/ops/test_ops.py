"""Every op has the right value and the right gradient, at any size and for awkward numbers."""

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.ops import attention, cross_entropy, dropout, embedding, gelu, layernorm, linear, relu, rmsnorm, softmax
from tests.ops import cases
from tests.ops.checks import Case, check, check_dtype, check_heads, check_kink
from tests.strategies import kinds, rates, row_shapes, scales, seeds, sizes


@given(rows=row_shapes, K=sizes(4), N=sizes(4), bias=st.booleans(), kind=kinds, scale=scales, seed=seeds)
def test_linear(**drawn: Any) -> None:
    check(cases.linear(linear, **drawn))


@given(rows=row_shapes, C=sizes(5), bias=st.booleans(), kind=kinds, scale=scales, seed=seeds)
def test_layernorm(**drawn: Any) -> None:
    check(cases.layernorm(layernorm, **drawn))


@given(rows=row_shapes, C=sizes(5), bias=st.booleans(), kind=kinds, scale=scales, seed=seeds)
def test_rmsnorm(**drawn: Any) -> None:
    check(cases.rmsnorm(rmsnorm, **drawn))


@given(rows=row_shapes, C=sizes(5), kind=kinds, scale=scales, seed=seeds)
def test_gelu(**drawn: Any) -> None:
    check(cases.gelu(gelu, **drawn))


@given(rows=row_shapes, C=sizes(5), kind=kinds, scale=scales, seed=seeds)
def test_relu(**drawn: Any) -> None:
    check(cases.relu(relu, **drawn))


def test_heads_are_split_and_merged() -> None:
    check_heads(attention)


def test_relu_at_its_kink() -> None:
    check_kink(relu)


@given(rows=row_shapes, C=sizes(5), kind=kinds, scale=scales, seed=seeds)
def test_softmax(**drawn: Any) -> None:
    check(cases.softmax(softmax, **drawn))


@given(rows=row_shapes, C=sizes(5), rate=rates, seed=seeds)
def test_dropout(**drawn: Any) -> None:
    check(cases.dropout(dropout, **drawn))


@given(
    B=sizes(3),
    H=sizes(3),
    T=sizes(4),
    D=sizes(4),
    rate=rates,
    kind=kinds,
    scale=st.sampled_from((1.0, 0.01, 7.0)),  # logits go with its square
    seed=seeds,
)
def test_attention(**drawn: Any) -> None:
    check(cases.attention(attention, **drawn))


@given(B=sizes(3), T=sizes(4), C=sizes(3), V=sizes(6), unused=sizes(2, smallest=0), seed=seeds)
def test_embedding(**drawn: Any) -> None:
    check(cases.embedding(embedding, **drawn))


@given(N=sizes(4), V=sizes(6), kind=kinds, scale=scales, seed=seeds)
def test_cross_entropy(**drawn: Any) -> None:
    check(cases.cross_entropy(cross_entropy, **drawn))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("name", "build"), [(name, build) for name, builds in cases.EXAMPLES.items() for build in builds]
)
def test_a_smaller_float_type_is_kept(name: str, build: Callable[[ModuleType], Case], dtype: str) -> None:
    check_dtype(build(importlib.import_module(f"scratchgpt.ops.{name}")), dtype)


# -------------------------------------------------------------------------------------------- properties


@given(rows=row_shapes, C=sizes(5), kind=kinds, scale=scales, seed=seeds)
def test_softmax_gives_probabilities_and_ignores_a_common_shift(**drawn: Any) -> None:
    [x] = cases.softmax(softmax, **drawn).inputs
    y, _ = softmax.forward(x)
    assert np.all(y >= 0)
    assert np.allclose(y.sum(axis=-1), 1, rtol=0, atol=1e-14)
    assert np.allclose(softmax.forward(x + 64)[0], y, rtol=0, atol=1e-13)


def test_softmax_gives_nothing_to_minus_infinity() -> None:
    y, saved = softmax.forward(np.array([[-math.inf, 2.0, 2.0], [-math.inf, -math.inf, 5.0]]))
    assert y.tolist() == [[0, 0.5, 0.5], [0, 0, 1]]
    assert np.all(np.isfinite(softmax.backward(np.ones((2, 3)), saved)))


@given(T=sizes(5, smallest=2), rate=rates, seed=seeds)
def test_attention_sees_no_later_position(T: int, rate: float, seed: int) -> None:
    case = cases.attention(attention, T=T, rate=rate, seed=seed)
    before, _ = case.forward(*case.inputs)
    for x in case.inputs:
        x[..., -1, :] += 1
    after, _ = case.forward(*case.inputs)
    assert np.array_equal(before[..., :-1, :], after[..., :-1, :])
    assert not np.array_equal(before, after)


@given(rows=row_shapes, C=sizes(5), kind=kinds, scale=scales, seed=seeds)
def test_layernorm_gives_rows_of_mean_0_and_variance_1_but_for_epsilon(**drawn: Any) -> None:
    [x] = cases.layernorm(layernorm, **drawn).inputs[:1]
    y, _ = layernorm.forward(x, np.ones(x.shape[-1]))
    variance = x.var(axis=-1)
    assert np.allclose(y.mean(axis=-1), 0, rtol=0, atol=1e-11)
    assert np.allclose(y.var(axis=-1), variance / (variance + 1e-5), rtol=1e-9, atol=1e-9)


@given(rows=row_shapes, C=sizes(5), kind=kinds, scale=scales, seed=seeds)
def test_rmsnorm_gives_rows_of_mean_square_1_but_for_epsilon(**drawn: Any) -> None:
    [x] = cases.rmsnorm(rmsnorm, **drawn).inputs[:1]
    y, _ = rmsnorm.forward(x, np.ones(x.shape[-1]))
    square = (x * x).mean(axis=-1)
    assert np.allclose((y * y).mean(axis=-1), square / (square + 1e-5), rtol=1e-9, atol=1e-9)


@given(N=sizes(4), V=sizes(6), seed=seeds)
def test_cross_entropy_of_even_logits_is_log_of_their_number(N: int, V: int, seed: int) -> None:
    targets = np.random.default_rng(seed).integers(V, size=N)
    losses, _ = cross_entropy.forward(np.full((N, V), 3.0), targets)
    assert np.allclose(losses, math.log(V), rtol=1e-15, atol=0)
