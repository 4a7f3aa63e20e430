"""The reference's rules move a range of the parameters, and no other."""

from hypothesis import given
from hypothesis import strategies as st

from scratchgpt.ops import optimizer
from tests.ops import checks
from tests.strategies import seeds


@given(start=st.integers(0, 4), size=st.integers(1, 5), scale=st.sampled_from((1.0, 0.5, 1e-3)), seed=seeds)
def test_adamw(start: int, size: int, scale: float, seed: int) -> None:
    checks.check_rule(optimizer, span=slice(start, min(start + size, 5)), scale=scale, seed=seed)
