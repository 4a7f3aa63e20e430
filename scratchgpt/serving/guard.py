"""Decides which requests and WebSockets reach a server on this machine.

Any page in the user's browser can send requests to loopback. Three headers show that they come from another site:
Origin, Sec-Fetch-Site, and Host, which has the name of the other site after DNS rebinding. The guard refuses such
requests.
"""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from scratchgpt.serving.answers import App, Message, Receive, Send, values
from scratchgpt.serving.log import failure, log
from scratchgpt.serving.origins import is_loopback, name_of, opens_a_page, place_of
from scratchgpt.serving.refusals import Refusal, refuse, secured, with_our_errors
from scratchgpt.serving.tokens import Login, login_page, peer_of

PATIENCE, SLOWEST = 30.0, 10_000
"""Seconds in which a body must arrive, and the bytes for which it gets another second."""

PREFLIGHT_SECONDS = 3600
TICKET = b"ticket="

_TOO_SLOW = Refusal(
    HTTPStatus.REQUEST_TIMEOUT,
    "request_too_slow",
    "The request arrived too slowly; send it again, faster.",
    [(b"connection", b"close"), (b"x-should-retry", b"false")],
)
_TWO_LENGTHS = Refusal(
    HTTPStatus.BAD_REQUEST,
    "two_lengths",
    "The request has a Content-Length and a Transfer-Encoding; send one of them.",
    [(b"connection", b"close")],
)
_LEFT = Refusal(HTTPStatus.REQUEST_TIMEOUT, "left", "The client closed the connection before its request had its turn.")
_FAILED = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "server_failed", "The server failed; its terminal shows why.")


