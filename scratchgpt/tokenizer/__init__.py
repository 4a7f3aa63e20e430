"""Text to token ids and back. A tokenizer is two JSON files that other tools open too."""

from scratchgpt.tokenizer.base import FILES, Tokenizer, difference, end_of_text, fits, load, read, save, token_bytes
from scratchgpt.tokenizer.bpe import END_OF_TEXT, BPETokenizer
from scratchgpt.tokenizer.char import CharTokenizer

__all__ = [
    "END_OF_TEXT",
    "FILES",
    "BPETokenizer",
    "CharTokenizer",
    "Tokenizer",
    "difference",
    "end_of_text",
    "fits",
    "load",
    "read",
    "save",
    "token_bytes",
]
