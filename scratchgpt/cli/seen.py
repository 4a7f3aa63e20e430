"""All that a run has said, as the terminal interface shows it."""

import collections
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from scratchgpt.cli.curve import Curve
from scratchgpt.errors import DataError
from scratchgpt.training import logs
from scratchgpt.training.attached import Logged
from scratchgpt.training.events import Evaluated, Event, Started, StepDone
from scratchgpt.training.journal import Journal
from scratchgpt.training.pace import Pace

SMALL = {"lr": "learning rate", "grad_norm": "gradient norm", "speed": "tokens/s"}


class Seen:
    """All that a run has said so far."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.started: Started | None = None
        self.step: StepDone | None = None
        self.losses = Curve()
        self.validation: tuple[list[int], list[float]] = ([], [])
        self.small = {name: Curve() for name in SMALL}
        self.last_losses: collections.deque[float] = collections.deque(maxlen=10)
        self.pace = Pace()
        self.journal = Journal()

    def learn(self, event: Event, now: float | None) -> None:
        """Learn from an event, which came at `now` in seconds of any clock, None if that is not known."""
        if now is not None:
            self.pace.see(event, now)
        self.journal.see(event)
        match event:
            case Started():
                self.started = event
            case StepDone():
                self.step = event
                self.last_losses.append(event.loss)
                speed = event.n_tokens / event.seconds if event.seconds else math.nan
                curves = {"lr": event.learning_rate, "grad_norm": event.grad_norm, "speed": speed}
                for curve, value in ((self.losses, event.loss), *((self.small[name], curves[name]) for name in SMALL)):
                    curve.add(event.step, value)
            case Evaluated() if not event.is_whole and math.isfinite(event.loss):
                self.validation[0].append(event.step)
                self.validation[1].append(event.loss)

    @property
    def is_complete(self) -> bool:
        """Whether all steps are made."""
        return self.step is not None and self.started is not None and self.step.step >= self.started.steps

    def numbers(self) -> Iterator[str]:
        """Yield what there is to say in numbers, the most important first."""
        if self.started is None or self.step is None:
            return
        step = self.step
        yield f"step {step.step:,} of {self.started.steps:,}"
        yield f"loss {step.loss:.3f}"
        yield f"last ten {sum(self.last_losses) / len(self.last_losses):.3f}"
        yield f"lr {step.learning_rate:.2e}"
        if step.seconds:
            yield f"{step.n_tokens / step.seconds / 1e3:,.1f}k tokens/s"
        if memory := step.device_bytes or step.resident_bytes:
            yield f"{memory / 1e6:,.0f} MB"


def before_start(log: Path) -> Iterator[Logged]:
    """Yield the events that a log holds from before its last start."""
    try:
        starts = [n for n, row in enumerate(logs.read(log)) if row and row.get("event") == "started"]
        for row in itertools.islice(logs.read(log), max(starts, default=0)):
            if row and (event := logs.event(row)):
                yield Logged(event, row.get("time"))
    except DataError:  # the log was removed; the run itself will fail
        return
