"""A prepared data set: a folder of token files and a vocabulary, checked when opened, and its batches.

train.bin and val.bin are bare little-endian token ids, uint16 or, for more than 65,536 of them, uint32: what
nanoGPT writes, so its files of the same vocabulary can be put beside a tokenizer.json and used as they are.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from scratchgpt import tokenizer as tokenizers
from scratchgpt.chance import Place, philox
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import file_record, read_json

META = "meta.json"
FORMAT = 2
BINS = ("train.bin", "val.bin")

Tokens = npt.NDArray[np.unsignedinteger[Any]]


class Batch(NamedTuple):
    """Sequences, and for each position the token that follows."""

    tokens: Tokens  # (B, T)
    targets: Tokens  # (B, T)


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the type of ids in a token file."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class TokenFile:
    """One file of token ids, read through a memory map. It must stay the same file while it is in use."""

    def __init__(self, path: Path, dtype: np.dtype[np.unsignedinteger[Any]]) -> None:
        """Name the file; it is not read yet."""
        self.path = path
        self._dtype = dtype
        self._stat = self._identity()
        self.size = path.stat().st_size // dtype.itemsize

    def windows(self, starts: npt.NDArray[np.int64], block_size: int) -> Batch:
        """Return the sequences (B, T) that begin at `starts` (B,), with the tokens that follow. Raises DataError."""
        drawn = self._map()[starts[:, None] + np.arange(block_size + 1)]
        return Batch(drawn[:, :-1], drawn[:, 1:])

    def read(self, start: int, stop: int) -> Tokens:
        """Return the ids from `start` up to `stop`. Raises DataError."""
        return np.array(self._map()[start:stop])

    def _map(self) -> Tokens:
        """Return a fresh map: the pages of a long-lived one would count as this process's memory."""
        try:
            if self._identity() == self._stat:
                return np.memmap(self.path, self._dtype, mode="r")
        except OSError as error:
            raise DataError(f"Cannot read {self.path}: {error.strerror}.") from error
        raise DataError(f"{self.path} was replaced while it was in use.")

    def _identity(self) -> tuple[int, int, int]:
        stat = self.path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


class Dataset:
    """A prepared folder, ready to train on."""

    def __init__(self, folder: Path, tokenizer: tokenizers.Tokenizer, records: dict[str, dict[str, Any]]) -> None:
        """Take a checked folder, with the size and hash of each of its files; `Dataset.open` checks."""
        self.folder = folder
        self.tokenizer = tokenizer
        self.train, self.val = (TokenFile(folder / name, token_dtype(tokenizer.vocab_size)) for name in BINS)
        hashes = "".join(records[name]["sha256"] for name in (*BINS, "tokenizer.json"))
        self.digest = hashlib.sha256(
            hashes.encode("ascii")
        ).hexdigest()  # any change of tokens or vocabulary changes it

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a prepared folder and check that it is whole. Raises DataError, and UsageError if it is not there."""
        if not folder.is_dir():
            raise UsageError(
                f"There is no prepared data in {folder}; run `scratchgpt prepare FILE`, or name other data with --data."
            )
        for name in (*BINS, "tokenizer.json"):
            if not (folder / name).is_file():
                raise DataError(f"{folder} lacks {name}; prepare the text again.")
        tokenizer = tokenizers.load(folder)
        records = {name: file_record(folder / name) for name in (*BINS, "tokenizer.json")}
        if (folder / META).exists():
            _compare(folder, read_meta(folder), records)
        else:
            _check_ids(folder, token_dtype(tokenizer.vocab_size), tokenizer.vocab_size)
        return cls(folder, tokenizer, records)

    def require(self, block_size: int) -> None:
        """Check that both parts hold at least one sequence and the token after it. Raises UsageError."""
        limit = min(self.train.size, self.val.size) - 1
        for name, part in (("training", self.train), ("validation", self.val)):
            if part.size <= block_size:
                remedy = f"a longer text, or a --block-size of at most {limit}" if limit > 0 else "a longer text"
                raise UsageError(
                    f"The {name} part of {self.folder} has {part.size:,} tokens, too few for a block_size of "
                    f"{block_size:,}; use {remedy}."
                )

    def batch(self, *, seed: int, step: int, batch_size: int, block_size: int) -> Batch:
        """Draw the training batch (B, T) of one step: a function of `seed` and `step` alone."""
        generator = np.random.Generator(philox(Place.BATCH, seed=seed, step=step))
        starts = generator.integers(0, self.train.size - block_size, size=batch_size)
        return self.train.windows(starts, block_size)

    def validation_windows(self, *, n_windows: int, batch_size: int, block_size: int) -> Iterator[Batch]:
        """Yield always the same `n_windows` windows, spread evenly over the validation part, in batches."""
        starts = np.linspace(0, self.val.size - block_size - 1, n_windows).astype(np.int64)
        for first in range(0, n_windows, batch_size):
            yield self.val.windows(starts[first : first + batch_size], block_size)

    def whole_validation(self, *, batch_size: int, block_size: int) -> Iterator[Batch]:
        """Yield the whole validation part: each token but the first is a target once. The last window may be short."""
        n_windows, rest = divmod(self.val.size - 1, block_size)
        for first in range(0, n_windows, batch_size):
            starts = np.arange(first, min(first + batch_size, n_windows)) * block_size
            yield self.val.windows(starts, block_size)
        if rest:
            yield self.val.windows(np.array([n_windows * block_size]), rest)

    def n_whole_batches(self, *, batch_size: int, block_size: int) -> int:
        """Return how many batches `whole_validation` yields."""
        n_windows, rest = divmod(self.val.size - 1, block_size)
        return math.ceil(n_windows / batch_size) + bool(rest)


def read_meta(folder: Path) -> dict[str, Any]:
    """Read what `prepare` recorded. Raises DataError."""
    meta = read_json(folder / META, DataError)
    if meta.get("format") != FORMAT or not isinstance(meta.get("files"), dict):
        raise DataError(f"{folder / META} is not of format {FORMAT}; prepare the text again with --force.")
    return meta


def _compare(folder: Path, meta: dict[str, Any], records: dict[str, dict[str, Any]]) -> None:
    """Check every file's size and hash against the recorded ones. Raises DataError."""
    for name, record in records.items():
        if meta["files"].get(name) != record:
            raise DataError(
                f"{folder / name} is not as `prepare` wrote it: it was truncated or altered. "
                "Prepare the text again with --force."
            )


def _check_ids(folder: Path, dtype: np.dtype[np.unsignedinteger[Any]], vocab_size: int) -> None:
    """Check token files of unknown origin: whole ids, all in the vocabulary. Raises DataError."""
    for name in BINS:
        path = folder / name
        if path.stat().st_size % dtype.itemsize or not path.stat().st_size:
            raise DataError(f"{path} is empty or truncated: its size is no multiple of {dtype.itemsize} bytes.")
        tokens = TokenFile(path, dtype)
        chunk = 2**22
        largest = max(int(tokens.read(at, at + chunk).max()) for at in range(0, tokens.size, chunk))
        if largest >= vocab_size:
            raise DataError(f"{path} holds the id {largest}, but {folder}'s vocabulary has only {vocab_size} tokens.")
