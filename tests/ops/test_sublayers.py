"""Every sublayer of the reference table, whole: its value, and the gradient of x and of each parameter."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.ops import sublayers
from tests.ops import cases, checks
from tests.ops.checks import check
from tests.strategies import rates, seeds, sizes

loss_scales = st.sampled_from((1.0, 0.5, 65536.0))


@given(B=sizes(3), T=sizes(4), C=sizes(3), V=sizes(5), unused=sizes(2, smallest=0), rate=rates, seed=seeds)
def test_embed(**drawn: Any) -> None:
    check(cases.embed(sublayers, **drawn))


@given(B=sizes(3), T=sizes(4), H=sizes(3), D=sizes(2), bias=st.booleans(), rate=rates, seed=seeds)
def test_attention(**drawn: Any) -> None:
    check(cases.attention_sublayer(sublayers, **drawn))


@given(
    B=sizes(3),
    T=sizes(4),
    C=sizes(4, smallest=2),
    activation=st.sampled_from(sorted(sublayers.ACTIVATIONS)),
    bias=st.booleans(),
    rate=rates,
    seed=seeds,
)
def test_mlp(**drawn: Any) -> None:
    check(cases.mlp_sublayer(sublayers, **drawn))


@given(
    B=sizes(3),
    T=sizes(4),
    C=sizes(4),
    V=sizes(5),
    n_targets=sizes(20),
    loss_scale=loss_scales,
    bias=st.booleans(),
    logit_bias=st.booleans(),
    seed=seeds,
)
def test_head_loss(**drawn: Any) -> None:
    check(cases.head_loss(sublayers, **drawn))


@given(n_decayed=sizes(5, smallest=0), clip=st.sampled_from((0.0, 0.5, 100.0)), loss_scale=loss_scales, seed=seeds)
def test_update(**drawn: Any) -> None:
    checks.check_update(sublayers, **drawn)


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_a_broken_gradient_changes_nothing(broken: float) -> None:
    checks.check_broken_update(sublayers, broken)


def test_keys_and_values() -> None:
    checks.check_keys_values(sublayers)


def test_context() -> None:
    checks.check_context(sublayers)


def test_heads_are_split_without_a_copy_and_merged_again() -> None:
    x = np.arange(2 * 3 * 8).reshape(2, 3, 8)
    split = sublayers.split_heads(x, 4)
    assert split.shape == (2, 4, 3, 2)
    assert np.shares_memory(split, x)
    assert split[1, 2, 0].tolist() == x[1, 0, 4:6].tolist()
    assert np.array_equal(sublayers.merge_heads(split), x)
