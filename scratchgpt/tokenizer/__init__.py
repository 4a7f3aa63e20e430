"""Text to token ids and back. A tokenizer is two JSON files that other tools open too."""

from scratchgpt.tokenizer.base import FILES, Tokenizer, end_of_text, load, read, save
from scratchgpt.tokenizer.bpe import END_OF_TEXT, BPETokenizer
from scratchgpt.tokenizer.char import CharTokenizer

__all__ = ["END_OF_TEXT", "FILES", "BPETokenizer", "CharTokenizer", "Tokenizer", "end_of_text", "load", "read", "save"]
