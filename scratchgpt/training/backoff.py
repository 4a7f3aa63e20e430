"""What a run does after an update that could not be made: it goes on with a lower learning rate, for a while."""

from typing import NamedTuple

RECOVERY = 100
"""Updates in a row that are made until the learning rate is doubled again, up to the schedule's."""

MOST_SKIPPED = 10
"""Updates skipped in a row that end a run: its weights, and not a batch, must be what is broken."""


SMALLEST = 0.5**MOST_SKIPPED


class Backoff(NamedTuple):
    """How far the learning rate is held back. It follows from which updates were skipped and from nothing else."""

    factor: float = 1.0  # of the schedule's learning rate
    n_made: int = 0  # updates made since the factor last changed; 0 while it is 1
    n_skipped: int = 0  # updates skipped in a row

    def after_skip(self) -> "Backoff":
        """Return the state after an update that was skipped."""
        return Backoff(max(self.factor / 2, SMALLEST), 0, self.n_skipped + 1)

    def after_update(self) -> "Backoff":
        """Return the state after an update that was made."""
        if self.factor == 1:
            return Backoff()
        if self.n_made + 1 == RECOVERY:
            return Backoff(2 * self.factor)
        return Backoff(self.factor, self.n_made + 1)
