"""One program at a time in a folder, by the operating system's own lock: it cannot outlive its process."""

import errno
import os
import shutil
import sys
import time
from pathlib import Path
from typing import IO, Any, Self

from scratchgpt.errors import ScratchGPTError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


NAME = ".lock"
HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
"""The errors of a lock that another process holds."""
MISSING = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""The errors of a file system without locks, as some of networks and containers are."""
RETRIES = (0.001, 0.01, 0.1)
"""Seconds to wait before another attempt: `is_locked` in another process holds the lock for an instant."""


class FolderLock:
    """Held from construction to `release`. Where the file system has no locks, `note` says so."""

    def __init__(self, folder: Path, busy: ScratchGPTError) -> None:
        """Lock a folder that exists. Raises `busy` if somebody else holds it, and its class if it cannot be locked."""
        self.note = ""  # a sentence for the user, if there is no lock
        self._folder = folder
        path = folder / NAME
        try:
            self._file = path.open("w", encoding="utf-8")
        except FileNotFoundError as error:  # its holder has just removed the folder
            raise busy from error
        except OSError as error:
            raise type(busy)(f"Cannot write into {folder}: {error.strerror}.") from error
        try:
            self._lock()
            is_ours = path.exists() and os.path.samestat(path.stat(), os.fstat(self._file.fileno()))
        except OSError as error:
            self._file.close()
            if error.errno in HELD:
                raise busy from error
            raise type(busy)(f"Cannot lock {folder}: {error.strerror}.") from error
        if not is_ours:  # whoever held it has removed the folder since the file was opened
            self._file.close()
            raise busy

    def _lock(self) -> None:
        """Lock the file. Raises OSError."""
        for seconds in (*RETRIES, None):
            try:
                _try_lock(self._file)
            except OSError as error:
                if error.errno in MISSING:
                    self.note = f"The file system of {self._folder} has no locks: let no other program write into it."
                    return
                if error.errno not in HELD or seconds is None:
                    raise
                time.sleep(seconds)
            else:
                return

    def release(self) -> None:
        """Let others in."""
        self._file.close()

    def remove_folder(self) -> None:
        """Remove the folder with all that is in it, and let others in."""
        if sys.platform == "win32":  # where no open file can be removed
            self.release()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.release()

    def __enter__(self) -> Self:
        """Return the lock itself, already held."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder. This neither creates a file nor keeps a process out."""
    try:
        file = (folder / NAME).open("rb")
    except OSError:
        return False
    with file:
        try:
            _try_lock(file, is_shared=True)
        except OSError as error:
            return error.errno in HELD
    return False


def _try_lock(file: IO[Any], *, is_shared: bool = False) -> None:
    """Lock a file if no other process holds it; else raise OSError. Closing the file unlocks it."""
    if sys.platform == "win32":  # which knows no shared locks
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
