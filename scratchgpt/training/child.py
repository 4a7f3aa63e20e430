"""A training in a process of its own, `scratchgpt train --json --control`, for programs that watch and command it."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from scratchgpt.errors import DataError
from scratchgpt.training.events import Event, from_json

OWN = (sys.executable, "-m", "scratchgpt")
"""The command line of this very installation."""


class Run:
    """A training in a child process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start it, in this process's environment or another."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace", env=environment
        )
        self.heard: queue.SimpleQueue[Event | str | None] = queue.SimpleQueue()  # None: there will be no more
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        """Read all that the run says, as it comes, so that it never waits."""
        complaints = threading.Thread(target=self._hear_people, daemon=True)
        complaints.start()
        for line in self._process.stdout or ():
            try:
                self.heard.put(from_json(json.loads(line)))
            except (DataError, ValueError) as error:
                self.heard.put(f"{error}")
        complaints.join()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):  # what it was told too late
                stream.close()  # type: ignore[union-attr]
        self.heard.put(None)

    def _hear_people(self) -> None:
        for line in self._process.stderr or ():
            self.heard.put(line.rstrip("\n"))

    def tell(self, line: str) -> None:
        """Have the run obey a command."""
        with contextlib.suppress(OSError, ValueError):  # it has ended: that is heard, too
            self._process.stdin.write(line + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def interrupt(self) -> None:
        """Ask as a signal does: once to save and end, twice to end at once."""
        self._process.terminate()

    @property
    def exit_code(self) -> int:
        """The ended process's."""
        return self._process.wait()
