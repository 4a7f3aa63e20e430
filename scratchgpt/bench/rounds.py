"""Rounds in which contenders take turns: which of them count, and how far their ratios can be trusted."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from scratchgpt.bench import processes

Key = tuple[str, str]
"""A contender's name, and the kind of its turn."""

TURN_SECONDS = 0.3
"""Time that a turn of the slowest contender takes, unless the number of steps or tokens is given."""
MOST_FOREIGN = 0.05
"""Share of the cores that other programs may keep busy in a quiet round."""
MOST_ATTEMPTS = 3
"""Rounds made at most for each round asked for."""
LEAST_ROUNDS = 6
"""Rounds that an interval needs: all of 5 values lie on one side of the median with a chance of 2 / 2⁵, above 5%."""
WIDEST = 0.1
"""Width of a ratio's interval, as a share of the ratio, above which the ratio is not worth quoting."""


class Turn(NamedTuple):
    """The measurements of one turn."""

    seconds: list[float]  # of each step or token that counts
    cpu: float = 0.0  # processor seconds of the whole turn; 0 where the system does not report them


@dataclasses.dataclass(frozen=True)
class Rounds:
    """The rounds that count: the quiet ones, or all if too few are quiet."""

    turns: list[dict[Key, Turn]]
    n_asked: int
    n_made: int
    n_busy: int | None  # None where the system does not report its load
    foreign_share: float | None  # of the cores, busy with other programs: median of the rounds that count

    def of(self, *key: str) -> list[Turn]:
        """Return the turn of each round under a key."""
        return [turns[key[0], key[1]] for turns in self.turns]

    def about(self) -> dict[str, Any]:
        """Return the entries of a record; None stands for values that the system does not report."""
        discarded = None if self.n_busy is None else self.n_made - len(self.turns)
        return {"rounds": len(self.turns), "discarded_rounds": discarded, "foreign_share": self.foreign_share}

    def doubts(self, intervals: Mapping[str, Mapping[str, float | None]]) -> list[str]:
        """Return the reasons not to quote the results. `intervals` are spreads of ratios, by their names."""
        found = []
        if self.n_busy is not None and self.n_made - self.n_busy < self.n_needed:
            found.append(
                f"Other programs kept {self.foreign_share:.0%} of the cores busy, and {self.n_busy} of {self.n_made} "
                "rounds were not quiet, so all count. Processor time suffers less from this."
            )
        if intervals and len(self.turns) < LEAST_ROUNDS:
            found.append(f"{len(self.turns)} rounds give no interval. Use --rounds {LEAST_ROUNDS} or more.")
        for name, spread in intervals.items():
            low, middle, high = spread["low"], spread["median"], spread["high"]
            if low is not None and middle is not None and high is not None and high - low > WIDEST * middle:
                found.append(f"The interval of {name} is wider than {WIDEST:.0%} of the ratio. Use more --rounds.")
        return found

    @property
    def n_needed(self) -> int:
        """Quiet rounds without which all rounds count."""
        return min(self.n_asked, LEAST_ROUNDS)


def play(
    turns: Mapping[Key, Callable[[], Turn]],
    n_rounds: int,
    *,
    progress: Callable[[str], None],
    load: Callable[[], processes.Load | None] = processes.load,
) -> Rounds:
    """Make rounds until `n_rounds` are quiet, but not more than `MOST_ATTEMPTS` times as many.

    Every second round goes backwards, so that a drift of the machine's speed favours no contender.
    """
    made: list[dict[Key, Turn]] = []
    shares: list[float] = []  # of the cores, busy with other programs
    for number in itertools.count(1):
        before = load()
        made.append({})
        for name, kind in list(turns)[:: 1 if number % 2 else -1]:
            progress(f"round {number}, {name}: {kind}")
            made[-1][name, kind] = turns[name, kind]()
        after = load()
        if before and after and after.total > before.total:
            shares.append((after.foreign - before.foreign) / (after.total - before.total))
        n_quiet = sum(share <= MOST_FOREIGN for share in shares) if shares else number
        if n_quiet == n_rounds or number == MOST_ATTEMPTS * n_rounds:
            break
    rounds = Rounds(made, n_rounds, number, number - n_quiet if shares else None, median(shares) if shares else None)
    if n_quiet == number or n_quiet < rounds.n_needed:
        return rounds
    quiet = [(turn, share) for turn, share in zip(made, shares, strict=True) if share <= MOST_FOREIGN]
    kept, foreign = zip(*quiet, strict=True)
    return dataclasses.replace(rounds, turns=list(kept), foreign_share=median(foreign))


def length(seconds: Iterable[float], *, least: int, most: int) -> int:
    """Return the number of steps or tokens in a turn, from the seconds that one takes each contender."""
    return min(most, max(least, math.ceil(TURN_SECONDS / max(seconds))))


def ratios(theirs: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, float | None]:
    """Return the spread over the rounds of (median of their seconds / median of our seconds in the same round)."""
    return spread(median(turn.seconds) / median(our.seconds) for turn, our in zip(theirs, ours, strict=True))


def cpu_ratios(theirs: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, float | None]:
    """Return the spread over the rounds of the ratio of processor times; all None where they are not reported."""
    if not all(turn.cpu for turn in (*theirs, *ours)):
        return dict.fromkeys(("median", "min", "max", "low", "high"))
    return spread(turn.cpu / our.cpu for turn, our in zip(theirs, ours, strict=True))


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Return median and extremes, and the ends of the median's interval."""
    found = list(values)
    low, high = interval(found)
    return {"median": median(found), "min": min(found), "max": max(found), "low": low, "high": high}


def interval(values: Iterable[float]) -> tuple[float, float] | tuple[None, None]:
    """Return a 95% confidence interval of the median; (None, None) for fewer than 6 values.

    The number of values below the true median is binomial, B(n, 1/2), whatever their distribution. So the k-th smallest
    and the k-th largest value enclose the median with 95% probability or more, if P(B(n, 1/2) < k) is at most 2.5%;
    k is the largest such number. W. R. Thompson, Annals of Mathematical Statistics 7 (1936), pages 122 to 128.
    """
    ordered = sorted(values)
    n, k, below = len(ordered), 0, 1
    while below <= 0.025 * 2**n:
        k += 1
        below += math.comb(n, k)
    return (ordered[k - 1], ordered[-k]) if k else (None, None)
