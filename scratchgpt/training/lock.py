"""One training at a time in a run folder, by the operating system's own lock: it cannot outlive its process."""

import errno
import sys
from pathlib import Path
from typing import Self

from scratchgpt.errors import TrainingError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class RunLock:
    """Held from construction to `release`. Raises TrainingError if somebody else holds it."""

    def __init__(self, run: Path) -> None:
        """Lock the run folder, which exists."""
        try:
            self._file = (run / ".lock").open("w", encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"Cannot write into {run}: {error.strerror}.") from error
        try:
            if sys.platform == "win32":
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise TrainingError(f"Another training is running in {run}; stop it first.") from error
            raise TrainingError(f"Cannot lock {run}: {error.strerror}.") from error

    def release(self) -> None:
        """Let others in."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the lock itself, already held."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()
