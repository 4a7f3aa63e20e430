"""From files to bytes: unpacks files and reads the members of archives, in constant memory; writes nothing.

The first bytes say how a file is packed, whatever its name says.
"""

import bz2
import contextlib
import functools
import gzip
import hashlib
import importlib
import io
import itertools
import lzma
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple, Protocol, Self

from scratchgpt.data.documents import Count
from scratchgpt.errors import DataError
from scratchgpt.extras import imports
from scratchgpt.kinds import BZIP2, GZIP, OFFICE, START, XZ, ZSTD, Kind, kind_of

PIECE = 2**20
"""Bytes read at once."""

DEEPEST = 4
"""How many times a file may be packed: some unpack to themselves."""

MOST_BYTES, MOST_TIMES = 2**32, 500
"""A file is refused if it unpacks to more than both: bytes, and times its own size. No text does that."""

NAMELESS = "a file without a name"
"""The name of such a member of an archive."""

HIDDEN = {"__macosx", "desktop.ini", "thumbs.db"}
"""Names of files and folders that systems add, in small letters."""

XZ_MEMORY = 2**30
"""Bytes that the dictionary of an xz file may take; `xz -9` takes 2^26."""


class Stream(Protocol):
    """Bytes that are read once."""

    def read(self, size: int, /) -> Any:
        """Return at most `size` bytes; at the end, none."""


Damage = tuple[type[Exception], ...]
"""The exceptions of a stream whose file is damaged."""

TAR_DAMAGE: Damage = (tarfile.TarError,)
ZIP_DAMAGE: Damage = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, NotImplementedError)


class Place(NamedTuple):
    """A file, or a member of an archive."""

    path: Path
    root: Path  # the file itself, or the folder that was named
    member: str = ""

    def __str__(self) -> str:
        """Return how messages name it."""
        name = self.member if self.member.isprintable() else repr(self.member)
        return f"{name} in {self.path}" if name else str(self.path)

    @property
    def name(self) -> str:
        """The name that says how the text is written."""
        return self.member or self.path.name

    def refused(self, kind: Kind) -> DataError:
        """Return the error for a file of this kind, which is not text."""
        whole = self.path if self.member else self.root
        rest = "" if whole == self.path and not self.member else f" Or leave it out of {whole}."
        return DataError(f"{self} is {kind.name}. {kind.advice}{rest}")


class Watched(io.RawIOBase):
    """A file being read, whose bytes are counted and hashed."""

    def __init__(self, file: io.FileIO, path: Path, read: Count) -> None:
        """`read` receives the number of bytes at each read."""
        self._file = file
        self._path = path
        self._read = read
        self._hash = hashlib.sha256()
        self._n_bytes = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`. Raises DataError."""
        with failures_named(self._path):
            n_bytes = self._file.readinto(buffer) or 0
        self._hash.update(memoryview(buffer)[:n_bytes])
        self._n_bytes += n_bytes
        self._read(n_bytes)
        return n_bytes

    def record(self) -> dict[str, Any]:
        """Read the rest, and return the size and hash of the file. Raises DataError."""
        while self.read(PIECE):
            pass
        return {"bytes": self._n_bytes, "sha256": self._hash.hexdigest()}


class Contents(io.RawIOBase):
    """A stream of bytes whose beginning is known before it is read."""

    def __init__(self, stream: Stream, place: Place | str, *, most: float, damage: Damage = ()) -> None:
        """Read the beginning, `start`. Raises DataError if the file is damaged or unpacks to more than `most` bytes."""
        self.place = place
        self._stream = stream
        self.most = most
        self._damage = damage
        self._n_bytes = 0
        with failures_named(place, damage):
            self.start = stream.read(START)
        self._ahead = self.start

    def readable(self) -> bool:
        """Return true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`. Raises DataError."""
        with failures_named(self.place, self._damage):
            data, self._ahead = self._ahead[: len(buffer)], self._ahead[len(buffer) :]
            data = data or self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._n_bytes += len(data)
        if self._n_bytes > self.most:
            raise _bomb(self.place)
        return len(data)

    def buffered(self) -> io.BufferedReader:
        """Return a stream that reads it in large pieces."""
        return io.BufferedReader(self, PIECE)


class _Unpacked(io.RawIOBase):
    """The bytes of packed streams, one after another, as bz2, lzma and zstd have them.

    The readers of these modules take a damaged stream after a whole one for the end.
    """

    def __init__(self, packed: Stream, new: Callable[[], Any]) -> None:
        self._packed = packed
        self._new = new
        self._stream = new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._stream.eof:
                data = self._stream.unused_data.lstrip(b"\0")  # streams may stand apart
                while not data:
                    more = self._packed.read(PIECE)
                    if not more:
                        return 0
                    data = more.lstrip(b"\0")
                self._stream = self._new()
            elif self._stream.needs_input and not (data := self._packed.read(PIECE)):
                raise EOFError("its end is missing")
            if unpacked := self._stream.decompress(data, len(buffer)):
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)


def _zstd(place: Place) -> Any:
    return extra("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd", "zstd", place)


def _stream_of(kind: Kind, packed: io.BufferedReader, place: Place) -> tuple[Stream, Damage]:
    """Return the stream inside a packed one, and the exceptions of a damaged one. Raises UsageError."""
    if kind is GZIP:
        return gzip.GzipFile(fileobj=packed), (EOFError, zlib.error, gzip.BadGzipFile)
    new: Callable[[], Any]
    damage: Damage
    if kind is XZ:
        new, damage = functools.partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY), (EOFError, lzma.LZMAError)
    elif kind is BZIP2:
        new, damage = bz2.BZ2Decompressor, (EOFError, OSError, ValueError)
    else:
        zstd = _zstd(place)
        window = zstd.DecompressionParameter.window_log_max
        options = {window: window.bounds()[1]}  # `zstd --long=31` packed the dumps of Reddit
        new, damage = functools.partial(zstd.ZstdDecompressor, options=options), (EOFError, zstd.ZstdError)
    return io.BufferedReader(_Unpacked(packed, new), PIECE), damage


def unpacked(stream: Stream, place: Place, *, most: float, damage: Damage = ()) -> Contents:
    """Return the contents of a file, unpacked as often as they are packed. Raises DataError and UsageError."""
    contents = Contents(stream, place, most=most, damage=damage)
    for _ in range(DEEPEST):
        kind = kind_of(contents.start)
        if kind not in (GZIP, ZSTD, XZ, BZIP2):
            return contents
        inner, damage = _stream_of(kind, contents.buffered(), place)
        contents = Contents(inner, place, most=most, damage=damage)
    raise DataError(f"{place} is packed {DEEPEST} times or more; unpack it first.")


def most_bytes(path: Path) -> float:
    """Return how many bytes a file may unpack to. Raises OSError."""
    return max(MOST_BYTES, MOST_TIMES * path.stat().st_size)


def _bomb(place: Place | str) -> DataError:
    return DataError(
        f"{place} unpacks to more than {MOST_TIMES} times its size, as no text does; if it is right, unpack it first."
    )


def tar_members(contents: Contents, place: Place) -> Iterator[tuple[Place, Contents]]:
    """Yield the visible files of a tar archive in its order; links are left out. Raises DataError and UsageError.

    Each must be read before the next.
    """
    with failures_named(place, TAR_DAMAGE):
        archive = tarfile.TarFile.open(fileobj=contents.buffered(), mode="r|", tarinfo=_Member, bufsize=PIECE)
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # it would keep them all in memory
            if _is_visible(member.name) and member.isreg() and (stream := archive.extractfile(member)):
                inside = place._replace(member=member.name or NAMELESS)
                yield inside, unpacked(stream, inside, most=contents.most, damage=TAR_DAMAGE)
    while contents.read(PIECE):  # at its end is what shows whether a packed file is whole
        pass


class _Member(tarfile.TarInfo):
    """A member of a tar archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header. Raises ReadError if it is damaged; TarFile would take that for the end of the archive."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end
            raise tarfile.ReadError(str(error)) from error


