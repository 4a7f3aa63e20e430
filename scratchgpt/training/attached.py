"""A run that another program trains, or that has ended: watched by its log, without touching it."""

import contextlib
import queue
import threading
import time
from pathlib import Path
from typing import NamedTuple

from scratchgpt.errors import DataError, ScratchGPTError
from scratchgpt.training import logs, runs
from scratchgpt.training.events import Event, Started

INTERVAL = 0.5
"""Seconds between two looks at the log."""
MOST_WAITING = 5000
"""Events that are read before anybody takes them."""


class Logged(NamedTuple):
    """An event out of a log."""

    event: Event
    time: float | None  # seconds since 1970


class Anew:
    """Another log has replaced the one that was read: all events come again, from the first one on."""


class Attached:
    """Reads the log of a run as it grows."""

    def __init__(self, run: Path) -> None:
        """Begin to read."""
        self.run = run
        self.heard: queue.Queue[Logged | str | Anew] = queue.Queue(MOST_WAITING)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        follower, problem = logs.Follower(self.run), ""
        while True:
            try:
                if is_first := follower.is_other():
                    self.heard.put(Anew())
                for rows in follower.rows():
                    for row in filter(None, rows):
                        if is_first and row.get("event") != "started":
                            self._start()
                        is_first = False
                        if event := logs.event(row):
                            self.heard.put(Logged(event, row.get("time")))
                problem = ""
            except DataError as error:
                if str(error) != problem:
                    problem = str(error)
                    self.heard.put(problem)
            time.sleep(INTERVAL)

    def _start(self) -> None:
        """Begin with the sizes of the run, which logs of older versions do not hold."""
        with contextlib.suppress(ScratchGPTError, KeyError, TypeError):
            about = runs.description(self.run)
            start = Started(self.run, 0, about["train"]["steps"], about["parameters"], about["plan"]["device"])
            self.heard.put(Logged(start, None))
