"""scratchgpt: a GPT with no framework under it."""

__version__ = "0.1.0"