def zip_members(place: Place) -> Iterator[tuple[Place, Contents]]:
    """Yield the visible files of a ZIP archive in its order. Raises DataError and UsageError."""
    with open_zip(place) as archive:
        most = most_bytes(place.path)
        for member in archive.infolist():
            if not member.filename.endswith("/") and _is_visible(member.filename):
                inside = place._replace(member=member.filename or NAMELESS)
                with failures_named(inside, ZIP_DAMAGE):
                    stream = archive.open(member)
                yield inside, unpacked(stream, inside, most=most, damage=ZIP_DAMAGE)


@contextlib.contextmanager
def open_zip(place: Place) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP archive of texts. Raises DataError for any other."""
    with failures_named(place, ZIP_DAMAGE):
        archive = zipfile.ZipFile(place.path)
    with archive:
        members = archive.infolist()
        if {"[Content_Types].xml", "mimetype"}.intersection(archive.namelist()):
            raise place.refused(OFFICE)
        if any(member.flag_bits & 1 for member in members):
            raise DataError(f"{place} is encrypted; unpack it with its password, and name the texts in it.")
        if sum(member.file_size for member in members) > most_bytes(place.path):
            raise _bomb(place)
        starts = sorted((member.header_offset, member.compress_size) for member in members)
        for (start, size), (following, _) in itertools.pairwise(starts):
            if start + size > following:
                raise DataError(f"{place} is damaged: its files overlap.")
        yield archive


def _is_visible(name: str) -> bool:
    """Whether a member of an archive is one of its texts, and no file that a system hides."""
    parts = PureWindowsPath(name).parts  # some programs put backslashes between them
    return not any(map(is_hidden, (part for part in parts if part != ".")))


def is_hidden(name: str) -> bool:
    """Whether a system hides the files and folders of this name from its users."""
    return name.startswith(".") or name.lower() in HIDDEN


def extra(module: str, name: str, place: Place) -> Any:
    """Import a module of the extra `name`. Raises UsageError if it is not installed."""
    with imports(f"Reading {place}", name):
        return importlib.import_module(module)


@contextlib.contextmanager
def failures_named(place: Place | Path | str, damage: Damage = ()) -> Iterator[None]:
    """Turn what goes wrong while a file is read into DataError."""
    try:
        yield
    except damage as error:
        raise DataError(f"{place} is damaged: {' '.join(str(error).split())}.") from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DataError(f"{place} cannot be read: {reason}.") from error
