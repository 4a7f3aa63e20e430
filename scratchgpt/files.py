"""Small files read and written carefully: JSON in UTF-8, hashes, and waiting until the disk has it all."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scratchgpt.errors import DataError, ScratchGPTError
from scratchgpt.kinds import JSON, decoded, mistaken

REFUSED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EACCES, errno.EPERM)
"""The errors of a file system that cannot sync a file or a folder, or change its mode."""
TEMPORARY = ".unfinished-"
"""The beginning of the names of folders in which files are written that are not whole yet: each writer has its own."""
DEVICES = re.compile(r"(con|prn|aux|nul|conin|conout|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names that Windows gives to devices, whatever follows the first dot."""
LONGEST_NAME = 60
"""Characters; each may take four of the 255 bytes that a file's name may have."""


def read_json(path: Path, error_class: type[ScratchGPTError]) -> dict[str, Any]:
    """Read a JSON object. Raises `error_class` if the file is unreadable or anything else."""
    try:
        content = json.loads(decoded(path.read_bytes()))
    except OSError as error:
        raise error_class(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise error_class(mistaken(path, JSON) or f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise error_class(f"{path} is damaged: it holds no object.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object: the same content gives the same bytes on every system. Raises OSError."""
    # A name that is not UTF-8 has lone surrogates: JSON writes them as \udcXX, which backslashreplace makes of them.
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def replace_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object in the place of another: whatever happens, one of them is there, whole. Raises OSError.

    What is done after this call is never on the disk without it.
    """
    with written_whole(path, force=True) as temporary:
        write_json(temporary, content)


def file_record(path: Path) -> dict[str, Any]:
    """Return a file's size and SHA-256, to be compared later. Raises OSError."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def file_identity(path: Path) -> tuple[int, int, int]:
    """Return what changes if a file is replaced or written to. Raises OSError."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def sync(descriptor: int) -> None:
    """Wait until an open file is on the disk, where the file system can do that. Raises OSError."""
    with _where_possible():
        os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk, where the file system can do that. Raises OSError."""
    with _where_possible(), path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk, where the system can do that. Raises OSError."""
    if os.name == "posix":
        with _where_possible():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def copy_mode(path: Path, like: Path) -> None:
    """Give a file the mode of another one, where the file system can do that. Raises OSError."""
    with _where_possible():
        shutil.copymode(like, path)


@contextlib.contextmanager
def _where_possible() -> Iterator[None]:
    """Pass over the errors of a file system that cannot do a thing at all."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise


def require_free(path: Path, *, force: bool) -> None:
    """Raise DataError if there is a file that would be lost, unless it may be."""
    if path.exists() and not force:
        raise DataError(f"{path} is there already; use --force to replace it, or name another file.")


@contextlib.contextmanager
def written_whole(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield where to write a file that is to appear at `path` when it is whole.

    Raises DataError if there is one already, unless it may be replaced, and OSError.
    """
    require_free(path, force=force)
    if path.exists() and not path.is_file():  # a pipe or a device, as /dev/stdout, which nothing can replace
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        sync_file(temporary)
        require_free(path, force=force)  # another process may have written it meanwhile
        temporary.replace(path)
        sync_folder(path.parent)


@contextlib.contextmanager
def folder_written_whole(folder: Path, names: Sequence[str], *, force: bool) -> Iterator[Path]:
    """Yield where to write the named files that are to appear in `folder` when they are whole.

    Raises DataError if one of them is there already, unless they may be replaced, and OSError.
    """

    def require_names_free() -> None:
        there = [name for name in names if (folder / name).exists()]
        if there and not force:
            raise DataError(
                f"{folder} already holds {', '.join(there)}; use --force to replace them, or name another folder."
            )

    require_names_free()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder) as temporary:
        yield Path(temporary)
        require_names_free()  # another process may have written them meanwhile
        for path in Path(temporary).iterdir():
            sync_file(path)
            path.replace(folder / path.name)
    sync_folder(folder)


def safe_name(name: str) -> str:
    """Return what of a file's name is harmless on every system: no folders, nothing hidden, no device of Windows."""
    name = re.split(r"[/\\]", name)[-1]
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:LONGEST_NAME].rstrip("-.") or "text"
    return f"text-{name}" if DEVICES.fullmatch(name) else name
