"""What happens in a run, as records. Logs, terminals and tests all read this one stream.

Other programs read it as JSON: `to_json` and `from_json` turn an event into an object and back.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scratchgpt.errors import DataError


@dataclasses.dataclass(frozen=True)
class Started:
    """A run begins, or goes on."""

    run: Path
    step: int  # updates made before
    steps: int  # updates that there will be
    n_parameters: int
    device: str


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


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A piece of text was made with the present weights; the pieces up to `is_last` follow one another."""

    step: int
    text: str  # whole characters, none or more
    is_last: bool = False


@dataclasses.dataclass(frozen=True)
class Paused:
    """The run waits, until it is told to go on."""

    step: int


@dataclasses.dataclass(frozen=True)
class Resumed:
    """The run goes on after a pause."""

    step: int


Event = Started | StepDone | Noted | Evaluating | Evaluated | Saved | Ended | Sampled | Paused | Resumed

KINDS: dict[str, type[Event]] = {
    "started": Started,
    "step": StepDone,
    "note": Noted,
    "evaluating": Evaluating,
    "evaluated": Evaluated,
    "saved": Saved,
    "ended": Ended,
    "sampled": Sampled,
    "paused": Paused,
    "resumed": Resumed,
}
"""The names of events in JSON."""

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Numbers that JSON does not have: they are strings there."""


def to_json(event: Event) -> dict[str, Any]:
    """Return the event as what strict JSON can hold: its kind as "event", then its fields."""
    kind = next(name for name, record in KINDS.items() if type(event) is record)
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return {"event": kind} | {name: _plain(value) for name, value in fields.items()}


def from_json(content: Mapping[str, Any]) -> Event:
    """Return the event of which this is the JSON. Raises DataError for what is none."""
    fields = dict(content)
    kind = fields.pop("event", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(f"There is no event {kind!r:.50}.")
    kinds = FIELDS[kind]
    for name, value in fields.items():
        if name not in kinds:
            raise DataError(f"The event {kind!r} has no field {name!r:.50}.")
        fields[name] = _value(value, kinds[name])
        if type(fields[name]) not in kinds[name]:
            raise DataError(f"The field {name!r} of the event {kind!r} cannot be {value!r:.50}.")
    try:
        return KINDS[kind](**fields)
    except TypeError as error:
        raise DataError(f"The event {kind!r} lacks a field: {error}.") from error


def _plain(value: Any) -> Any:
    """Return what stands for a field's value in JSON."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, number in NOT_FINITE.items() if repr(number) == repr(value))
    return value


def _value(plain: Any, kinds: tuple[type, ...]) -> Any:
    """Return the field's value that JSON stands for."""
    if type(Path()) in kinds and type(plain) is str:
        return Path(plain)
    if float in kinds and type(plain) is int:
        return float(plain)
    if float in kinds and type(plain) is str:
        return NOT_FINITE.get(plain, plain)
    return plain


def _kinds(record: type[Event]) -> dict[str, tuple[type, ...]]:
    """Return the types that each field of an event may have; a path's is that of this system."""
    hints = {name: typing.get_args(hint) or (hint,) for name, hint in typing.get_type_hints(record).items()}
    return {name: tuple(type(Path()) if kind is Path else kind for kind in kinds) for name, kinds in hints.items()}


FIELDS = {name: _kinds(record) for name, record in KINDS.items()}
