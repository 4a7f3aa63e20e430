"""Text from a trained model."""

from scratchgpt.generation.sampler import Sampling, choose, generate

__all__ = ["Sampling", "choose", "generate"]
