"""One program at a time in a folder, by the operating system's own lock: it cannot outlive its process."""

import errno
import sys
from pathlib import Path
from typing import Self

from scratchgpt.errors import ScratchGPTError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class FolderLock:
    """Held from construction to `release`."""

    def __init__(self, folder: Path, busy: ScratchGPTError) -> None:
        """Lock a folder that exists. Raises `busy` if somebody else holds it, and its class if it cannot be locked."""
        try:
            self._file = (folder / ".lock").open("w", encoding="utf-8")
        except OSError as error:
            raise type(busy)(f"Cannot write into {folder}: {error.strerror}.") from error
        try:
            if sys.platform == "win32":
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise busy from error
            raise type(busy)(f"Cannot lock {folder}: {error.strerror}.") from error

    def release(self) -> None:
        """Let others in."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the lock itself, already held."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()
