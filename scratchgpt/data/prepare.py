"""From a text file to a prepared folder: two passes over the text, in constant memory."""

import codecs
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.dataset import BINS, FORMAT, META, read_meta, token_dtype
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import file_record, write_json

CHUNK = 2**20
"""Bytes read at once."""

Progress = Callable[[int], None]
"""Told after each chunk how many bytes of work it was; there are twice the file's size in all."""


class Prepared(NamedTuple):
    """What `prepare` made, or found made already."""

    folder: Path
    meta: dict[str, Any]
    is_new: bool


def prepare(
    source: Path, folder: Path, *, val_fraction: float = 0.1, force: bool = False, progress: Progress = lambda _: None
) -> Prepared:
    """Turn a text into train.bin, val.bin, tokenizer.json and meta.json in `folder`, one token a character.

    The last `val_fraction` of the characters is for validation. The same text prepared again is left as it is;
    anything else in the way is kept unless `force`. Raises DataError and UsageError.
    """
    if folder == source:
        raise UsageError(f"{source} cannot be both the text and the folder for its tokens; name another with --out.")
    if not 0 < val_fraction < 1:
        raise UsageError(f"The validation fraction must be between 0 and 1, not {val_fraction}.")
    survey = _survey(source, progress)
    n_train = int(survey.n_characters * (1 - val_fraction))
    if not 0 < n_train < survey.n_characters:
        raise DataError(f"{source} has {survey.n_characters:,} characters: too few to split for validation.")
    tokenizer = tokenizers.CharTokenizer(survey.characters)
    meta = {
        "format": FORMAT,
        "source": {"name": source.name, "bytes": survey.n_bytes, "sha256": survey.sha256},
        "tokenizer": "char",
        "vocab_size": tokenizer.vocab_size,
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "val_fraction": val_fraction,
        "train_tokens": n_train,
        "val_tokens": survey.n_characters - n_train,
    }
    if not force and _is_prepared(folder, meta):
        return Prepared(folder, read_meta(folder), is_new=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".prepare-", dir=folder.parent) as temporary:
            written = Path(temporary) / folder.name
            written.mkdir()
            _write(source, written, tokenizer, meta, progress)
            if folder.exists():
                for name in (*BINS, *tokenizers.FILES, META):  # meta.json last: it vouches for the others
                    (written / name).replace(folder / name)
            else:
                written.rename(folder)
    except OSError as error:
        raise DataError(f"Cannot write the prepared data into {folder}: {error.strerror or error}.") from error
    return Prepared(folder, read_meta(folder), is_new=True)


class _Survey(NamedTuple):
    """What the first pass finds out."""

    characters: set[str]
    n_characters: int
    n_bytes: int
    sha256: str


def _survey(source: Path, progress: Progress) -> _Survey:
    """Read the text once: which characters, how many, and the file's hash."""
    characters: set[str] = set()
    n_characters = n_bytes = 0
    digest = hashlib.sha256()
    for data, text in _read(source):
        digest.update(data)
        characters.update(text)
        n_characters += len(text)
        n_bytes += len(data)
        progress(len(data))
    if not n_characters:
        raise DataError(f"{source} is empty; there is nothing to learn from.")
    return _Survey(characters, n_characters, n_bytes, digest.hexdigest())


def _read(source: Path) -> Iterator[tuple[bytes, str]]:
    """Yield the file's bytes in chunks, each with the characters that it completes. Raises DataError."""
    if not source.is_file():
        raise DataError(f"{source} is not a regular file; name a text file.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    try:
        with source.open("rb") as file:
            while True:
                data = file.read(CHUNK)
                pending = len(decoder.getstate()[0])
                yield data, decoder.decode(data, final=not data)
                offset += len(data)
                if not data:
                    return
    except UnicodeDecodeError as error:
        at = offset - pending + error.start
        raise DataError(
            f"{source} is not UTF-8 text: the byte 0x{error.object[error.start]:02x} at offset {at:,} does not belong. "
            f"Save the text as UTF-8 first{_guess(error.object)}."
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read {source}: {error.strerror}.") from error


def _guess(data: bytes) -> str:
    """Return what encoding the bytes of a text that is not UTF-8 suggest."""
    return " (it looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""


def _is_prepared(folder: Path, meta: dict[str, Any]) -> bool:
    """Tell whether `folder` already holds just this. Raises DataError if it holds something else."""
    ours = [name for name in (*BINS, *tokenizers.FILES, META) if (folder / name).exists()]
    if not ours:
        return False
    if len(ours) == len(BINS) + len(tokenizers.FILES) + 1:
        found = read_meta(folder)
        files = found.pop("files")
        if found == meta and all(file_record(folder / name) == files.get(name) for name in ours if name != META):
            return True
    raise DataError(
        f"{folder} already holds {', '.join(ours)} from something else; "
        "use --force to replace it, or --out for another place."
    )


def _write(
    source: Path, folder: Path, tokenizer: tokenizers.CharTokenizer, meta: dict[str, Any], progress: Progress
) -> None:
    """Read the text again and write all files."""
    dtype = token_dtype(tokenizer.vocab_size)
    n_train, n_val = meta["train_tokens"], meta["val_tokens"]
    n_written = 0
    with (folder / BINS[0]).open("wb") as train, (folder / BINS[1]).open("wb") as val:
        for data, text in _read(source):
            ids = tokenizer.encode(text).astype(dtype)
            n_left = max(n_train - n_written, 0)
            train.write(ids[:n_left].tobytes())
            val.write(ids[n_left:].tobytes())
            n_written += len(ids)
            progress(len(data))
    if n_written != n_train + n_val:
        raise DataError(f"{source} changed while it was being read; prepare it again.")
    tokenizers.save(tokenizer, folder)
    meta["files"] = {name: file_record(folder / name) for name in (*BINS, *tokenizers.FILES)}
    write_json(folder / META, meta)
