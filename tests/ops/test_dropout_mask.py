"""A dropout mask is a function of where it is used: bit for bit the published generator's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchgpt import chance
from scratchgpt.chance import Place
from scratchgpt.ops import dropout
from scratchgpt.ops.array import Array
from tests.ops.checks import check_mask, check_philox, check_places
from tests.strategies import seeds, sizes

numbers = st.integers(0, 2**64 - 1)
places = st.sampled_from(Place)


def test_places_keep_their_numbers() -> None:
    check_places(chance)


@given(place=places, seed=numbers, step=numbers, sequence=numbers, layer=numbers)
def test_bits_are_those_of_philox(**where: Any) -> None:
    check_philox(chance, **where)


@given(
    rate=st.floats(0, 0.9),
    dtype=st.sampled_from(("float16", "float32", "float64")),
    seed=seeds,
    step=seeds,
    sequences=st.lists(seeds, min_size=1, max_size=3),
    layer=sizes(50, smallest=0),
    place=places,
    shape=st.lists(sizes(4), max_size=3).map(tuple),
)
def test_mask_is_the_bits_against_a_threshold(**drawn: Any) -> None:
    check_mask(dropout, **drawn)


USUAL: dict[str, Any] = {
    "seed": 1,
    "step": 2,
    "sequences": range(4),
    "layer": 3,
    "place": Place.ATTENTION,
    "shape": (8, 8),
    "dtype": "float32",
}


def mask(rate: float = 0.1, **changes: Any) -> Array:
    """Draw a mask somewhere in a run, with some of that changed."""
    return dropout.mask(rate, **USUAL | changes)


@pytest.mark.parametrize("rate", [0, 0.1, 0.5])
def test_rate_is_rounded_to_a_256th_and_kept_by_chance(rate: float) -> None:
    drawn = mask(rate, shape=(100, 250))
    dropped = round(rate * 256) / 256
    assert set(np.unique(drawn)) <= {0, np.float32(1 / (1 - dropped))}
    deviation = np.sqrt(dropped * (1 - dropped) / drawn.size)
    assert abs(np.mean(drawn == 0) - dropped) <= 4 * deviation


def test_a_sequence_has_its_mask_in_whatever_company() -> None:
    company = [3, 1, 2]
    assert np.array_equal(mask(sequences=company), mask()[company])
    assert np.array_equal(mask(sequences=company[1:]), mask()[company[1:]])


@pytest.mark.parametrize(
    "change",
    [{"seed": 7}, {"step": 7}, {"layer": 7}, {"place": Place.MLP_OUTPUT}, {"sequences": range(4, 8)}],
    ids=lambda change: next(iter(change)),
)
def test_elsewhere_the_mask_is_another(change: dict[str, Any]) -> None:
    assert not np.array_equal(mask(**change), mask())
