"""The formats in which a model's folder can be, by the `model_type` in its config.json."""

import dataclasses

from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.model.formats import gpt2, own
from scratchgpt.model.formats.base import Format, unknown

FORMATS: dict[str, Format] = {each.model_type: each for each in (gpt2.FORMAT, own.FORMAT)}
"""Of several that can hold a model, the first is taken: one that other programs open."""


def format_for(config: ModelConfig) -> Format:
    """Return the format for a model. Raises UsageError that names the parts which no format can hold."""
    missing = {name: _missing(config, each) for name, each in FORMATS.items()}
    nearest = min(missing, key=lambda name: len(missing[name]))
    if missing[nearest]:
        raise UsageError(f"The format of {nearest} cannot hold this model's {', '.join(missing[nearest])}.")
    return FORMATS[nearest]


def _missing(config: ModelConfig, each: Format) -> list[str]:
    """Return the parts of an architecture that a format does not know, or that do not come back from its file."""
    if parts := unknown(config, each.known):
        return parts
    again = each.from_json(each.to_json(config, ()))
    pairs = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return [f"{name}: {value}" for name, value in pairs.items() if getattr(again, name) != value]
