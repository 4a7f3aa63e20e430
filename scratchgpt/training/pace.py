"""How fast a run goes on, and how long the rest of it takes."""

import time
from datetime import timedelta

from scratchgpt.training.events import Event, Resumed, Started, StepDone


class Pace:
    """How fast a run goes on, all that it does included."""

    def __init__(self) -> None:
        """Know nothing."""
        self._last: float | None = None
        self._seconds = 0.0
        self._n = 0

    def see(self, event: Event, now: float | None = None) -> None:
        """Learn from an event that came at `now`, in seconds of any clock; from a pause, only that it is over."""
        now = time.monotonic() if now is None else now
        if isinstance(event, StepDone):
            if self._last is not None:
                self._n += 1
                self._seconds += max(0.02, 1 / self._n) * (now - self._last - self._seconds)
            self._last = now
        elif isinstance(event, Resumed):
            self._last = now
        elif isinstance(event, Started):  # what was before it took no time of this program
            self._last = None

    def left(self, step: int, steps: int) -> str:
        """Return the time that is left for the steps, or nothing while nobody knows."""
        return str(timedelta(seconds=round((steps - step) * self._seconds))) if self._n else ""
