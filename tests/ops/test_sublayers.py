"""Every sublayer of the reference table, whole: its value, and the gradient of x and of each parameter."""

from typing import Any

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
    is_weighed=st.booleans(),
    n_ignored=sizes(12, smallest=0),
    seed=seeds,
)
def test_head_loss(**drawn: Any) -> None:
    check(cases.head_loss(sublayers, **drawn))


def test_sequences_that_grow() -> None:
    checks.check_extend(sublayers)


def test_tokens_at_any_positions() -> None:
    checks.check_at(sublayers)


def test_the_table_of_an_architecture() -> None:
    checks.check_table(sublayers)


def test_masks() -> None:
    checks.check_masks(sublayers)


def test_gradients_that_are_not_wanted() -> None:
    checks.check_unwanted(sublayers)
