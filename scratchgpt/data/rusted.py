"""Data that nanogpt-rusted has prepared: train.bin, val.bin and vocab.json.

The ids are big-endian uint32. Those of characters come in no order; here they become those of the code points' order.
https://github.com/tbogdala/nanogpt-rusted
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.dataset import FORMAT, META, read_meta, token_dtype
from scratchgpt.data.documents import Progress
from scratchgpt.data.prepared import Prepared, is_prepared, publish, token_files
from scratchgpt.data.shards import PARTS, ShardWriter
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import TEMPORARY, file_record, read_json, write_json
from scratchgpt.tokenizer import CharTokenizer, Tokenizer, gpt2

VOCABULARY = "vocab.json"
GPT2_SIZE = 50_257

BLOCK = 2**20
"""Tokens that are read at once."""


class Vocabulary(NamedTuple):
    """A vocabulary, and what each of its ids is called by nanogpt-rusted."""

    tokenizer: Tokenizer
    theirs: npt.NDArray[np.int64]  # (V,)


def read_vocabulary(path: Path, *, tell: Callable[[str], None] = lambda _: None) -> Vocabulary:
    """Read vocab.json: characters, or a size alone, which means GPT-2's. Raises DataError.

    `tell` is told if GPT-2's files are downloaded.
    """
    content = read_json(path, DataError)
    size: Any = content.get("vocab_size")
    ids: Any = content.get("stoi")
    characters: Any = content.get("itos")
    if ids is None and characters is None:
        if size != GPT2_SIZE:
            raise DataError(f"{path} names no characters, and its vocab_size {size!r} is not GPT-2's {GPT2_SIZE:,}.")
        return Vocabulary(gpt2.load(tell=tell), np.arange(GPT2_SIZE))
    if not _is_consistent(size, ids, characters):
        raise DataError(f"{path} is damaged: stoi and itos do not give {size!r} characters an id each and back.")
    return Vocabulary(CharTokenizer(ids), np.array([ids[character] for character in sorted(ids)]))


def _is_consistent(size: Any, ids: Any, characters: Any) -> bool:
    """Tell whether ids by character and characters by id are those of `size` characters."""
    if not (isinstance(ids, dict) and isinstance(characters, dict) and ids):
        return False
    if any(len(character) != 1 or "\ud800" <= character <= "\udfff" for character in ids):
        return False
    return (
        all(type(index) is int for index in ids.values())
        and sorted(ids.values()) == list(range(len(ids)))
        and size == len(ids)
        and characters == {str(index): character for character, index in ids.items()}
    )


def import_data(
    source: Path,
    folder: Path,
    *,
    force: bool = False,
    progress: Progress = lambda *_: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Turn what `source` holds into a prepared folder. Raises DataError and UsageError.

    The same data imported again are left as they are; anything else in the way is kept unless `force`.
    """
    if not source.is_dir():
        raise UsageError(f"There is no folder {source}; name that of train.bin, val.bin and {VOCABULARY}.")
    if folder.resolve() == source.resolve():
        raise UsageError(f"{folder} is what is read; name another folder with -o.")
    paths = {part: source / f"{part}.bin" for part in PARTS}
    vocabulary = read_vocabulary(source / VOCABULARY, tell=tell)
    try:
        asked = {"rusted": {path.name: file_record(path) for path in (*paths.values(), source / VOCABULARY)}}
        is_new = force or not is_prepared(folder, asked)
        if is_new:
            place = folder.resolve()
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=place.parent) as temporary:
                written = Path(temporary) / place.name
                written.mkdir()
                _write(written, paths, vocabulary, asked, progress)
                if force or not is_prepared(folder, asked):  # another process may have written it meanwhile
                    publish(written, place)
    except OSError as error:
        raise DataError(f"Cannot turn {source} into {folder}: {error.strerror or error}.") from error
    return Prepared(folder, read_meta(folder), is_new, was_interrupted=False)


def _write(
    folder: Path, paths: dict[str, Path], vocabulary: Vocabulary, asked: dict[str, Any], progress: Progress
) -> None:
    """Write tokens, vocabulary and meta.json. Raises DataError and OSError."""
    tokenizer, theirs = vocabulary
    dtype = token_dtype(tokenizer.vocab_size)
    ours = np.empty(len(theirs), dtype)
    ours[theirs] = np.arange(len(theirs))
    sizes = {part: _size(path) for part, path in paths.items()}
    for part, path in paths.items():
        with ShardWriter(folder, part, dtype) as writer:
            for ids in _ids(path, tokenizer.vocab_size):
                writer.append(ours[ids])
                progress("Reading", len(ids), sum(sizes.values()))
            writer.sync()
    tokenizers.save(tokenizer, folder)
    meta = {
        "format": FORMAT,
        "asked": asked,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype.name,
        **{f"{part}_tokens": size for part, size in sizes.items()},
        "files": {path.name: file_record(path) for path in token_files(folder)},
    }
    write_json(folder / META, meta)


def _size(path: Path) -> int:
    """Return how many ids a file holds. Raises DataError and OSError."""
    n_bytes = path.stat().st_size
    if n_bytes % 4 or not n_bytes:
        raise DataError(f"{path} is empty or truncated: its {n_bytes:,} bytes are not ids of four bytes each.")
    return n_bytes // 4


def _ids(path: Path, vocab_size: int) -> Iterator[npt.NDArray[np.uint32]]:
    """Yield a file's ids, block by block. Raises DataError if one is not in the vocabulary, and OSError."""
    with path.open("rb") as file:
        start = 0
        while data := file.read(4 * BLOCK):
            ids = np.frombuffer(data, ">u4")
            wrong = np.flatnonzero(ids >= vocab_size)
            if len(wrong):
                raise DataError(
                    f"{path} holds the id {ids[wrong[0]]:,} at position {start + wrong[0]:,}, but the vocabulary has "
                    f"{vocab_size:,} tokens; are these data of nanogpt-rusted, and of this {VOCABULARY}?"
                )
            yield ids
            start += len(ids)
