"""Rounds: the quiet ones count, the interval covers the median as often as it says, and doubts are said."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from scratchgpt.bench import rounds
from scratchgpt.bench.processes import Load
from scratchgpt.bench.rounds import Rounds, Turn, joined, play, spread

KEYS = [("ours", "steps"), ("peer", "steps")]


def loads(shares: list[float]) -> Callable[[], Load | None]:
    """Return a meter on a machine of one core whose rounds take a second and have these shares of foreign load."""

    def readings() -> Iterator[Load]:
        foreign, total = 100.0, 1000.0
        for share in shares:
            yield Load(foreign, total)
            foreign, total = foreign + share, total + 1
            yield Load(foreign, total)

    return readings().__next__


def played(shares: list[float], n_rounds: int) -> tuple[Rounds, list[str]]:
    """Play rounds in which each turn takes as many seconds as turns were before; return them, and who had turns."""
    order: list[str] = []

    def turn(name: str) -> Turn:
        order.append(name)
        return Turn([float(len(order))])

    load = loads(shares) if shares else lambda: None
    turns = {key: lambda name=key[0]: turn(name) for key in KEYS}
    return play(turns, n_rounds, progress=lambda _: None, load=load), order


def seconds(found: Rounds) -> list[float]:
    return [turn.seconds[0] for turn in found.of("ours", "steps")]


def test_quiet_rounds_all_count_and_every_second_goes_backwards() -> None:
    found, order = played([0.0, 0.05, 0.01], 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert seconds(found) == [1, 4, 5]
    assert found.about() == {"rounds": 3, "discarded_rounds": 0, "foreign_share": pytest.approx(0.01)}
    assert found.doubts({}) == []


def test_a_round_with_foreign_load_is_made_again() -> None:
    found, order = played([0.01, 0.06, 0.8, 0.02], 2)
    assert len(order) == 8
    assert seconds(found) == [1, 8]
    assert found.about() == {"rounds": 2, "discarded_rounds": 2, "foreign_share": pytest.approx(0.015)}
    assert found.doubts({}) == []


def test_a_machine_that_stays_busy_makes_all_rounds_count_and_the_results_doubtful() -> None:
    found, _ = played([0.0, *[0.9] * 20], 7)
    assert len(found.samples) == 21
    assert found.about() == {"rounds": 21, "discarded_rounds": 0, "foreign_share": pytest.approx(0.9)}
    [doubt] = found.doubts({})
    assert doubt.startswith("Other programs kept 90% of the cores busy, and 20 of 21 rounds were not quiet")


def test_six_quiet_rounds_are_enough_though_more_were_asked_for() -> None:
    found, _ = played([0.0, 0.9] * 6 + [0.9] * 9, 7)
    assert found.about() == {"rounds": 6, "discarded_rounds": 15, "foreign_share": 0}
    assert found.doubts({}) == []


def test_a_system_that_does_not_report_its_load() -> None:
    found, order = played([], 3)
    assert len(order) == 6
    assert found.about() == {"rounds": 3, "discarded_rounds": None, "foreign_share": None}
    assert found.doubts({}) == []


def test_of_several_starts_each_is_a_sample() -> None:
    starts = [played([0.0, 0.01, 0.9, 0.0], 3)[0], played([0.9] * 9, 3)[0]]
    found = joined(starts)
    assert found.about() == {"rounds": 12, "discarded_rounds": 1, "foreign_share": pytest.approx(0.45)}
    assert [turn.seconds for turn in found.of("ours", "steps")] == [[1, 4, 8], [1, 4, 5, 8, 9, 12, 13, 16, 17]]
    assert len(found.doubts({})) == 1
    assert joined(starts[:1]) is starts[0]
    unknown = joined([played([], 2)[0]] * 2)
    assert unknown.about() == {"rounds": 4, "discarded_rounds": None, "foreign_share": None}
    assert unknown.doubts({}) == []


def test_doubtful_intervals() -> None:
    few, _ = played([], 5)
    assert few.doubts({"a / b": spread([1.0] * 5)}) == [
        "For an interval there are too few rounds or starts. Use 6 or more --rounds, or as many --starts."
    ]
    enough, _ = played([], 6)
    narrow, wide = spread([1.0, 1.05] * 3), spread([1.0, 1.12] * 3)
    [doubt] = enough.doubts({"a / b": narrow, "c / b": wide})
    assert doubt == "The interval of c / b is wider than 10% of the ratio. Use more --rounds."


@pytest.mark.parametrize(
    ("n", "low", "high"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (15, 4, 12), (20, 6, 15), (60, 22, 39)]
)
def test_interval_has_the_ends_of_the_sign_test(n: int, low: int, high: int) -> None:
    """Its probability to cover is 95% at least, and one value less at each end would not do."""
    values = [float(value) for value in np.random.default_rng(n).permutation(np.arange(1, n + 1))]
    assert rounds.interval(values) == (low, high)
    outside = [2 * sum(math.comb(n, k) for k in range(least)) / 2**n for least in (low, low + 1)]
    assert outside[0] <= 0.05 < outside[1]


@pytest.mark.parametrize("n", range(1, 6))
def test_five_values_have_no_interval(n: int) -> None:
    assert rounds.interval([1.0] * n) == (None, None)


def test_interval_covers_the_median_of_a_lopsided_distribution() -> None:
    """For 15 values the exact probability is 96.5%."""
    draws = np.random.default_rng(1).exponential(size=(4000, 15))
    intervals = np.array([rounds.interval(row.tolist()) for row in draws])
    covered = ((intervals[:, 0] <= math.log(2)) & (math.log(2) <= intervals[:, 1])).mean()
    assert abs(covered - 0.965) <= 0.01


def test_processor_times_are_compared_only_where_they_are_known() -> None:
    known, unknown = [Turn([1.0], 3.0), Turn([1.0], 6.0)], [Turn([1.0], 2.0), Turn([1.0])]
    assert rounds.cpu_ratios(known, known[::-1])["median"] == 1.25
    assert rounds.cpu_ratios(known, unknown)["median"] is None


def test_length_of_a_turn_follows_the_slowest_contender() -> None:
    assert rounds.length([0.01, 0.1], least=1, most=10) == 3
    assert rounds.length([0.001, 0.002], least=1, most=10) == 10
    assert rounds.length([40.0], least=1, most=10) == 1
