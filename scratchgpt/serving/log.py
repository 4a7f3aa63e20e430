"""What a server writes to the terminal: its own failures, each on one line, and nothing that a client sent."""

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LONGEST = 300
"""Characters of a line."""

FOREIGN = ("uvicorn.error", "engineio.server", "socketio.server")
"""Loggers that report what clients do wrong. Clients read it in their answers."""

log = logging.getLogger("scratchgpt.serving")


def failure(error: BaseException) -> str:
    """Return an exception in one line, with the place where it was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in place)
    return f"{type(error).__name__}: {error}{where}"


class OneLine(logging.Formatter):
    """Formats a record as one line of printable characters, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            message = failure(record.exc_info[1])
        line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message[:LONGEST])
        return f"The server failed: {line}"


@contextlib.contextmanager
def one_line_log() -> Iterator[None]:
    """Within this context, log failures as `OneLine` does, and nothing of the foreign loggers."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    handler.setFormatter(OneLine())
    foreign = [logging.getLogger(name) for name in FOREIGN]
    before = [logger.disabled for logger in foreign]
    for logger in foreign:
        logger.disabled = True
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for logger, is_disabled in zip(foreign, before, strict=True):
            logger.disabled = is_disabled


def log_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that nothing else handles; an event loop calls this."""
    error = context.get("exception")
    if isinstance(error, OSError):  # a connection broke, or there is no file descriptor for a new one
        return
    log.error("%s", failure(error) if error else context.get("message"))
