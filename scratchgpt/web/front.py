"""The front of the page's server: only requests that the page makes reach NiceGUI, and what it costs is limited."""

import asyncio
import contextlib
import inspect
import logging
import re
from collections.abc import Callable
from typing import Any

from nicegui import Client, __version__, core

from scratchgpt.serving.answers import NOWHERE_ELSE, App, Message, Receive, Send, hash_source

FOLDERS = "static|libraries|components|resources|dynamic_resources|esm"
FILES = rf"/favicon\.ico|/_nicegui/{__version__}/({FOLDERS})/[\w./@+-]+"
KNOWN = {
    "GET": re.compile(rf"/|{FILES}", re.ASCII),
    "HEAD": re.compile(rf"/|{FILES}", re.ASCII),
    "POST": re.compile(r"/_nicegui/client/[\w-]+/upload/\d+", re.ASCII),
    "WebSocket": re.compile(r"/_nicegui_ws/socket\.io/"),
}
"""The paths that the page asks for, by method."""

SCRIPT = re.compile(r"<script(?: type=\"\w+\")?>(.*?)</script>", re.DOTALL)

MOST_UNCONNECTED = 32
"""Pages that were sent and have no WebSocket yet; each takes about 0.7 MB."""

MOST_WAITING = 16
"""Requests that wait until their page is built."""


class Front:
    """An ASGI application that passes on to NiceGUI what the page needs."""

    def __init__(self, app: App) -> None:
        """Stand in front of `app`, which must not compress its answers."""
        self._app = app
        self._building = asyncio.Lock()
        self._n_waiting = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, as ASGI asks for it."""
        method = scope.get("method", "WebSocket")
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif method not in KNOWN or not KNOWN[method].fullmatch(scope["path"]):
            await _answer(scope, send, 404)
        elif scope["type"] == "websocket":
            with contextlib.suppress(Exception):  # engineio raises ValueError and others for nonsense
                await self._app(scope, receive, send)
        elif scope["path"] != "/":
            await self._app(scope, receive, send)
        elif method == "HEAD":  # to build a page for no reader is waste
            await _answer(scope, send, 200, (b"content-type", b"text/html; charset=utf-8"))
        elif self._n_waiting >= MOST_WAITING:
            await _answer(scope, send, 503, (b"retry-after", b"2"))
        else:
            await self._show(scope, receive, send)

    async def _show(self, scope: Message, receive: Receive, send: Send) -> None:
        """Build a page and send it; one after another is built, and half of the time is left to all else."""
        start: Message = {}
        body = b""

        async def keep(message: Message) -> None:
            nonlocal start, body
            start = start or message
            body += message.get("body", b"")

        self._n_waiting += 1
        try:
            async with self._building:
                clock = asyncio.get_running_loop().time
                began = clock()
                for client in _unconnected()[: -MOST_UNCONNECTED + 1]:
                    client.delete()
                await self._app(scope, receive, keep)
                await asyncio.sleep(clock() - began)
        finally:
            self._n_waiting -= 1
        policy = (b"content-security-policy", page_policy(body.decode("utf-8")).encode("ascii"))
        await send({**start, "headers": [*start["headers"], policy]})
        await send({"type": "http.response.body", "body": body})


def page_policy(page: str) -> str:
    """Return the Content-Security-Policy of a page: only its own scripts run, and only this server is asked.

    NiceGUI evaluates templates, handlers and formatters that come from the server ('unsafe-eval'), and Vue and ECharts
    write styles.
    """
    scripts = " ".join(hash_source(script) for script in SCRIPT.findall(page))
    return (
        f"default-src 'none'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data:; font-src 'self' data:; connect-src 'self'; {NOWHERE_ELSE}"
    )


def ignore_nonsense() -> None:
    """Ignore messages of a WebSocket that the page never sends; NiceGUI raises KeyError and others for them.

    It would also write to the terminal what a browser wants to log.
    """
    handlers = core.sio.handlers["/"]
    for name in ("handshake", "event", "javascript_response", "ack"):
        core.sio.on(name, _forgiving(handlers[name]))
    core.sio.on("log", lambda *_: None)


def ignore_slow_end() -> None:
    """Ignore NiceGUI's complaint that its tasks take long to end: it goes on to wait, and a machine may be busy."""
    logging.getLogger("nicegui").addFilter(lambda record: not str(record.msg).startswith("Could not cancel "))


def _forgiving(handler: Callable[..., Any]) -> Callable[..., Any]:
    async def forgive(*arguments: object) -> Any:
        with contextlib.suppress(Exception):  # failures of our own handlers were logged further inside
            answer = handler(*arguments)
            return await answer if inspect.isawaitable(answer) else answer

    return forgive


def _unconnected() -> list[Client]:
    """Return the pages that have no WebSocket, the oldest first, but for those that lost it a moment ago."""
    pages = [client for client in Client.instances.values() if not client.has_socket_connection]
    return sorted((page for page in pages if not page._delete_tasks), key=lambda page: page.created)  # noqa: SLF001


async def _answer(scope: Message, send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    """Send an answer without a body; the guard adds one to an error."""
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": list(headers)})
    await send({"type": f"{kind}.body", "body": b""})
