"""A prepared data set: a folder of token files and a vocabulary, checked when opened, and its batches.

train.bin and val.bin, each perhaps in shards, are bare little-endian token ids, uint16 or, for more than 65,536 of
them, uint32: what nanoGPT writes, so its files of the same vocabulary can be put beside a tokenizer.json and used as
they are.
"""

import hashlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from scratchgpt import tokenizer as tokenizers
from scratchgpt.chance import Place, philox
from scratchgpt.data.shards import PARTS, ShardReader, Tokens, shard_paths
from scratchgpt.data.windows import CHUNK, Windows, documents, whole
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import file_record, read_json

META = "meta.json"
FORMAT = 2
AGAIN = "Prepare the text again."
REMOVE_AND_PREPARE = "Remove the folder, and prepare the text again."
NAMES = {"train": "training", "val": "validation"}
"""The names of the parts in messages."""


class Batch(NamedTuple):
    """Sequences, and for each position the token that follows."""

    tokens: Tokens  # (B, T)
    targets: Tokens  # (B, T)


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the type of ids in a token file."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


class Dataset:
    """A prepared folder, ready to train on."""

    def __init__(
        self,
        folder: Path,
        tokenizer: tokenizers.Tokenizer,
        train: ShardReader,
        val: ShardReader,
        records: dict[str, dict[str, Any]],
    ) -> None:
        """Take a checked folder, with the size and hash of each of its files, or none; `Dataset.open` checks."""
        self.folder = folder
        self.tokenizer = tokenizer
        self.train, self.val = train, val
        self.digest = _digest([train.paths, val.paths], records) if records else ""
        self._windows: dict[tuple[str, int, str, bool], Windows] = {}

    @classmethod
    def open(cls, folder: Path, *, is_checked: bool = True) -> Self:
        """Open a prepared folder and check that it is whole: each byte is read, unless it is only to be looked at.

        Raises DataError, and UsageError if it is not there.
        """
        if not any(folder.glob("*.bin")):
            raise UsageError(
                f"There is no prepared data in {folder}.",
                advice="Run `scratchgpt prepare FILE`, or name other data with --data.",
                page="Prepare a text in the tab Data.",
            )
        if not (folder / "tokenizer.json").is_file():
            is_rusted = (folder / "vocab.json").is_file()
            advice = f"Bring it with `scratchgpt import --rusted-data {folder}`." if is_rusted else AGAIN
            page = f"In a terminal, `scratchgpt import --rusted-data {folder}` brings it." if is_rusted else AGAIN
            raise DataError(f"{folder} lacks tokenizer.json.", advice=advice, page=page)
        tokenizer = tokenizers.load(folder)
        train, val = (ShardReader(folder, part, token_dtype(tokenizer.vocab_size)) for part in PARTS)
        if not is_checked:
            return cls(folder, tokenizer, train, val, {})
        records = {path.name: file_record(path) for path in (*train.paths, *val.paths, folder / "tokenizer.json")}
        if (folder / META).exists():
            _compare(folder, read_meta(folder), records)
        else:
            for part in (train, val):
                _check_ids(part, tokenizer.vocab_size)
        return cls(folder, tokenizer, train, val, records)

    def ends(self) -> tuple[int, ...]:
        """Return the id that ends documents, if one ends in the training part. Raises DataError."""
        end = tokenizers.end_of_text(self.tokenizer)
        chunks = (self.train.read(at, at + CHUNK) for at in range(0, self.train.size, CHUNK))
        return () if end is None or not any((chunk == end).any() for chunk in chunks) else (end,)

    def require(self, block_size: int, *, order: str = "random", within_documents: bool = False) -> None:
        """Check that both parts have windows for `batch` and `validation_windows`. Raises DataError and UsageError.

        Within documents it finds out where they end, which takes a while if there are many tokens.
        """
        self._windows_of(self.train, block_size, order, within_documents=within_documents)
        self._windows_of(self.val, block_size, "random", within_documents=within_documents)

    def batch(
        self,
        *,
        seed: int,
        step: int,
        batch_size: int,
        block_size: int,
        order: str = "random",
        within_documents: bool = False,
    ) -> Batch:
        """Draw the training batch (B, T) of one step: a function of `seed` and `step` alone.

        In sequential order step 0 has the first B windows, step 1 the next B, and after the last comes the first again.
        """
        windows = self._windows_of(self.train, block_size, order, within_documents=within_documents)
        if order == "sequential":
            numbers = (step * batch_size + np.arange(batch_size)) % windows.count
        else:
            generator = np.random.Generator(philox(Place.BATCH, seed=seed, step=step))
            numbers = generator.integers(0, windows.count, size=batch_size)
        return _batch(self.train, windows.starts(numbers), block_size)

    def validation_windows(
        self, *, n_windows: int, batch_size: int, block_size: int, within_documents: bool = False
    ) -> Iterator[Batch]:
        """Yield always the same `n_windows` windows, spread evenly over the validation part, in batches."""
        windows = self._windows_of(self.val, block_size, "random", within_documents=within_documents)
        numbers = np.linspace(0, windows.count - 1, n_windows).astype(np.int64)
        for first in range(0, n_windows, batch_size):
            yield _batch(self.val, windows.starts(numbers[first : first + batch_size]), block_size)

    def _windows_of(self, part: ShardReader, block_size: int, order: str, *, within_documents: bool) -> Windows:
        """Return the windows of a part. Raises DataError, and UsageError if there are none."""
        key = (part.part, block_size, order, within_documents)
        if key not in self._windows:
            stretches = whole(part)
            if within_documents:
                stretches = documents(part, separator(self.folder, self.tokenizer), longer_than=block_size)
            windows = Windows(stretches, block_size, stride=block_size if order == "sequential" else 1)
            if not windows.count:
                raise self._lack_of_windows(part, block_size)
            self._windows[key] = windows
        return self._windows[key]

    def _lack_of_windows(self, part: ShardReader, block_size: int) -> UsageError:
        """Return why a part has no windows, and what to do."""
        if part.size <= block_size:
            return _too_short(self.folder, self.train.size, self.val.size, block_size)
        return UsageError(
            f"No document in the {NAMES[part.part]} part of {self.folder} has more than {block_size:,} tokens, so no "
            "window fits into one.",
            advice="Use a smaller --block-size, or --no-within-documents.",
            page="Choose a smaller block_size, or false for within_documents.",
        )

    def whole(self, part: ShardReader, *, batch_size: int, block_size: int) -> Iterator[Batch]:
        """Yield a whole part, train or val: each token but the first is a target once. The last window may be short."""
        n_windows, rest = divmod(part.size - 1, block_size)
        for first in range(0, n_windows, batch_size):
            starts = np.arange(first, min(first + batch_size, n_windows)) * block_size
            yield _batch(part, starts, block_size)
        if rest:
            yield _batch(part, np.array([n_windows * block_size]), rest)

    def n_whole_batches(self, part: ShardReader, *, batch_size: int, block_size: int) -> int:
        """Return how many batches `whole` yields."""
        n_windows, rest = divmod(part.size - 1, block_size)
        return math.ceil(n_windows / batch_size) + bool(rest)


