"""The formats in which a model's folder can be, by the `model_type` in its config.json."""

from scratchgpt.config import ModelConfig
from scratchgpt.model.formats import gpt2
from scratchgpt.model.formats.base import Format, require_known, unknown

FORMATS: dict[str, Format] = {each.model_type: each for each in (gpt2.FORMAT,)}


def format_for(config: ModelConfig) -> Format:
    """Return a format that can hold a model. Raises UsageError that names the parts which no format can hold."""
    nearest = min(FORMATS.values(), key=lambda each: len(unknown(config, each.known)))
    require_known(config, nearest.known, f"The format of {nearest.model_type}")
    return nearest
