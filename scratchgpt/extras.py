"""Packages that only some users have installed: the extras of pyproject.toml."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from scratchgpt.errors import UsageError


@contextlib.contextmanager
def imports(purpose: str, extra: str) -> Iterator[None]:
    """Import the packages of an extra in this context. Raises UsageError if one is missing: `purpose` needs it.

    Ctrl-C waits for the end of the context: in the middle of an import, C++ code would abort the process.
    """
    try:
        with _interrupts_later():
            yield
    except ImportError as error:
        install = f"`pip install 'scratchgpt[{extra}]'`"
        raise UsageError(
            f"{purpose} needs one more package ({error}).",
            advice=f"Install it: {install}.",
            page=f"The person who started this page can install it in a terminal: {install}.",
        ) from error


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Delay SIGINT to the end of this context, in the thread that receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number)) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)
