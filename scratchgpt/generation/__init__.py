"""Text from a trained model."""

from scratchgpt.generation.sampler import Sampling, draws, generate
from scratchgpt.generation.text import Stop, Text, default_prompt, grow, known_part, token_named, write
from scratchgpt.generation.threads import suitable_threads

__all__ = [
    "Sampling",
    "Stop",
    "Text",
    "default_prompt",
    "draws",
    "generate",
    "grow",
    "known_part",
    "suitable_threads",
    "token_named",
    "write",
]
