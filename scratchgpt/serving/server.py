"""How a server runs: its connections, which are counted, and its end, which comes in time."""

import asyncio
import contextlib
import functools
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from scratchgpt.serving.answers import App, error_content, with_security_headers
from scratchgpt.serving.guard import PATIENCE
from scratchgpt.serving.log import log_unhandled, one_line_log
from scratchgpt.serving.tokens import Peer

GRACE, LAST, END = 5.0, 2.0, 9.0
"""Seconds after a signal: requests may end; then clients read that they were given up; then the process ends."""

ACCEPTED_AT_ONCE, QUEUED = 32, 1024
"""Connections that are accepted before others are heard; and those that the system keeps until they are accepted."""


@functools.cache
def most_connections() -> int:
    """Return how many connections may be open: half of the files that the process may open, and 1,024 at most."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return 256
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1024 if limit == resource.RLIM_INFINITY else max(8, min(1024, limit // 2))


class _Connection(H11Protocol):
    """A connection, which makes room for itself when there are too many."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.peer = Peer(self._has_left)
        super().__init__(config, server_state, app_state | {"peer": self.peer}, _loop)
        self.silent_since = self.loop.time()

    @property
    def is_silent(self) -> bool:
        """Whether the client has no request that we answer: it has not asked, or not asked again."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def silence(self) -> float:
        """Seconds for which the client has asked nothing."""
        return self.loop.time() - self.silent_since if self.is_silent else 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        now_open = [connection for connection in self.connections if not connection.transport.is_closing()]
        if len(now_open) > most_connections():
            ours = [connection for connection in now_open if isinstance(connection, _Connection)]
            idle = [one for one in ours if one.is_silent]
            sending = [one for one in ours if not one.is_silent and one.cycle.more_body]
            # The new connection is idle, too; it is the one to go if there is no other.
            others = [one for one in idle if one is not self] or sending or [self]
            min(others, key=lambda one: one.silent_since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.peer.leave()

    def _has_left(self) -> bool:
        """Return whether the client has closed the connection, even if the event loop has not noticed it yet."""
        if self.transport.is_closing() or not hasattr(select, "POLLRDHUP"):  # only Linux has it
            return self.transport.is_closing()
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket"), select.POLLRDHUP)
        return bool(poll.poll(0))

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # nonsense, in the middle of an answer
            self.transport.abort()

    def on_response_complete(self) -> None:
        self.silent_since = self.loop.time()
        super().on_response_complete()

    def shutdown(self) -> None:
        with contextlib.suppress(h11.LocalProtocolError):
            super().shutdown()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        headers = dict(self.headers)
        if (
            event.method == b"GET"
            and headers.get(b"sec-websocket-version") == b"13"
            and b"sec-websocket-key" in headers
        ):
            super().handle_websocket_upgrade(event)
            # websockets is stricter than h11; uvicorn would answer nothing, and keep the connection.
            if getattr(self.transport.get_protocol(), "handshake_initiated", True):
                return
        self.send_400_response("This is not how a WebSocket begins.")

    def send_400_response(self, msg: str) -> None:
        if self.cycle:
            self.cycle.disconnected = True  # the application's answer would come too late
            self.cycle.message_event.set()
        body = json.dumps(error_content(HTTPStatus.BAD_REQUEST, msg, code="bad_request")).encode("utf-8")
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        reason = HTTPStatus.BAD_REQUEST.phrase.encode("ascii")
        answer = h11.Response(status_code=HTTPStatus.BAD_REQUEST, headers=with_security_headers(headers), reason=reason)
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """A server that ends in time after a signal. uvicorn's own raises it again, and drops requests without an answer.

    It also closes the connections of clients that ask nothing, or read nothing, for too long.
    """

    def __init__(self, config: uvicorn.Config, give_up: Callable[[], None], is_saving: Callable[[], bool]) -> None:
        super().__init__(config)
        self._give_up, self._is_saving = give_up, is_saving
        self._told_twice_at: float | None = None
        self._stuck: dict[object, float] = {}  # since when
        self.has_ended = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(log_unhandled)
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(QUEUED)  # asyncio has set ACCEPTED_AT_ONCE here, too

    async def on_tick(self, counter: int) -> bool:
        """Close the connections of clients that have asked nothing, or read nothing, for too long."""
        now = time.monotonic()
        connections = list(self.server_state.connections)
        stuck = [one for one in connections if one.transport.is_closing() or _is_full(one.transport)]
        self._stuck = {connection: self._stuck.get(connection, now) for connection in stuck}
        for connection in connections:
            if now - self._stuck.get(connection, now) > PATIENCE:
                connection.transport.abort()
            elif isinstance(connection, _Connection) and connection.silence > PATIENCE:
                connection.transport.close()
        return await super().on_tick(counter)

    def handle_exit(self, _: int, __: FrameType | None) -> None:
        """First signal: end, and let requests end before. Second signal: end now."""
        if self.should_exit:
            self._told_twice_at = self._told_twice_at or time.monotonic()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        threading.Thread(target=self._end_in_time, daemon=True).start()
        patience = asyncio.create_task(self._lose_patience())
        await super().shutdown(sockets)
        patience.cancel()

    async def _lose_patience(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                while self._told_twice_at is None:  # noqa: ASYNC110 - a signal cannot set an Event of a loop that sleeps
                    await asyncio.sleep(0.1)
        await asyncio.to_thread(self._give_up)

    def _end_in_time(self) -> None:
        """End the process when its time is over, whatever else still waits."""
        end = time.monotonic() + END
        while not self.has_ended:
            now = time.monotonic()
            if (self._told_twice_at and now > self._told_twice_at + LAST) or (now > end and not self._is_saving()):
                os._exit(1)
            time.sleep(0.1)

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


def _is_full(transport: asyncio.Transport) -> bool:
    """Return whether a client does not read what it was sent."""
    return transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]


def run(
    app: App,
    listener: socket.socket,
    give_up: Callable[[], None] = lambda: None,
    is_saving: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until SIGINT or SIGTERM; requests then have GRACE seconds to end, or until the signal comes again.

    Then `give_up` is called, which should end them. The process ends after END seconds, or later while `is_saving`.
    """
    config = uvicorn.Config(
        app,
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # or clients could choose their address
        http=_Connection,  # httptools takes headers of any size, and goes through what has come again and again
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=int(GRACE + LAST),
        ws_max_size=2**20,
        ws_per_message_deflate=False,  # it would take most of the time of a page with live curves
    )
    server = _Server(config, give_up, is_saving)
    with one_line_log():
        try:
            server.run(sockets=[listener])
        finally:
            server.has_ended = True
