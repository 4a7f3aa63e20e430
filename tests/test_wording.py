"""Times in sentences: what something took, what is left of it, what it may take."""

import pytest

from scratchgpt.wording import duration, rough_duration, time_left


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, ""), (4.24, "4.2 s"), (59.94, "59.9 s"), (200, "3 min 20 s"), (3599.6, "1 h 0 min"), (7520, "2 h 5 min")],
)
def test_what_something_took(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.01, "1 s"), (99.5, "100 s"), (101, "2 min"), (5990, "1 h 40 min"), (12_000, "3 h 20 min")]
)
def test_what_is_left(seconds: float, said: str) -> None:
    assert time_left(seconds) == said


def test_what_something_may_take() -> None:
    times = (0.2, 99, 125, 5400, 7 * 3600, 86400 * 4, 86400 * 900, 3e9, 4e13)
    said = "1 s|99 s|2 min|90 min|7 h|4 days|2 years|95 years|over 1,000 years"
    assert "|".join(map(rough_duration, times)) == said
