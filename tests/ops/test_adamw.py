"""AdamW equals its formula, applied to one scalar after another."""

from hypothesis import given

from scratchgpt.ops import adamw
from tests.ops import checks
from tests.strategies import seeds


@given(seed=seeds)
def test_update(seed: int) -> None:
    checks.check_adamw(adamw, seed)


def test_norm() -> None:
    checks.check_norm(adamw)


def test_clip_scale() -> None:
    checks.check_clip_scale(adamw)


def test_default_settings() -> None:
    checks.check_settings(adamw)
