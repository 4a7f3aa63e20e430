"""Kinds of files by their first bytes, whatever their names say: one table for texts, models and tokenizers."""

import codecs
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

START = 4096
"""Bytes at the beginning of a file that are looked at."""


class Kind(NamedTuple):
    """A kind of file."""

    name: str  # as in "it is ..."
    advice: str  # to a person who took such a file for a text


SAVE = "Save its text as a file of plain text in UTF-8."
UNPACK = "Unpack it, and name the texts in it."
REPLACE = "Name a text in its place."

GZIP, ZSTD, XZ, BZIP2 = (Kind(f"packed by {name}", UNPACK) for name in ("gzip", "zstd", "xz", "bzip2"))
ZIP = Kind("a ZIP archive", UNPACK)
TAR = Kind("a tar archive", UNPACK)
PARQUET = Kind("a Parquet file", UNPACK)
ARROW = Kind("an Arrow file", "Save its text as JSON lines or Parquet.")
SAFETENSORS = Kind("a safetensors file", REPLACE)
LFS_POINTER = Kind("a Git LFS pointer, not the file itself", "Fetch the file with `git lfs pull`.")
WEB_PAGE = Kind("a web page (HTML)", f"{SAVE} To learn HTML itself, put it into a field of JSON lines.")
BINARY = Kind(
    "binary, or UTF-16 or UTF-32 without a byte order mark: it has NUL bytes", "If it is text, save it as UTF-8."
)

TEXT, JSON = Kind("text", ""), Kind("JSON", "")  # without first bytes of their own

OFFICE = Kind("a document of an office program", SAVE)
PICTURES = {
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
STARTS = {
    **{start: Kind(f"a {name} picture", REPLACE) for start, name in PICTURES.items()},
    b"version https://git-lfs.github.com/spec/": LFS_POINTER,
    b"\x1f\x8b": GZIP,
    b"\x28\xb5\x2f\xfd": ZSTD,
    **{bytes([0x50 + number]) + b"\x2a\x4d\x18": ZSTD for number in range(16)},  # what pzstd begins with
    b"\xfd7zXZ\0": XZ,
    b"PK\x03\x04": ZIP,
    b"PK\x05\x06": ZIP,  # without a file in it
    b"PAR1": PARQUET,
    b"%PDF-": Kind("a PDF document", SAVE),
    b"{\\rtf": OFFICE,
    b"\xd0\xcf\x11\xe0": OFFICE,
    b"%!PS-Adobe": Kind("a PostScript document", SAVE),
    b"7z\xbc\xaf\x27\x1c": Kind("a 7-Zip archive", UNPACK),
    b"Rar!\x1a\x07": Kind("a RAR archive", UNPACK),
    b"GGUF": Kind("a GGUF file", REPLACE),
    b"\x89HDF\r\n": Kind("an HDF5 file", REPLACE),
    b"\x93NUMPY": Kind("an array of NumPy", REPLACE),
    b"ARROW1\0": ARROW,
    **{bytes([0x80, protocol]): Kind("a pickle", REPLACE) for protocol in range(2, 6)},
    b"\x7fELF": Kind("a program", REPLACE),
    b"SQLite format 3\0": Kind("an SQLite database", "Save its text as CSV or JSON lines."),
    b"\0\0\0\1Bud1": Kind("the .DS_Store of a folder", "Remove it."),
    b"RIFF": Kind("a sound, a film or a picture", REPLACE),
    b"ID3": Kind("a sound", REPLACE),
    b"OggS": Kind("a sound or a film", REPLACE),
    b"fLaC": Kind("a sound", REPLACE),
}
"""First bytes of files that people take for a text or for a part of a model, and their kinds."""

HTML = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(?>(<!--.*?-->\s*)*)<(!doctype\s+html|html)[\s>]", re.DOTALL | re.IGNORECASE)
PATTERNS = {
    HTML: WEB_PAGE,
    re.compile(rb"\xff{4}.{3}\0", re.DOTALL): ARROW,  # a stream, as the library datasets writes it
    re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"): BZIP2,
    re.compile(rb'.{4}\0{4}\{\s*"', re.DOTALL): SAFETENSORS,
}
"""Beginnings that are no fixed bytes."""

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks, and what follows them."""


def mark_of(start: bytes) -> tuple[bytes, str]:
    """Return the byte order mark that a text begins with, and its encoding: UTF-8 if there is no mark."""
    return next(((mark, encoding) for mark, encoding in MARKS.items() if start.startswith(mark)), (b"", "utf-8"))


def decoded(data: bytes) -> str:
    """Return a text without its byte order mark, which names its encoding; without one it is UTF-8.

    Raises UnicodeDecodeError.
    """
    mark, encoding = mark_of(data)
    return data[len(mark) :].decode(encoding)


def kind_of(start: bytes) -> Kind | None:
    """Return the kind of a file by its first START bytes, or None: then it may be text."""
    mark, encoding = mark_of(start)
    if mark:
        text = start[len(mark) :].decode(encoding, "ignore").encode("utf-8")
        return WEB_PAGE if HTML.match(text) else None
    for first, kind in STARTS.items():
        if start.startswith(first) and (b"\0" in start or not first.isalnum()):  # a text may begin with "RIFF"
            return kind
    for pattern, kind in PATTERNS.items():
        if pattern.match(start):
            return kind
    if _is_tar(start[: tarfile.BLOCKSIZE]):
        return TAR
    return BINARY if b"\0" in start else None


def _is_utf8(start: bytes) -> bool:
    """Whether this begins a text in UTF-8, whose last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return True


def _is_tar(block: bytes) -> bool:
    """Whether this is the header of a file in a tar archive: it holds the sum of its own bytes."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def mistaken(path: Path, wanted: Kind) -> str:
    """Return a sentence on a file that is of another kind than `wanted`, or nothing if its start does not show it."""
    try:
        with path.open("rb") as file:
            start = file.read(START)
    except OSError:
        return ""
    kind = kind_of(start) or (TEXT if _is_utf8(start) else wanted)
    if kind is LFS_POINTER:
        return f"{path} is {kind.name}. {kind.advice}"
    if start and (kind is wanted or {kind, wanted} in ({TEXT, JSON}, {BINARY, SAFETENSORS})):
        return ""
    name = "empty" if not start else "binary" if kind is BINARY else kind.name
    return f"{path} is {name}, not {wanted.name}; put the right file in its place."
