"""Text to token ids and back. A tokenizer is two JSON files that other tools open too."""

from scratchgpt.tokenizer.base import FILES, Tokenizer, load, save
from scratchgpt.tokenizer.char import CharTokenizer

__all__ = ["FILES", "CharTokenizer", "Tokenizer", "load", "save"]