def separator(folder: Path, tokenizer: tokenizers.Tokenizer) -> int:
    """Return the id between two documents of prepared data. Raises UsageError if its vocabulary has none."""
    end = tokenizers.end_of_text(tokenizer)
    if end is None:
        raise UsageError(
            f"The vocabulary of {folder} has no {tokenizers.END_OF_TEXT}, so it is not known where documents end.",
            advice="Use --no-within-documents, or prepare the text with --bpe or --gpt2.",
            page="Choose false for within_documents, or prepare the text as byte pairs or with GPT-2's tokens.",
        )
    return end


def require_vocabulary(
    model: Path, tokenizer: tokenizers.Tokenizer, data: Path, data_tokenizer: tokenizers.Tokenizer
) -> None:
    """Raise UsageError, which names the first difference, if a model and prepared data have other vocabularies."""
    if found := tokenizers.difference(tokenizer, data_tokenizer):
        raise UsageError(
            f"The vocabulary of {model} is not that of {data}: {found}.",
            advice=f"Prepare the text anew with --tokenizer {model}.",
            page="Choose data that were prepared as those of the weights, or new weights.",
        )


def require_windows(folder: Path, n_train: int, n_val: int, block_size: int) -> None:
    """Raise UsageError if a part of prepared data, of so many tokens, has no window of block_size tokens."""
    if min(n_train, n_val) <= block_size:
        raise _too_short(folder, n_train, n_val, block_size)


