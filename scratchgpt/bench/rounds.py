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
    """The measurements of one turn, or of all turns in a start."""

    seconds: list[float]  # of each step or token that counts
    cpu: float = 0.0  # processor seconds of a step or a text; 0 where the system does not report them


@dataclasses.dataclass(frozen=True)
class Rounds:
    """The rounds that count: the quiet ones, or all if too few are quiet."""

    samples: list[dict[Key, Turn]]  # the rounds; of several starts, the turns in each start together
    n_rounds: int  # that count
    n_made: int
    n_busy: int | None  # None where the system does not report its load
    is_busy: bool  # whether busy rounds count, for want of quiet ones
    foreign_share: float | None  # of the cores, busy with other programs: median of the rounds that count

    def of(self, *key: str) -> list[Turn]:
        """Return the turn of each sample under a key."""
        return [sample[key[0], key[1]] for sample in self.samples]

    def about(self) -> dict[str, Any]:
        """Return the entries of a record; None stands for values that the system does not report."""
        discarded = None if self.n_busy is None else self.n_made - self.n_rounds
        return {"rounds": self.n_rounds, "discarded_rounds": discarded, "foreign_share": self.foreign_share}

    def doubts(self, intervals: Mapping[str, Mapping[str, float | None]]) -> list[str]:
        """Return the reasons not to quote the results. `intervals` are spreads of ratios, by their names."""
        found = []
        if self.is_busy:
            found.append(
                f"Other programs kept {self.foreign_share:.0%} of the cores busy, and {self.n_busy} of {self.n_made} "
                "rounds were not quiet, so busy ones count. Processor time suffers less from this."
            )
        if intervals and len(self.samples) < LEAST_ROUNDS:
            needed = f"{LEAST_ROUNDS} or more --rounds, or as many --starts"
            found.append(f"For an interval there are too few rounds or starts. Use {needed}.")
        for name, spread in intervals.items():
            low, middle, high = spread["low"], spread["median"], spread["high"]
            if low is not None and middle is not None and high is not None and high - low > WIDEST * middle:
                found.append(f"The interval of {name} is wider than {WIDEST:.0%} of the ratio. Use more --rounds.")
        return found


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
        if before and after:
            shares.append((after.foreign - before.foreign) / (after.total - before.total))
        n_quiet = sum(share <= MOST_FOREIGN for share in shares) if shares else number
        if n_quiet == n_rounds or number == MOST_ATTEMPTS * n_rounds:
            break
    if not shares:
        return Rounds(made, number, number, None, is_busy=False, foreign_share=None)
    is_busy = n_quiet < min(n_rounds, LEAST_ROUNDS)
    most = math.inf if is_busy else MOST_FOREIGN
    samples = [turns for turns, share in zip(made, shares, strict=True) if share <= most]
    foreign = median(share for share in shares if share <= most)
    return Rounds(samples, len(samples), number, number - n_quiet, is_busy, foreign)


def joined(starts: Sequence[Rounds]) -> Rounds:
    """Return the rounds of all starts of the contenders; of several starts, each is one sample.

    Two processes of one program differ in speed, so the rounds of one start are no independent samples.
    """
    if len(starts) == 1:
        return starts[0]
    shares = [start.foreign_share for start in starts if start.foreign_share is not None]
    return Rounds(
        [_together(start.samples) for start in starts],
        sum(start.n_rounds for start in starts),
        sum(start.n_made for start in starts),
        sum(start.n_busy or 0 for start in starts) if shares else None,
        any(start.is_busy for start in starts),
        median(shares) if shares else None,
    )


def _together(samples: Sequence[dict[Key, Turn]]) -> dict[Key, Turn]:
    """Return the turns of all samples as one sample."""
    return {
        key: Turn(
            [seconds for sample in samples for seconds in sample[key].seconds],
            median(sample[key].cpu for sample in samples),
        )
        for key in samples[0]
    }


def length(seconds: Iterable[float], *, least: int, most: int) -> int:
    """Return the number of steps or tokens in a turn, from the seconds that one takes each contender."""
    return min(most, max(least, math.ceil(TURN_SECONDS / max(seconds))))


def ratios(theirs: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, float | None]:
    """Return the spread over the samples of (median of their seconds / median of our seconds)."""
    return spread(median(turn.seconds) / median(our.seconds) for turn, our in zip(theirs, ours, strict=True))


def cpu_ratios(theirs: Sequence[Turn], ours: Sequence[Turn]) -> dict[str, float | None]:
    """Return the spread over the samples of the ratio of processor times; all None where they are not reported."""
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
