"""The token: sessions, tickets and the form; guessing is slow, and locks nobody out."""

import asyncio
import re
from typing import Any

import pytest

from scratchgpt.errors import UsageError
from scratchgpt.serving import tokens
from scratchgpt.serving.answers import Message
from scratchgpt.serving.guard import Guard
from scratchgpt.serving.tokens import Login, Peer, require_token
from tests import clock

TOKEN = "a-token-of-tests"  # noqa: S105
LOGIN = Login(TOKEN, 8070)
SESSION = LOGIN.cookie.decode("ascii").partition(";")[0]


async def hello(_: Message, __: Any, send: Any) -> None:
    """Answer."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def ask(login: Login = LOGIN, **asked: Any) -> tuple[int, dict[bytes, bytes], str]:
    """Return status, headers and body of the answer to a browser."""
    return clock.run(ask_now(login, **asked))


async def ask_now(
    login: Login = LOGIN,
    *,
    method: str = "GET",
    path: str = "/",
    query: str = "",
    body: str = "",
    client: str = "127.0.0.1",
    peer: Peer | None = None,
    **headers: str,
) -> tuple[int, dict[bytes, bytes], str]:
    """Return status, headers and body of the answer to a browser."""
    sent: list[Message] = []
    guard = Guard(hello, host="127.0.0.1", largest_body=10**6, login=login)

    async def receive() -> Message:
        return {"type": "http.request", "body": body.encode("latin-1"), "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    named = {"host": "localhost:8070", "accept": "text/html"} | headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode("latin-1"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()],
        "client": (client, 50_000),
        "state": {"peer": peer or Peer()},
    }
    await guard(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in sent).decode("utf-8")
    return sent[0]["status"], dict(sent[0]["headers"]), text


def test_the_form_gives_a_session_and_keeps_the_query() -> None:
    query = "tab=train&run=a%20b&x=%3Cscript%3E"
    status, headers, page = ask(query=query)
    assert status == 401
    assert headers[b"referrer-policy"] == b"same-origin", "or browsers send the form with the Origin null"
    action = re.search(r'<form method="post" action="([^"]*)"', page)
    assert action
    assert action[1].replace("&amp;", "&") == f"/login?{query}"
    assert '<label for="token">' in page
    assert 'autocomplete="current-password"' in page
    status, headers, _ = ask(method="POST", path="/login", query=query, body=f"token={TOKEN}")
    assert (status, headers[b"location"]) == (303, f"/?{query}".encode("ascii"))
    cookie = headers[b"set-cookie"].decode("ascii")
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
    assert cookie.startswith("scratchgpt-8070=")
    assert TOKEN not in cookie
    assert ask(cookie=cookie.partition(";")[0])[0] == 200
    assert ask(cookie=f"a=b; {SESSION}; c=d")[0] == 200, "a server that has started again knows it"


@pytest.mark.parametrize("other", ['a={"b": 1}', "a[b]=c", 'a="', "a", "=", "a b=c", "\xff=\xff", ""])
def test_cookies_of_other_servers_hide_no_session(other: str) -> None:
    assert ask(cookie=f"{other}; {SESSION}")[0] == 200


@pytest.mark.parametrize(
    "body", ["", "token=", "token=wrong", f"token={TOKEN}x", f"other={TOKEN}", "\xff", "token=%ff"]
)
def test_a_wrong_form_is_shown_again(body: str) -> None:
    status, headers, page = ask(method="POST", path="/login", query="tab=model", body=body)
    assert (status, b"set-cookie" in headers) == (401, False)
    assert 'role="alert">This is not the token.' in page
    assert "/login?tab=model" in page
    assert TOKEN not in page


def test_a_long_form_is_not_kept() -> None:
    assert ask(method="POST", path="/login", body="x=" + "y" * 10_000 + f"&token={TOKEN}")[0] == 401


OF_ANOTHER_PORT = Login(TOKEN, 8071).cookie.decode("ascii").replace("8071", "8070", 1).partition(";")[0]


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "scratchgpt-8070=",
        f"scratchgpt-8070={TOKEN}",
        f"{SESSION}0",
        SESSION.replace("8070", "8071"),
        "\xff=\xff",
        ";;",
    ],
)
def test_other_cookies_are_no_session(cookie: str) -> None:
    assert ask(cookie=cookie)[0] == 401
    assert ask(cookie=OF_ANOTHER_PORT)[0] == 401


def test_a_ticket_is_good_once_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(TOKEN, 8070)
    ticket = login.ticket()
    assert TOKEN not in ticket
    assert ask(login, path="/other", query=f"ticket={ticket}")[0] == 401
    status, headers, _ = ask(login, query=f"tab=data&ticket={ticket}&run=x")
    assert (status, headers[b"location"]) == (303, b"/?tab=data&run=x")
    assert headers[b"set-cookie"] == login.cookie
    status, headers, _ = ask(login, query=f"ticket={ticket}")
    assert (status, headers[b"location"], b"set-cookie" in headers) == (303, b"/", False)
    assert ask(login, query="%74icket=x")[0] == 401, "or the browser would be sent here again and again"
    monkeypatch.setattr(tokens, "TICKET_SECONDS", -1)
    assert b"set-cookie" not in ask(login, query=f"ticket={login.ticket()}")[1]


def test_the_token_in_the_address_is_not_taken() -> None:
    status, headers, _ = ask(query=f"token={TOKEN}")
    assert (status, b"set-cookie" in headers) == (401, False)


@pytest.mark.parametrize("token", ["two words, but long enough", "n\u00e4" * 10, "a\nb" * 10, "\x7f" * 20])
def test_tokens_that_no_header_carries(token: str) -> None:
    with pytest.raises(UsageError, match="printable ASCII"):
        require_token(token)


def test_short_tokens_are_refused_with_a_long_one() -> None:
    with pytest.raises(UsageError, match="The token has 15 characters and needs at least 16") as caught:
        Login(TOKEN[:-1])
    proposed = str(caught.value).split()[-1]
    require_token(proposed)
    assert TOKEN[:-1] not in str(caught.value)


async def attack(login: Login, seconds: float, n_waiting: int) -> int:
    """Try tokens from one address, many at a time; return how many were answered."""
    n_answered, end = 0, clock.now() + seconds

    async def guess() -> None:
        nonlocal n_answered
        while clock.now() < end:
            await ask_now(login, authorization="Bearer wrong")
            n_answered += 1

    await asyncio.gather(*(guess() for _ in range(n_waiting)))
    return n_answered


def test_guesses_are_slow_and_lock_nobody_out() -> None:
    async def during_the_attack() -> tuple[dict[str, float], int]:
        login = Login(TOKEN, 8070)
        known = Peer()
        await ask_now(login, peer=known, authorization=f"Bearer {TOKEN}")
        attacked = asyncio.create_task(attack(login, 2, 8))
        await asyncio.sleep(0.2)
        seconds = {}
        users: dict[str, dict[str, Any]] = {
            "session": {"cookie": SESSION},
            "connection": {"peer": known, "authorization": f"Bearer {TOKEN}"},
            "other address": {"client": "192.168.1.7", "authorization": f"Bearer {TOKEN}"},
            "same address": {"authorization": f"Bearer {TOKEN}"},
        }
        for name, asked in users.items():
            start = clock.now()
            assert (await ask_now(login, **asked))[0] == 200
            seconds[name] = clock.now() - start
        return seconds, await attacked

    seconds, n_guesses = clock.run(during_the_attack())
    assert n_guesses <= 2 / tokens.PAUSE + 8
    assert max(seconds[name] for name in ("session", "connection", "other address")) <= tokens.PAUSE / 2
    assert seconds["same address"] <= 8 * tokens.PAUSE + 0.2


def test_guesses_of_clients_that_have_gone_do_not_wait() -> None:
    async def leave_and_ask() -> float:
        login = Login(TOKEN, 8070)
        peers = [Peer() for _ in range(50)]
        waiting = [asyncio.create_task(ask_now(login, peer=peer, authorization="Bearer wrong")) for peer in peers]
        await asyncio.sleep(0.01)
        for peer in peers:
            peer.leave()
        start = clock.now()
        assert (await ask_now(login, authorization=f"Bearer {TOKEN}"))[0] == 200
        await asyncio.gather(*waiting, return_exceptions=True)
        return clock.now() - start

    assert clock.run(leave_and_ask()) <= 3 * tokens.PAUSE


async def seconds_until_let_in(login: Login, **asked: Any) -> float:
    """Return how long the right token takes from loopback."""
    start = clock.now()
    assert (await ask_now(login, authorization=f"Bearer {TOKEN}", **asked))[0] == 200
    return clock.now() - start


def test_a_client_that_leaves_early_loses_the_pause() -> None:
    """It would know that its guess was wrong as soon as there is no answer."""

    async def guess_and_leave() -> float:
        login, peer = Login(TOKEN, 8070), Peer()
        guess = asyncio.create_task(ask_now(login, peer=peer, authorization="Bearer wrong"))
        await asyncio.sleep(0.01)
        peer.leave()
        seconds = await seconds_until_let_in(login)
        await guess
        return seconds

    assert clock.run(guess_and_leave()) >= tokens.PAUSE / 2


def test_loopback_addresses_count_as_one() -> None:
    async def guess() -> float:
        login = Login(TOKEN, 8070)
        guess = asyncio.create_task(ask_now(login, client="127.0.0.2", authorization="Bearer wrong"))
        await asyncio.sleep(0.01)
        seconds = await seconds_until_let_in(login, client="::1")
        await guess
        return seconds

    assert clock.run(guess()) >= tokens.PAUSE / 2


def test_a_connection_that_knows_the_token_cannot_guess_faster() -> None:
    """Other clients of a proxy may use the same connection."""

    async def guess() -> list[float]:
        login, peer = Login(TOKEN, 8070), Peer()
        seconds = [await seconds_until_let_in(login, peer=peer)]
        start = clock.now()
        assert (await ask_now(login, peer=peer, authorization="Bearer wrong"))[0] == 401
        return [*seconds, clock.now() - start, await seconds_until_let_in(login, peer=peer)]

    first, wrong, again = clock.run(guess())
    assert wrong >= tokens.PAUSE
    assert max(first, again) <= tokens.PAUSE / 2


def test_no_guess_waits_for_a_client_that_has_left() -> None:
    """Half a form, or a WebSocket: then the end of the connection comes before the wait, or is not noticed."""
    login = Login(TOKEN, 8070)
    scope: dict[str, Any] = {"type": "http", "headers": [], "client": ("127.0.0.1", 50_000)}

    async def send_half_a_form() -> bool:
        has_left = asyncio.Event()

        async def receive() -> Message:
            has_left.set()
            return {"type": "http.disconnect"}

        return await login.is_right_form(scope | {"state": {"peer": Peer(has_left.is_set)}}, receive)

    async def open_a_socket() -> bool:
        return await login.lets_in(scope | {"type": "websocket", "headers": [(b"authorization", b"Bearer wrong")]})

    async def leave_and_ask() -> float:
        guesses = [asyncio.create_task(guess()) for _ in range(20) for guess in (send_half_a_form, open_a_socket)]
        await asyncio.sleep(0)
        seconds = await seconds_until_let_in(login)
        assert not any(await asyncio.gather(*guesses))
        return seconds

    assert clock.run(leave_and_ask()) <= tokens.PAUSE / 2
