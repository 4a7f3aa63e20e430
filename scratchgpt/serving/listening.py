"""Where a server listens, how it runs, and how it ends."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from scratchgpt.errors import UsageError
from scratchgpt.serving.guard import PATIENCE, App, is_loopback

GRACE, LAST = 10, 5
"""Seconds that requests have to end when the server is told to, and then to hear that they were given up."""

MOST_TRIED = 100
"""Ports tried after one that is in use."""


def require_token(host: str, token: str | None) -> None:
    """Raise UsageError if a server on this host needs a token and has none, or has one that no header can carry."""
    if token is None and not is_loopback(host):
        raise UsageError(
            f"On {host} others can reach the server, so it needs a token: set the environment's SCRATCHGPT_TOKEN, or "
            "leave out --host."
        )
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise UsageError("The token must be of printable ASCII characters, without spaces.")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0: any that is free. Raises UsageError, which names a free port."""
    try:
        return _bound(host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror) or not _is_ours(host):
            raise UsageError(f"This machine has no address {host}; leave out --host, or use 0.0.0.0.") from error
        reason = error
    for other in range(port + 1, min(port + MOST_TRIED, 65536)):
        with contextlib.suppress(OSError):
            _bound(host, other).close()
            raise UsageError(f"Port {port} cannot be had ({reason.strerror}); {other} is free: --port {other}.")
    raise UsageError(f"Port {port} cannot be had ({reason.strerror}); choose another with --port.")


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


def _is_ours(host: str) -> bool:
    """Return whether any port of this host can be had."""
    with contextlib.suppress(OSError):
        _bound(host, 0).close()
        return True
    return False


def address(listener: socket.socket) -> str:
    """Return where a browser finds what listens here."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound to here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """One that ends well when told to: uvicorn's own raises the signal again, and breaks off requests unheard.

    Nor does it wait for ever for those who connect and ask nothing, or a byte at a time.
    """

    def __init__(self, config: uvicorn.Config, give_up: Callable[[], None]) -> None:
        super().__init__(config)
        self._give_up, self._is_hurried = give_up, False
        # After which request, and since when, a connection has been silent:
        self._silent: dict[tuple[H11Protocol, RequestResponseCycle | None], float] = {}

    async def on_tick(self, counter: int) -> bool:
        """Send away those who have asked nothing for too long."""
        now = time.monotonic()
        self._silent = {
            (connection, connection.cycle): self._silent.get((connection, connection.cycle), now)
            for connection in self.server_state.connections
            if isinstance(connection, H11Protocol)  # and no WebSocket
            and (connection.cycle is None or connection.cycle.response_complete)
        }
        for (connection, _), since in self._silent.items():
            if now - since > PATIENCE:
                connection.transport.close()
        return await super().on_tick(counter)

    def handle_exit(self, _: int, __: FrameType | None) -> None:
        """Begin to end; told so again, do not wait for what runs."""
        self._is_hurried = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        patience = asyncio.create_task(self._lose_patience())
        await super().shutdown(sockets)
        patience.cancel()

    async def _lose_patience(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                while not self._is_hurried:  # noqa: ASYNC110 - a signal cannot set an Event of a loop that sleeps
                    await asyncio.sleep(0.1)
        self._give_up()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        signals = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            signals.append(signal.SIGBREAK)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(app: App, listener: socket.socket, give_up: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; requests that run then have GRACE seconds to end, or until it comes again.

    Then `give_up` is called, which should end them.
    """
    config = uvicorn.Config(
        app,
        http="h11",  # the other takes headers of any size, and goes through what has come again and again
        log_level="error",  # what strangers send wrongly they hear themselves
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE + LAST,
        ws_per_message_deflate=False,  # it would take most of the time of a page with live curves
    )
    _Server(config, give_up).run(sockets=[listener])
