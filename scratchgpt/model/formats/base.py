"""A format of models: the config.json and the tensors of one `model_type`, and the architectures that it can hold."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError

Known = Mapping[str, Collection[str | bool]]
"""The choices that a format can express, by the name of the setting. Of a setting that is missing: only the default."""


GPT2_CHOICES: Known = {
    "activation": ("gelu_new", "relu"),
    "bias": (True, False),
    "tie_word_embeddings": (True, False),
    "head_bias": (True, False),
}
"""Those of GPT-2 and its simplest relatives."""


class Place(NamedTuple):
    """Where a tensor of a file belongs."""

    leaf: str | None  # the parameter's name; None: the model has no such parameter, and the file has zeros
    shape: tuple[int, ...]  # in the file
    is_copy: bool = False  # of a parameter that has another place: a file may lack it, but may not differ


class Format(NamedTuple):
    """One format."""

    model_type: str  # in config.json
    known: Known
    end: int | None  # the eos_token_id of a config.json without one
    to_json: Callable[[ModelConfig, Sequence[int]], dict[str, Any]]  # with the ids that end a text
    from_json: Callable[[Mapping[str, Any]], ModelConfig]  # raises UsageError
    name_of: Callable[[str], str | None]  # a tensor's name in `places`, by that in a file; None: it is passed over
    places: Callable[[ModelConfig], dict[str, Place]]  # copies come after what they are copies of
    note: str = ""  # a sentence for those who train a model that is saved so


def end_value(ends: Sequence[int]) -> int | list[int] | None:
    """Return what a config.json's eos_token_id says of the ids that end a text."""
    return list(ends) if len(ends) > 1 else ends[0] if ends else None


def unknown(config: ModelConfig, known: Known) -> list[str]:
    """Return the choices of an architecture that are not known, such as `activation: relu`."""
    choices = [field for field in dataclasses.fields(config) if field.metadata["choices"] or field.type is bool]
    values = ((field.name, getattr(config, field.name), known.get(field.name, (field.default,))) for field in choices)
    return [f"{name}: {str(value).lower()}" for name, value, allowed in values if value not in allowed]


def require_known(config: ModelConfig, known: Known, holder: str, advice: str = "") -> None:
    """Raise UsageError that names the choices of an architecture which `holder`, such as `A GGUF file`, cannot hold."""
    if parts := unknown(config, known):
        raise UsageError(f"{holder} cannot hold this model's {', '.join(parts)}{advice}.")
