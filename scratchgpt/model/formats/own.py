"""Our own format, for what no other can hold: config.json is the architecture's record, and all names are ours."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from scratchgpt.config import ModelConfig
from scratchgpt.model.formats.base import Format, Known, Place, end_value
from scratchgpt.model.params import Layout

BESIDES = ("model_type", "eos_token_id", "dtype")
"""Keys of config.json that are not fields of ModelConfig."""

KNOWN: Known = {field.name: field.metadata["choices"] or (True, False) for field in dataclasses.fields(ModelConfig)}


def to_json(config: ModelConfig, ends: Sequence[int]) -> dict[str, Any]:
    """Return the contents of config.json, with the ids that end a text."""
    return {"model_type": "scratchgpt", **vars(config), "eos_token_id": end_value(ends), "dtype": "float32"}


def from_json(content: Mapping[str, Any]) -> ModelConfig:
    """Return the architecture that a config.json describes. Raises UsageError."""
    return ModelConfig.from_mapping({name: value for name, value in content.items() if name not in BESIDES})


def places(config: ModelConfig) -> dict[str, Place]:
    """Return where each tensor belongs: with the parameter of its name."""
    return {leaf.name: Place(leaf.name, leaf.shape) for leaf in Layout(config).leaves}


NOTE = "GPT-2's format cannot hold this model; its checkpoints are in our own, which other programs do not open."
FORMAT = Format("scratchgpt", KNOWN, None, to_json, from_json, lambda name: name, places, NOTE)
