"""What a running trainer can be told, and the lines that say it: `save`, `sample {"prompt": "To be"}`."""

import dataclasses
import json
import typing

from scratchgpt.errors import UsageError, did_you_mean
from scratchgpt.generation import Sampling


@dataclasses.dataclass(frozen=True)
class Pause:
    """Wait, until told to go on; commands are obeyed meanwhile."""


@dataclasses.dataclass(frozen=True)
class Resume:
    """Go on after a pause."""


@dataclasses.dataclass(frozen=True)
class Save:
    """Write a checkpoint."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure on the validation windows, only to look: the run's best model stays the one that it would be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample(Sampling):
    """Write some text with the present weights."""

    prompt: str | None = None  # what it begins with; None: the vocabulary's default
    n_tokens: int = 200

    def __post_init__(self) -> None:
        """Raise UsageError if a value cannot be meant."""
        super().__post_init__()
        if self.n_tokens < 1:
            raise UsageError(f"n_tokens must be at least 1, not {self.n_tokens}.")


@dataclasses.dataclass(frozen=True)
class Stop:
    """Save and end; this does not wait for what was told before it."""


Command = Pause | Resume | Save | Evaluate | Sample | Stop

NAMES: dict[str, type[Command]] = {
    "pause": Pause,
    "resume": Resume,
    "save": Save,
    "evaluate": Evaluate,
    "sample": Sample,
    "stop": Stop,
}


def parse(line: str) -> Command:
    """Return the command that a line says: its name, then its fields as a JSON object, if any. Raises UsageError."""
    name, _, rest = line.strip().partition(" ")
    if name not in NAMES:
        raise UsageError(f"There is no command {name!r:.40}{did_you_mean(name, NAMES)}; there are {', '.join(NAMES)}.")
    try:
        fields = json.loads(rest or "{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"What follows {name!r} must be a JSON object, not {rest!r:.40}.") from error
    if not isinstance(fields, dict):
        raise UsageError(f"What follows {name!r} must be a JSON object, not {rest!r:.40}.")
    hints = typing.get_type_hints(NAMES[name])
    for field, value in fields.items():
        if field not in hints:
            raise UsageError(f"The command {name!r} has no field {field!r:.40}{did_you_mean(field, hints)}.")
        kinds = typing.get_args(hints[field]) or (hints[field],)
        if type(value) not in kinds and not (float in kinds and type(value) is int):
            raise UsageError(f"The field {field!r} of the command {name!r} cannot be {value!r:.40}.")
    return NAMES[name](**fields)