def _too_short(folder: Path, n_train: int, n_val: int, block_size: int) -> UsageError:
    """Return which part of some data is too short, and what to do."""
    part, n_tokens = ("train", n_train) if n_train <= block_size else ("val", n_val)
    limit = min(n_train, n_val) - 1
    smaller = f", or a {{}} of at most {limit}." if limit > 0 else "."
    return UsageError(
        f"The {NAMES[part]} part of {folder} has {n_tokens:,} tokens, too few for a block_size of {block_size:,}.",
        advice=f"Use a longer text{smaller.format('--block-size')}",
        page=f"Prepare a longer text{smaller.format('block_size')}",
    )


def recorded_digest(folder: Path) -> str:
    """Return the digest of prepared data as `prepare` recorded it, without reading them. Raises DataError."""
    meta = read_meta(folder)
    try:
        return _digest([shard_paths(folder, part) for part in PARTS], meta["files"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / META} is damaged: it does not list the files next to it.") from error


def _digest(parts: Sequence[Sequence[Path]], records: Mapping[str, Any]) -> str:
    """Return a hash that any change of tokens or vocabulary changes."""
    hashes = ["-".join(records[path.name]["sha256"] for path in paths) for paths in parts]
    return hashlib.sha256("".join([*hashes, records["tokenizer.json"]["sha256"]]).encode("ascii")).hexdigest()


def read_meta(folder: Path) -> dict[str, Any]:
    """Read what `prepare` recorded. Raises DataError."""
    meta = read_json(folder / META, DataError)
    if meta.get("format") != FORMAT or not isinstance(meta.get("files"), dict):
        raise DataError(
            f"{folder / META} is not of format {FORMAT}.",
            advice="Prepare the text again with --force.",
            page=REMOVE_AND_PREPARE,
        )
    try:
        numbers = [meta["vocab_size"], *(meta[f"{part}_tokens"] for part in PARTS)]
        for part in meta.get("parts", []):  # imported data have none
            numbers += [part["documents"], *(part[name] for name in part if name != "name")]
        for number in numbers:
            operator.index(number)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / META} is damaged: {error}.",
            advice="Prepare the text again with --force.",
            page=REMOVE_AND_PREPARE,
        ) from error
    return meta


def _batch(tokens: ShardReader, starts: npt.NDArray[np.int64], block_size: int) -> Batch:
    """Return the sequences (B, T) that begin at `starts` (B,), with the tokens that follow. Raises DataError."""
    drawn = tokens.windows(starts, block_size + 1)
    return Batch(drawn[:, :-1], drawn[:, 1:])


def _compare(folder: Path, meta: dict[str, Any], records: dict[str, dict[str, Any]]) -> None:
    """Check every file's size and hash against the recorded ones. Raises DataError."""
    recorded = {name: record for name, record in meta["files"].items() if name in records or name.endswith(".bin")}
    for name in sorted({*records, *recorded}):
        if recorded.get(name) != records.get(name):
            raise DataError(
                f"{folder / name} is not as `prepare` wrote it: it was truncated, altered, added or removed.",
                advice="Prepare the text again with --force.",
                page=REMOVE_AND_PREPARE,
            )


def _check_ids(tokens: ShardReader, vocab_size: int) -> None:
    """Check token files of unknown origin: whole ids, all in the vocabulary. Raises DataError."""
    itemsize = token_dtype(vocab_size).itemsize
    for path in tokens.paths:
        if path.stat().st_size % itemsize or not path.stat().st_size:
            raise DataError(f"{path} is empty or truncated: its size is no multiple of {itemsize} bytes.")
    largest = max(int(tokens.read(at, at + CHUNK).max()) for at in range(0, tokens.size, CHUNK))
    if largest >= vocab_size:
        folder = tokens.paths[0].parent
        raise DataError(
            f"The {tokens.part} part of {folder} holds the id {largest}, but the vocabulary beside it has only "
            f"{vocab_size} tokens."
        )
