"""The learning rate's course."""

import itertools
import math

import pytest

from scratchgpt.config import TrainConfig
from scratchgpt.training.schedule import learning_rate


def config(**settings: float) -> TrainConfig:
    return TrainConfig.from_mapping({"steps": 100, "batch_size": 1, "learning_rate": 2.0} | settings)


def test_constant_by_default() -> None:
    assert {learning_rate(config(), step) for step in range(100)} == {2.0}


def test_warm_up_then_cosine_to_the_ratio() -> None:
    settings = config(warmup_steps=10, min_lr_ratio=0.1)
    rates = [learning_rate(settings, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)], rel=1e-12)
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(2.0 * (0.1 + 0.9 / 2), rel=1e-12)
    assert rates[40] == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2), rel=1e-12)
    assert rates[100] == pytest.approx(0.2, rel=1e-12)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_beyond_the_last_step_it_stays() -> None:
    assert learning_rate(config(min_lr_ratio=0.1), 1000) == pytest.approx(0.2, rel=1e-12)


def test_warm_up_does_not_depend_on_the_number_of_steps() -> None:
    """So that a run of 10 steps, resumed to 20, repeats a run of 20 steps inside its warm-up."""
    short, long = config(steps=10, warmup_steps=50), config(steps=20, warmup_steps=50)
    assert [learning_rate(short, step) for step in range(10)] == [learning_rate(long, step) for step in range(10)]
