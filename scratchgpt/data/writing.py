"""Token files being written: documents in pieces, a separator between two, and several files cut and made one."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from scratchgpt.data.dataset import token_dtype
from scratchgpt.data.shards import ShardReader
from scratchgpt.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"

LONGEST_CHARACTER = 4
"""Tokens that one character may have: its bytes."""


def separator(tokenizer: Tokenizer) -> npt.NDArray[np.uint32]:
    """Return what stands between two documents: <|endoftext|>, else a newline, else nothing, as the vocabulary has."""
    for added in tokenizer.to_json()["added_tokens"]:
        if added["content"] == END_OF_TEXT:
            return np.array([added["id"]], np.uint32)
    return tokenizer.encode("\n" if "\n" in tokenizer else "")


class TokenWriter:
    """Writes the tokens of documents that come in pieces."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        """Begin the file `path`. Raises OSError."""
        self._file = path.open("wb")
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._separator = separator(tokenizer)
        self._is_between = False

    def __enter__(self) -> Self:
        """Nothing more to set up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def write(self, text: str) -> None:
        """Write the tokens of a piece of a document."""
        if not text:
            return
        if self._is_between:
            self._file.write(self._separator.astype(self._dtype).tobytes())
            self._is_between = False
        self._file.write(self._tokenizer.encode(text).astype(self._dtype).tobytes())

    def end_document(self) -> None:
        """Let what is written next be another document."""
        self._is_between = self._file.tell() > 0


def join(paths: Sequence[Path], amounts: Sequence[int], target: Path, tokenizer: Tokenizer) -> list[int]:
    """Make one file of the first `amounts` tokens of each, less those of a character that would be cut.

    Returns how many were taken of each. Removes `paths`. Raises OSError.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    taken = [
        _whole_characters(ShardReader(path.parent, path.stem, dtype), amount, tokenizer)
        for path, amount in zip(paths, amounts, strict=True)
    ]
    with paths[0].open("r+b") as whole:
        whole.truncate(taken[0] * dtype.itemsize)
        whole.seek(0, 2)
        for path, n_tokens in itertools.islice(zip(paths, taken, strict=True), 1, None):
            whole.write(separator(tokenizer).astype(dtype).tobytes())
            with path.open("r+b") as part:
                part.truncate(n_tokens * dtype.itemsize)
                part.seek(0)
                shutil.copyfileobj(part, whole)
            path.unlink()
    paths[0].replace(target)
    return taken


def _whole_characters(tokens: ShardReader, at: int, tokenizer: Tokenizer) -> int:
    """Return the last place up to `at` where the tokens can be cut without cutting a character."""
    if at == tokens.size:
        return at
    for place in range(at, max(at - LONGEST_CHARACTER, 0), -1):
        left = tokens.read(max(place - LONGEST_CHARACTER, 0), place)
        right = tokens.read(place, place + LONGEST_CHARACTER)
        if tokenizer.decode(left) + tokenizer.decode(right) == tokenizer.decode(np.concatenate([left, right])):
            return place
    return at
