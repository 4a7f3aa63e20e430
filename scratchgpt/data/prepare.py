"""From texts to a prepared folder: two passes over the text, in constant memory.

The first pass counts characters, hashes files and learns the vocabulary; the second writes tokens. A mixture is
written source by source and then cut to its ratio, since only then it is known how many tokens there are.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.dataset import BINS, FORMAT, META, read_meta, token_dtype
from scratchgpt.data.mix import Source, amounts, find_sources
from scratchgpt.data.sources import Count, Document, Reading
from scratchgpt.data.writing import TokenWriter, join
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import file_record, write_json
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.tokenizer.counting import PieceCounter

Progress = Callable[[int], None]
"""Told how many bytes of the files were read; there are twice their sizes in all."""


class Vocabulary(Protocol):
    """Where the tokenizer comes from: learnt from the texts, or there before."""

    @property
    def name(self) -> str:
        """What tells it from others: texts prepared again with the same name give the same tokens."""

    def see(self, text: str) -> None:
        """Learn from a piece of text."""

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Return the tokenizer, after all pieces were seen."""


class Characters:
    """Learns the characters of the texts."""

    name = "char"

    def __init__(self) -> None:
        """Begin with none."""
        self._characters: set[str] = set()

    def see(self, text: str) -> None:
        """Add the characters of a piece."""
        self._characters.update(text)

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Return the tokenizer of all characters seen."""
        return tokenizers.CharTokenizer(self._characters)


class Pieces:
    """Learns a byte-level BPE from how often each piece occurs."""

    def __init__(self, vocab_size: int) -> None:
        """Begin with nothing, to learn so many tokens."""
        self.name = f"bpe {vocab_size}"
        self._vocab_size = vocab_size
        self._counter = PieceCounter()

    def see(self, text: str) -> None:
        """Count the pieces of a piece of text."""
        self._counter.add(text)

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Return the tokenizer of what was counted. Raises UsageError if it cannot have so many tokens."""
        return train(self._counter.total(), self._vocab_size)


