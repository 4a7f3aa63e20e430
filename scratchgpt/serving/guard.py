"""Who may talk to a server on this machine: what stands before every request and every WebSocket.

A page from anywhere, open in the user's browser, can send requests to loopback. It cannot help telling on itself: its
Origin is not the server (cross-site), or the Host that it believes to talk to is not (DNS rebinding). Both are refused.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
"""ASGI, which all Python web servers and toolkits speak."""

LINGER = 5.0
"""Seconds for which the rest of a refused request is read, and dropped: who is still sending does not hear us."""

PATIENCE, SLOWEST = 30.0, 10_000
"""Seconds that a body may take, and the bytes that gain it another one."""


class _Refusal(NamedTuple):
    status: HTTPStatus
    code: str
    message: str
    headers: Iterable[tuple[bytes, bytes]] = ()


_TOO_SLOW = _Refusal(
    HTTPStatus.REQUEST_TIMEOUT,
    "request_too_slow",
    "The request came too slowly; send it again, and at once.",
    [(b"connection", b"close"), (b"x-should-retry", b"false")],
)


class Guard:
    """An ASGI application that passes on to another what is allowed, and refuses the rest.

    * The Host must be this machine's own name for itself, where the server is bound to loopback.
    * The Origin, if there is one, must be the server itself.
    * The token must come with it, if there is one: as `Authorization: Bearer TOKEN`; or, where a `cookie` is named, as
      that, which a GET with `?token=TOKEN` is given.
    * The body may have `largest_body` bytes; who sends more is told so before all is read. It must not take for ever.
    """

    def __init__(
        self,
        app: App,
        *,
        host: str,
        largest_body: int,
        token: str | None = None,
        cookie: str | None = None,
        open_paths: Iterable[str] = (),
    ) -> None:
        """Stand before `app`, which is bound to `host`. `open_paths` need no token."""
        self._app, self._is_local, self._largest_body = app, is_loopback(host), largest_body
        self._token, self._cookie, self._open_paths = token, cookie, frozenset(open_paths)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, as ASGI asks for it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None and scope["type"] == "http":
            await self._pass_on(scope, receive, send)
        elif refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse(refusal, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.message})

    def _refusal(self, scope: Message) -> _Refusal | None:
        """Return why a request cannot be allowed, or None."""
        hosts, origins = _headers(scope, "host"), _headers(scope, "origin")
        if len(hosts) != 1 or (self._is_local and not is_loopback(_name(hosts[0]))):
            message = "This server answers to localhost and 127.0.0.1 only; the request's Host is another."
            return _Refusal(HTTPStatus.FORBIDDEN, "wrong_host", message)
        if any(_place(origin) != hosts[0].lower() for origin in origins):
            message = "Pages of other sites may not use this server; the request's Origin is another than its Host."
            return _Refusal(HTTPStatus.FORBIDDEN, "wrong_origin", message)
        if self._token is not None and scope["path"] not in self._open_paths and not self._has_token(scope):
            return self._without_token(scope, self._token)
        sizes = _headers(scope, "content-length")
        if any(size.isdecimal() and int(size[:20]) > self._largest_body for size in sizes):
            return self._too_large()
        return None

    def _has_token(self, scope: Message) -> bool:
        given = [header[7:].strip() for header in _headers(scope, "authorization") if header[:7].lower() == "bearer "]
        if self._cookie:
            for header in _headers(scope, "cookie"):
                with contextlib.suppress(CookieError):
                    given += [morsel.value for name, morsel in SimpleCookie(header).items() if name == self._cookie]
        return any(self._is_token(value) for value in given)

    def _is_token(self, value: str) -> bool:
        """Compare in a time that tells nothing about where the first difference is."""
        return hmac.compare_digest(value.encode("latin-1", "replace"), (self._token or "").encode("latin-1"))

    def _without_token(self, scope: Message, token: str) -> _Refusal:
        """Return what a request without the token hears: one whose address has it gets the cookie and is sent on."""
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        if self._cookie and scope.get("method") == "GET" and any(self._is_token(value) for value in asked):
            cookie = f"{self._cookie}={token}; Path=/; HttpOnly; SameSite=Strict"
            here = "/" + quote(scope["path"].lstrip("/"))  # two slashes would lead to another server
            to = [(b"location", here.encode("ascii")), (b"set-cookie", cookie.encode("ascii"))]
            return _Refusal(HTTPStatus.SEE_OTHER, "token_taken", "The token was taken.", to)
        message = "This server needs its token: send the header `Authorization: Bearer TOKEN`."
        headers = [(b"www-authenticate", b"Bearer")]
        return _Refusal(HTTPStatus.UNAUTHORIZED, "invalid_api_key", message, headers)

    def _too_large(self) -> _Refusal:
        message = f"The request is too large; this server takes at most {self._largest_body:,} bytes."
        return _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", message)

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let the application answer, but for a body that turns out to be too large, or comes too slowly."""
        n_bytes, is_whole, has_begun, is_refused = 0, False, False, False
        start = asyncio.get_running_loop().time()

        async def counted() -> Message:
            nonlocal n_bytes, is_whole, is_refused
            refusal = self._too_large()
            try:
                async with asyncio.timeout_at(None if is_whole else start + PATIENCE + n_bytes / SLOWEST):
                    message = await receive()
                n_bytes += len(message.get("body", b""))
                is_whole = not message.get("more_body")
                if n_bytes <= self._largest_body:
                    return message
            except TimeoutError:
                refusal = _TOO_SLOW
            if not (is_refused or has_begun):
                is_refused = True
                await _refuse(refusal, receive, send)
            return {"type": "http.disconnect"}

        async def unless_refused(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if not is_refused:
                await send(message)

        await self._app(scope, counted, unless_refused)


def error_content(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def is_loopback(host: str) -> bool:
    """Return whether this name or address reaches nobody but this machine."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _place(origin: str) -> str | None:
    """Return the host and port of an origin, None if there are none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _name(host: str) -> str:
    """Return a Host header without its port; nothing if it is more than that."""
    try:
        return "" if set(host) & set("@/?#") else urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _headers(scope: Message, name: str) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.decode("latin-1").lower() == name]


async def _refuse(refusal: _Refusal, receive: Receive, send: Send) -> None:
    """Say why; then read on for a while, for the connection would break before a client that sends had heard it."""
    content = json.dumps(error_content(refusal.status, refusal.message, code=refusal.code)).encode("utf-8")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode("ascii")),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status.value, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})
