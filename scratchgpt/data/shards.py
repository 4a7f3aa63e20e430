"""Token files: each part of a prepared folder, train or val, is PART.bin, or PART-00001.bin, PART-00002.bin, ...

Together they are one long line of little-endian token ids. Shards count from 1 without gaps; ours are full but for the
last, those of other programs may have any sizes.
"""

import math
import re
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scratchgpt.errors import DataError
from scratchgpt.files import file_identity, sync, sync_folder

PARTS = ("train", "val")
SHARD = 2**28
"""Tokens in each file but the last."""

Tokens = npt.NDArray[np.unsignedinteger[Any]]
TokenType = np.dtype[np.unsignedinteger[Any]]


def shard_paths(folder: Path, part: str) -> list[Path]:
    """Return the files of a part, in order; none if there are none. Raises DataError if they make no sense."""
    shards = sorted(path for path in folder.glob(f"{part}-*.bin") if re.fullmatch(rf"{part}-\d{{5}}\.bin", path.name))
    whole = folder / f"{part}.bin"
    if whole.exists():
        if shards:
            raise DataError(
                f"{folder} holds both {whole.name} and {shards[0].name}; remove whichever is not meant to be there."
            )
        return [whole]
    for number, path in enumerate(shards, start=1):
        if path != _shard(folder, part, number):
            raise DataError(
                f"{path} stands where {_shard(folder, part, number).name} should be: shards count from 00001 without "
                "gaps.",
                advice="Put the missing one there, or prepare the text again with --force.",
                page="Put the missing one there, or remove the folder and prepare the text again.",
            )
    return shards


def _shard(folder: Path, part: str, number: int) -> Path:
    return folder / f"{part}-{number:05}.bin"


class ShardReader:
    """All tokens of a part, read through memory maps. Its files must stay the same while it is in use."""

    def __init__(self, folder: Path, part: str, dtype: TokenType) -> None:
        """Find the files; they are not read yet. Raises DataError."""
        self.part = part
        self.paths = shard_paths(folder, part)
        if not self.paths:
            raise DataError(f"{folder} lacks {part}.bin; prepare the text again.")
        self._dtype = dtype
        self._identities = [file_identity(path) for path in self.paths]
        sizes = [path.stat().st_size // dtype.itemsize for path in self.paths]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._begins = self._ends - sizes
        self.size = int(self._ends[-1])

    def read(self, start: int, stop: int) -> Tokens:
        """Return the ids from `start` up to `stop`, or to the end if that comes first. Raises DataError."""
        pieces = [
            self._map(shard)[max(start - begin, 0) : stop - begin]
            for shard, (begin, end) in enumerate(zip(self._begins, self._ends, strict=True))
            if start < end and stop > begin
        ]
        return np.concatenate([np.empty(0, self._dtype), *pieces])

    def windows(self, starts: npt.NDArray[np.int64], length: int) -> Tokens:
        """Return the `length` ids from each of `starts` (B,) on, as (B, length). Raises DataError."""
        drawn = np.empty((len(starts), length), self._dtype)
        shards = np.searchsorted(self._ends, starts, side="right")
        crosses = starts + length > self._ends[shards]
        for shard in np.unique(shards[~crosses]):
            rows = (shards == shard) & ~crosses
            places = starts[rows] - self._begins[shard]
            drawn[rows] = self._map(shard)[places[:, None] + np.arange(length)]
        for row in np.flatnonzero(crosses):
            drawn[row] = self.read(starts[row], starts[row] + length)
        return drawn

    def _map(self, shard: int) -> Tokens:
        """Return a fresh map: the pages of a long-lived one would count as this process's memory."""
        path = self.paths[shard]
        try:
            if file_identity(path) == self._identities[shard]:
                return np.memmap(path, self._dtype, mode="r")
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror}.") from error
        except ValueError as error:
            size = self._dtype.itemsize
            raise DataError(f"{path} is truncated: its size is no multiple of {size} bytes.") from error
        raise DataError(f"{path} was replaced while it was in use.")


class ShardWriter:
    """Writes the tokens of a part, or goes on where an earlier writer stopped.

    Its files are numbered; when it is closed, a single one takes the plain name.
    """

    def __init__(self, folder: Path, part: str, dtype: TokenType, *, shard_size: int = SHARD) -> None:
        """Go on after the tokens that are there already. Raises DataError and OSError."""
        self._folder = folder
        self._part = part
        self._dtype = dtype
        self._shard_size = shard_size
        paths = shard_paths(folder, part)
        if paths == [self._whole]:
            self._whole.rename(_shard(folder, part, 1))
            paths = shard_paths(folder, part)
        sizes = [path.stat().st_size // dtype.itemsize for path in paths]
        if any(size != shard_size for size in sizes[:-1]) or sum(sizes[-1:]) > shard_size:
            raise DataError(f"The files of {part} in {folder} do not hold {shard_size:,} tokens each.")
        self.size = sum(sizes)
        self._open(max(len(sizes), 1))
        self.truncate(self.size)  # an interruption may have left half a token

    def __enter__(self) -> Self:
        """Nothing more to set up."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def append(self, ids: npt.NDArray[np.integer[Any]]) -> None:
        """Write ids (N,) after all others. Raises OSError."""
        while len(ids):
            room = self._number * self._shard_size - self.size
            if not room:
                self.sync()  # so that what stands before a shard is whole, whatever happens
                self._file.close()
                self._open(self._number + 1)
                room = self._shard_size
            self._file.write(ids[:room].astype(self._dtype).tobytes())
            self.size += len(ids[:room])
            ids = ids[room:]

    def truncate(self, size: int) -> None:
        """Keep only the first `size` tokens. Raises DataError if there are fewer, OSError."""
        if size > self.size:
            raise DataError(f"The files of {self._part} in {self._folder} hold {self.size:,} tokens, not {size:,}.")
        self._file.close()
        number = max(math.ceil(size / self._shard_size), 1)
        for path in reversed(shard_paths(self._folder, self._part)[number:]):
            path.unlink()
        self._open(number)
        self._file.truncate((size - (number - 1) * self._shard_size) * self._dtype.itemsize)
        self.size = size

    def sync(self) -> None:
        """Wait until the disk has everything. Raises OSError."""
        self._file.flush()
        sync(self._file.fileno())
        sync_folder(self._folder)

    def close(self) -> None:
        """Close the files. Raises OSError."""
        self._file.close()
        if self._number == 1 and not self._whole.exists():
            _shard(self._folder, self._part, 1).rename(self._whole)

    @property
    def _whole(self) -> Path:
        return self._folder / f"{self._part}.bin"

    def _open(self, number: int) -> None:
        self._number = number
        self._file = _shard(self._folder, self._part, number).open("ab")