class Given:
    """A tokenizer that is there before."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Take the tokenizer."""
        self._tokenizer = tokenizer
        content = json.dumps(tokenizer.to_json(), sort_keys=True)
        self.name = f"given {hashlib.sha256(content.encode('ascii')).hexdigest()}"

    def see(self, text: str) -> None:
        """Learn nothing."""

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Return it."""
        return self._tokenizer


class Prepared(NamedTuple):
    """What `prepare` made, or found made already."""

    folder: Path
    meta: dict[str, Any]
    is_new: bool


def prepare(
    source: Path | Sequence[Source],
    folder: Path,
    *,
    vocabulary: Vocabulary | None = None,
    how: Reading = Reading(),  # noqa: B008 - it cannot change
    val: Source | None = None,
    val_fraction: float = 0.1,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Prepared:
    """Turn texts into train.bin, val.bin, tokenizer.json and meta.json in `folder`; by default a character a token.

    `source` is a file or folder, or what `find_sources` found. `val` is for validation; without it, that is the last
    `val_fraction` of each source's characters. The same texts prepared again are left as they are; anything else in
    the way is kept unless `force`. Raises DataError and UsageError.
    """
    sources = find_sources([source]) if isinstance(source, Path) else list(source)
    parts = [_Part(each, how, progress) for each in sources]
    val_parts = [_Part(val, how, progress)] if val else parts
    everything = parts + val_parts if val else parts
    _check([part.source for part in everything], folder, val_fraction)
    vocabulary = vocabulary or Characters()
    for part in everything:
        part.survey(vocabulary)
    asked = {
        "tokenizer": vocabulary.name,
        "reading": how._asdict(),
        "val_fraction": None if val else val_fraction,
        "sources": [part.record() for part in parts],
        "val": val_parts[0].record() if val else None,
    }
    if not force and _is_prepared(folder, asked):
        return Prepared(folder, read_meta(folder), is_new=False)
    tokenizer = vocabulary.tokenizer()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=folder.parent) as temporary:
            written = Path(temporary) / "whole"
            written.mkdir()
            for number, part in enumerate(everything):
                train_share = 1 - val_fraction if val is None else float(part not in val_parts)
                part.write(Path(temporary) / str(number), train_share, tokenizer)
            for name, of in zip(BINS, (parts, val_parts), strict=True):
                _join(of, name, written, tokenizer)
            tokenizers.save(tokenizer, written)
            write_json(written / META, _meta(written, asked, everything, tokenizer))
            if folder.exists():
                for name in (*BINS, *tokenizers.FILES, META):  # meta.json last: it vouches for the others
                    (written / name).replace(folder / name)
            else:
                written.rename(folder)
    except OSError as error:
        raise DataError(f"Cannot write the prepared data into {folder}: {error.strerror or error}.") from error
    return Prepared(folder, read_meta(folder), is_new=True)


def _check(sources: list[Source], folder: Path, val_fraction: float) -> None:
    """Refuse what cannot be meant. Raises UsageError."""
    if not 0 < val_fraction < 1:
        raise UsageError(f"The validation fraction must be between 0 and 1, not {val_fraction}.")
    for root in {file.root for source in sources for file in source.files}:
        if folder.resolve().is_relative_to(root.resolve()):
            raise UsageError(
                f"{folder} is or is inside the text {root}; name another folder for the tokens with --out."
            )


class _Part:
    """One source on its way: what the first pass finds out about it, and its tokens."""

    def __init__(self, source: Source, how: Reading, progress: Progress) -> None:
        self.source = source
        self._how = how
        self._progress = progress
        self.n_documents = self.n_characters = self.n_dropped = 0
        self.bins: dict[str, Path] = {}
        self.n_tokens: dict[str, int] = {}
        self.n_kept = 0

    def survey(self, vocabulary: Vocabulary) -> None:
        """Read the source for the first time. Raises DataError and UsageError."""
        for document in self._documents(self._drop):
            n_before = self.n_characters
            for text in document:
                vocabulary.see(text)
                self.n_characters += len(text)
            self.n_documents += self.n_characters > n_before
        if not self.n_characters:
            raise DataError(f"{self.source.name} is empty; there is nothing to learn from.")

    def write(self, folder: Path, train_share: float, tokenizer: tokenizers.Tokenizer) -> None:
        """Read the source again and write all its tokens into `folder`, parted by characters. Raises DataError."""
        n_left = int(self.n_characters * train_share)
        if 0 < train_share < 1 and not 0 < n_left < self.n_characters:
            name, n_characters = self.source.name, self.n_characters
            raise DataError(f"{name} has {n_characters:,} characters: too few to split for validation.")
        folder.mkdir()
        self.bins = {name: folder / name for name in BINS}
        with TokenWriter(self.bins[BINS[0]], tokenizer) as train, TokenWriter(self.bins[BINS[1]], tokenizer) as val:
            for document in self._documents(lambda _: None):
                for text in document:
                    train.write(text[:n_left])
                    val.write(text[n_left:])
                    n_left -= min(n_left, len(text))
                train.end_document()
                val.end_document()
        itemsize = token_dtype(tokenizer.vocab_size).itemsize
        self.n_tokens = {name: path.stat().st_size // itemsize for name, path in self.bins.items()}

    def record(self) -> dict[str, Any]:
        """Return what identifies the source."""
        files = [file.record for file in self.source.files]
        return {"name": self.source.name, "weight": self.source.weight, "files": files}

    def summary(self) -> dict[str, Any]:
        """Return what became of the source."""
        return {
            "name": self.source.name,
            "documents": self.n_documents,
            "characters": self.n_characters,
            "dropped_characters": self.n_dropped,
            "tokens": sum(self.n_tokens.values()),
            "kept_tokens": self.n_kept,
        }

    def _documents(self, dropped: Count) -> Iterator[Document]:
        for file in self.source.files:
            yield from file.documents(self._how, read=self._progress, dropped=dropped)

    def _drop(self, n_characters: int) -> None:
        self.n_dropped += n_characters


def _join(parts: list[_Part], name: str, folder: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """Make one token file of those of all parts, as much of each as the mixture takes."""
    available = [part.n_tokens[name] for part in parts]
    wanted = amounts(available, [part.source for part in parts])
    taken = join([part.bins[name] for part in parts], wanted, folder / name, tokenizer)
    for part, n_tokens in zip(parts, taken, strict=True):
        part.n_kept += n_tokens


def _meta(folder: Path, asked: dict[str, Any], parts: list[_Part], tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return what is recorded of all this."""
    dtype = token_dtype(tokenizer.vocab_size)
    files = {name: file_record(folder / name) for name in (*BINS, *tokenizers.FILES)}
    n_train, n_val = (files[name]["bytes"] // dtype.itemsize for name in BINS)
    return {
        "format": FORMAT,
        "asked": asked,
        "parts": [part.summary() for part in parts],
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.name,
        "train_tokens": n_train,
        "val_tokens": n_val,
        "files": files,
    }


def _is_prepared(folder: Path, asked: dict[str, Any]) -> bool:
    """Tell whether `folder` already holds just this. Raises DataError if it holds something else."""
    ours = [name for name in (*BINS, *tokenizers.FILES, META) if (folder / name).exists()]
    if not ours:
        return False
    if len(ours) == len(BINS) + len(tokenizers.FILES) + 1:
        found = read_meta(folder)
        files = found["files"]
        if found.get("asked") == asked and all(
            file_record(folder / name) == files.get(name) for name in ours if name != META
        ):
            return True
    raise DataError(
        f"{folder} already holds {', '.join(ours)} from something else; "
        "use --force to replace it, or --out for another place."
    )