class Guard:
    """An ASGI application that passes on to another what is allowed, and refuses the rest.

    * The Host must be a name of this machine for itself, if the server is bound to loopback.
    * The Origin, if there is one, must be the server itself or one of `origins`.
    * Other sites may link to the server, but not use it in any other way, as Sec-Fetch-Site says.
    * A session or the token must come with the request, if there is a `login`.
    * The body may have `largest_body` bytes, and must arrive in time.

    Every answer carries the security headers. Every error is ours: a page for browsers, else JSON in OpenAI's form.
    """

    def __init__(
        self,
        app: App,
        *,
        host: str,
        largest_body: int,
        login: Login | None = None,
        origins: Iterable[str] = (),
        open_paths: Iterable[str] = (),
    ) -> None:
        """Stand before `app`, which is bound to `host`. `open_paths` need no token."""
        self._app, self._is_local, self._largest_body = app, is_loopback(host), largest_body
        self._login, self._origins, self._open_paths = login, frozenset(origins), frozenset(open_paths)
        self._for_origins = CORSMiddleware(
            self._check_token,
            allow_origins=list(self._origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["retry-after", "x-should-retry"],
            max_age=PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, as ASGI asks for it."""
        if scope["type"] == "lifespan":
            await self._call(self._app, scope, receive, send)
            return
        send = secured(send)
        if peer_of(scope).has_left():  # where requests come faster than answers, many clients leave before their turn
            await refuse(scope, _LEFT, _nothing_more, send)
            return
        if refusal := self._refusal(scope):
            await refuse(scope, refusal, receive, send)
        elif self._origins.intersection(values(scope, "origin")):
            await self._for_origins(scope, receive, send)
        else:
            await self._check_token(scope, receive, send)

    def _refusal(self, scope: Message) -> Refusal | None:
        """Return why a request cannot be allowed, whatever its token is, or None."""
        hosts, origins = values(scope, "host"), values(scope, "origin")
        if len(hosts) != 1 or (self._is_local and not is_loopback(name_of(hosts[0]))):
            message = "This server answers to localhost and 127.0.0.1 only; the request's Host is another."
            return Refusal(HTTPStatus.FORBIDDEN, "wrong_host", message)
        if any(place_of(origin) != hosts[0].lower() and origin not in self._origins for origin in origins):
            message = "Pages of other sites may not use this server; the request's Origin is another than its Host."
            return Refusal(HTTPStatus.FORBIDDEN, "wrong_origin", message)
        is_own = set(values(scope, "sec-fetch-site")) <= {"same-origin", "none"}
        if not (is_own or self._origins.intersection(origins) or opens_a_page(scope)):
            message = "Pages of other sites may link to this server, but not use it in any other way."
            return Refusal(HTTPStatus.FORBIDDEN, "wrong_site", message)
        sizes = values(scope, "content-length")
        if sizes and values(scope, "transfer-encoding"):
            return _TWO_LENGTHS
        if any(size.isdecimal() and int(size[:20]) > self._largest_body for size in sizes):
            return self._too_large()
        return None

    def _too_large(self) -> Refusal:
        message = f"The request is too large; this server takes at most {self._largest_body:,} bytes."
        return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_too_large", message)

    async def _check_token(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on a request that has the token, or needs none; let browsers log in."""
        login, refusal = self._login, None
        if login is None or scope["path"] in self._open_paths:
            pass
        elif login.cookie_name and scope.get("method") == "POST" and scope["path"] == "/login":
            await self._pass_on(self._log_in, scope, receive, send)
            return
        elif login.cookie_name and (given := _tickets(scope)):
            refusal = _see_first_page(scope, login.cookie if any(map(login.takes, given)) else None)
        elif not await login.lets_in(scope):
            refusal = _log_in_first(scope, login)
        if refusal:
            await refuse(scope, refusal, receive, send)
        elif scope["type"] == "http":
            await self._pass_on(self._ask, scope, receive, send)
        else:
            await self._call(self._app, scope, receive, send)

    async def _ask(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let the application answer, with errors in the form of ours."""
        await self._app(scope, receive, with_our_errors(scope, send))

    async def _log_in(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer the login page's form."""
        assert self._login  # noqa: S101 - it is called for a login only
        if await self._login.is_right_form(scope, receive):
            refusal = _see_first_page(scope, self._login.cookie)
        else:
            refusal = _log_in_first(scope, self._login, "This is not the token.")
        await refuse(scope, refusal, _nothing_more, send)

    async def _pass_on(self, app: App, scope: Message, receive: Receive, send: Send) -> None:
        """Let an application answer, unless the body turns out to be too large, or comes too slowly."""
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
                await refuse(scope, refusal, receive, send)
            return {"type": "http.disconnect"}

        async def unless_refused(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if not is_refused:
                await send(message)

        has_failed = not await self._call(app, scope, counted, unless_refused)
        if has_failed and not (has_begun or is_refused):
            await refuse(scope, _FAILED, receive, send)

    @staticmethod
    async def _call(app: App, scope: Message, receive: Receive, send: Send) -> bool:
        """Call an application; log a failure, and return whether there was none."""
        try:
            await app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - a server goes on
            if not _is_disconnect(error):
                log.error("%s", failure(error))
            return False
        return True


async def _nothing_more() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _is_disconnect(error: BaseException) -> bool:
    """Return whether an exception only means that the client has gone."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_disconnect, error.exceptions))
    return isinstance(error, ClientDisconnect | ConnectionError)


def _tickets(scope: Message) -> list[str]:
    """Return the tickets in the address of a page."""
    is_page = scope.get("method") == "GET" and scope["path"] == "/"
    parts = scope["query_string"].split(b"&") if is_page else []
    return [part.removeprefix(TICKET).decode("latin-1") for part in parts if part.startswith(TICKET)]


def _see_first_page(scope: Message, cookie: bytes | None) -> Refusal:
    """Send a browser to the first page, with its query except for tickets, and perhaps with a cookie."""
    parts = scope["query_string"].split(b"&")
    kept = b"&".join(part for part in parts if not part.startswith(TICKET))
    headers = [(b"location", b"/?" + kept if kept else b"/")] + ([(b"set-cookie", cookie)] if cookie else [])
    return Refusal(HTTPStatus.SEE_OTHER, "see_other", "See the first page.", headers)


def _log_in_first(scope: Message, login: Login, error: str = "") -> Refusal:
    """Refuse a request without the token; a browser can log in, where there are sessions."""
    message = "This server needs its token: send the header `Authorization: Bearer TOKEN`."
    if login.cookie_name is None:
        return Refusal(HTTPStatus.UNAUTHORIZED, "invalid_api_key", message, [(b"www-authenticate", b"Bearer")])
    # With no-referrer, browsers send the form with the Origin "null".
    headers = [(b"www-authenticate", b"Bearer"), (b"referrer-policy", b"same-origin")]
    page = login_page(scope["query_string"].decode("latin-1"), error)
    return Refusal(HTTPStatus.UNAUTHORIZED, "invalid_api_key", message, headers, page)
