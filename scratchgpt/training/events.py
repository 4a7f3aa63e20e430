"""What happens in a run, as records. Logs, terminals and tests all read this one stream."""

import dataclasses
import math
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class StepDone:
    """One optimiser update was made."""

    step: int  # how many updates there have been, this one included
    loss: float  # the batch's mean before the update, in nats a token
    learning_rate: float
    grad_norm: float  # before clipping
    seconds: float
    n_tokens: int
    device_bytes: int | None = None  # memory that a GPU's pool holds
    data_seconds: float = 0.0  # of `seconds`, those in which the batch was read
    resident_bytes: int | None = None  # memory of this process that is in RAM


@dataclasses.dataclass(frozen=True)
class Noted:
    """Something that a person may want to know about how the run is computed."""

    message: str


@dataclasses.dataclass(frozen=True)
class Evaluating:
    """A part of an evaluation is done; it is there to be shown while one waits."""

    step: int
    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The model was measured on validation data."""

    step: int
    loss: float  # mean in nats a token
    accuracy: float  # fraction of targets that were the likeliest token
    n_targets: int
    is_whole: bool  # over the whole validation part, rather than over the fixed windows
    is_best: bool = False  # the lowest loss over the windows so far

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model seems to choose."""
        return math.exp(min(self.loss, 700))


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    folder: Path


@dataclasses.dataclass(frozen=True)
class Ended:
    """No more events will come: all steps are done, or somebody asked to stop."""

    step: int
    is_finished: bool
    is_early: bool = False  # finished before its last step, for the validation loss became no better


Event = StepDone | Noted | Evaluating | Evaluated | Saved | Ended
