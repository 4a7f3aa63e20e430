"""The token: requests carry it, browsers get a cookie for it, and guessing it takes too long.

A session is a cookie that is derived from the token, slowly: it outlives a restart of the server, it is not the token,
and cookies are no easier to guess than tokens. Browsers keep one cookie jar for all ports of a host, so the cookie's
name has the port.
"""

import asyncio
import hashlib
import hmac
import html
import secrets
import time
from collections.abc import Callable
from urllib.parse import parse_qs
from weakref import WeakValueDictionary

from scratchgpt.errors import UsageError
from scratchgpt.serving.answers import Message, Receive, html_page, values
from scratchgpt.serving.origins import is_loopback

SHORTEST = 16
"""Characters of a token."""

LONGEST_FORM = 4096
"""Bytes."""

PAUSE = 0.1
"""Seconds for which an address may not try another token after a wrong one."""

TICKET_SECONDS = 60
ROUNDS = 200_000
"""Of hashing, from the token to the cookie: about 0.1 s."""


def require_token(token: str) -> None:
    """Raise UsageError if a token is too short, or if no header can carry it."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageError("The token must be of printable ASCII characters, without spaces.")
    if len(token) < SHORTEST:
        raise UsageError(
            f"The token has {len(token)} characters and needs at least {SHORTEST}; a random one is "
            f"{secrets.token_urlsafe(24)}"
        )


class Peer:
    """What a server remembers of a connection."""

    def __init__(self, has_left: Callable[[], bool] = lambda: False) -> None:
        """Begin with a client that has shown no token; `has_left` returns whether it has closed the connection."""
        self.has_left = has_left
        self.knows_token = False
        self.waiting: asyncio.Task[object] | None = None

    def leave(self) -> None:
        """Stop waiting: the client has gone."""
        self.has_left = lambda: True  # and no reference back to the connection, which would live until a collection
        if self.waiting:
            self.waiting.cancel()


def peer_of(scope: Message) -> Peer:
    """Return what the server remembers of the connection of a request."""
    return scope.get("state", {}).get("peer") or Peer()


class Login:
    """Decides which requests have the token."""

    def __init__(self, token: str, port: int | None = None) -> None:
        """Take the token; with the server's port, browsers may log in.

        Raises UsageError for a token that is too short.
        """
        require_token(token)
        self._token = token
        self.cookie_name = f"scratchgpt-{port}" if port is not None else None
        salt = f"scratchgpt session {port}".encode("ascii")
        self._session = hashlib.pbkdf2_hmac("sha256", token.encode("ascii"), salt, ROUNDS).hex()
        self._tickets: dict[str, float] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def cookie(self) -> bytes:
        """Return the header's value that begins a session."""
        return f"{self.cookie_name}={self._session}; Path=/; HttpOnly; SameSite=Lax".encode("ascii")

    async def lets_in(self, scope: Message) -> bool:
        """Return whether a request belongs to a session, or carries the token.

        A WebSocket needs a session: if its client left, its guess would still wait for its turn.
        """
        if self._has_session(scope):
            return True
        given = [header[7:].strip() for header in values(scope, "authorization") if header[:7].lower() == "bearer "]
        return scope["type"] == "http" and bool(given) and await self.is_right(scope, given[0])

    def _has_session(self, scope: Message) -> bool:
        # By hand: SimpleCookie gives up at the first cookie of another server that it does not understand.
        cookies = [cookie.strip().partition("=") for header in values(scope, "cookie") for cookie in header.split(";")]
        return any(name == self.cookie_name and _are_equal(value, self._session) for name, _, value in cookies)

    async def is_right(self, scope: Message, given: str) -> bool:
        """Return whether this is the token.

        Each address tries one token at a time, in turn, and loses PAUSE seconds with a wrong one, even if the client
        leaves. So guessing is slow, and the right token passes after those that wait in front of it: at most as many as
        there are connections.
        """
        peer = peer_of(scope)
        if peer.knows_token and _are_equal(given, self._token):
            return True
        if peer.has_left():  # `leave` was called before there was anything to cancel
            return False
        address = (scope.get("client") or ("",))[0]
        turn = self._turns.setdefault("loopback" if is_loopback(address) else address, asyncio.Lock())
        peer.waiting = asyncio.current_task()
        try:
            async with turn:
                peer.waiting = None  # a client that leaves now loses the pause all the same
                is_right = _are_equal(given, self._token)
                if not is_right:
                    await asyncio.sleep(PAUSE)
        finally:
            peer.waiting = None
        peer.knows_token = peer.knows_token or is_right
        return is_right

    def ticket(self) -> str:
        """Return a new ticket, with which a browser can begin a session once, and soon."""
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = time.monotonic() + TICKET_SECONDS
        return ticket

    def takes(self, ticket: str) -> bool:
        """Return whether a ticket is good; it is so once."""
        return self._tickets.pop(ticket, 0) > time.monotonic()

    async def is_right_form(self, scope: Message, receive: Receive) -> bool:
        """Return whether the body of a request is the login page's form with the token."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = (body + message.get("body", b""))[:LONGEST_FORM], message.get("more_body", False)
        given = parse_qs(body.decode("latin-1")).get("token", [""])[0]
        return await self.is_right(scope, given.strip())


def login_page(query: str, error: str = "") -> bytes:
    """Return the page that asks for the token; it keeps the query of the address."""
    why = f'<p class="error" role="alert">{html.escape(error)}</p>\n' if error else ""
    return html_page(
        "scratchgpt: log in",
        "<p>This page needs the token with which its server was started: SCRATCHGPT_TOKEN, or --token.</p>\n"
        f'{why}<form method="post" action="/login?{html.escape(query)}">\n'
        '<input name="username" value="scratchgpt" autocomplete="username" hidden>\n'
        '<label for="token">Token</label>\n'
        '<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>\n'
        "<button>Log in</button>\n</form>",
    )


def _are_equal(given: str, expected: str) -> bool:
    """Compare in a time that does not depend on where the first difference is."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8"))
