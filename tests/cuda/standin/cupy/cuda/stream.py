"""cupy.cuda.stream. All happens at once; what a program waits for is counted."""

import time
from typing import ClassVar, Self

from .. import _settings
from . import runtime

__all__ = ["Event", "Stream", "get_current_stream", "get_elapsed_time"]


class Stream:
    """A sequence of work."""

    null: ClassVar["Stream"]
    _made: ClassVar[int] = 0

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        """Make a stream of the current device."""
        self.device_id = -1 if null else runtime.getDevice()
        self.is_non_blocking = non_blocking
        Stream._made += 0 if null else 1
        self.ptr = 0 if null else 0x57000000 + Stream._made
        self._left: list[Stream] = []

    def __enter__(self) -> Self:
        self._left.append(get_current_stream())
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        _settings.here.stream = self._left.pop()

    def use(self) -> Self:
        """Make this the current stream of the thread."""
        _settings.here.stream = self
        return self

    def synchronize(self) -> None:
        """Wait for its work."""
        runtime.getDevice()
        _settings.counters.synchronisations += 1

    def record(self, event: "Event | None" = None) -> "Event":
        """Note where the stream is."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        """Let the stream wait, not the host. Raises ValueError if nobody recorded the event."""
        if event._time is None:
            raise ValueError("the event was never recorded, so nothing would wait for it")


Stream.null = Stream(null=True)


class Event:
    """A place in a stream's work."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        """Make one that was not recorded yet."""
        runtime.getDevice()
        del block
        self._timed = not disable_timing
        self._time: float | None = None

    @property
    def done(self) -> bool:
        """Has the work been done?"""
        return True

    def record(self, stream: Stream | None = None) -> None:
        """Note where a stream is, the current one unless told."""
        del stream
        self._time = time.perf_counter()

    def synchronize(self) -> None:
        """Wait for the work before it."""
        _settings.counters.synchronisations += 1


def get_current_stream(device_id: int = -1) -> Stream:
    """Return the stream that this thread uses."""
    del device_id
    return getattr(_settings.here, "stream", Stream.null)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Return the milliseconds between two events."""
    if start_event._time is None or end_event._time is None or not (start_event._timed and end_event._timed):
        raise ValueError("both events must have been recorded, with timing")
    return 1000 * (end_event._time - start_event._time)
