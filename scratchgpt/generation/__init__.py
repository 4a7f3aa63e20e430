"""Text from a trained model."""

from scratchgpt.generation.sampler import Sampling, choose, default_prompt, generate, write

__all__ = ["Sampling", "choose", "default_prompt", "generate", "write"]
