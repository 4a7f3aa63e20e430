"""One program at a time in a folder, by the operating system's own lock: it cannot outlive its process."""

import errno
import os
import shutil
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
        self._folder = folder
        path = folder / ".lock"
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise type(busy)(f"Cannot write into {folder}: {error.strerror}.") from error
        try:
            if sys.platform == "win32":
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = path.exists() and os.path.samestat(path.stat(), os.fstat(self._file.fileno()))
        except OSError as error:
            self._file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise busy from error
            raise type(busy)(f"Cannot lock {folder}: {error.strerror}.") from error
        if not is_ours:  # whoever held it has removed the folder since the file was opened
            self._file.close()
            raise busy

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
