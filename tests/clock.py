"""An event loop whose time passes only while all its tasks wait, so that no machine is too slow for it."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits for no time: what it is asked to wait for has passed at once, unless something else is ready."""

    def __init__(self) -> None:
        """Begin at 0."""
        super().__init__()
        self.passed = 0.0  # seconds

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready; without a time limit, wait for it."""
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.passed += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    """The event loop."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._passing = _Selector()
        super().__init__(self._passing)

    def time(self) -> float:
        """Return the seconds that have passed."""
        return self._passing.passed


def run(main: Coroutine[Any, Any, T]) -> T:
    """Do what `asyncio.run` does, in no time."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)


def now() -> float:
    """Return the seconds that have passed in the running loop."""
    return asyncio.get_running_loop().time()
