"""What stands before every request: foreign names, foreign pages, missing tokens and large bodies do not pass."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from scratchgpt.serving import guard, refusals
from scratchgpt.serving.answers import App, Message, Receive, Send
from scratchgpt.serving.guard import Guard
from scratchgpt.serving.origins import is_loopback
from scratchgpt.serving.tokens import Login

TOKEN = "a-token-of-tests"  # noqa: S105
LOGIN = Login(TOKEN)
DEFAULTS: dict[str, Any] = {"host": "127.0.0.1", "largest_body": 10}


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answer with how many bytes came."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    n_bytes = 0
    while (message := await receive())["type"] == "http.request":
        n_bytes += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(n_bytes).encode("ascii")})


def ask(
    headers: Iterable[tuple[str, str]],
    *,
    kind: str = "http",
    method: str = "GET",
    path: str = "/",
    query: str = "",
    body: Iterable[bytes] = (b"",),
    receive: Receive | None = None,
    app: App = echo,
    **settings: Any,
) -> list[Message]:
    """Return all that a guard sends in answer to one request."""
    guarded = Guard(app, **DEFAULTS | settings)
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    parts[-1]["more_body"] = False
    sent: list[Message] = []

    async def receive_parts() -> Message:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode("latin-1"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
    }
    asyncio.run(guarded(scope, receive or receive_parts, send))
    assert kind != "http" or receive or not parts, (
        "all that was sent is read, or the connection would break before the answer is heard"
    )
    return sent


def status(sent: list[Message]) -> int:
    assert [message["type"] for message in sent[:1]] == ["http.response.start"]
    return int(sent[0]["status"])


def code(sent: list[Message]) -> str:
    return str(json.loads(sent[1]["body"])["error"]["code"])


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "127.1.2.3"])
def test_own_names_pass(host: str) -> None:
    assert status(ask([("host", host)])) == 200
    assert status(ask([("host", host), ("origin", f"http://{host}")])) == 200


@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example"],
        ["evil.example:8000"],
        ["localhost.evil.example"],
        ["127.0.0.1.evil.example"],
        ["127.0.0.1@evil.example"],
        ["evil.example@127.0.0.1"],
        ["127.0.0.1/evil.example"],
        ["127.0.0.1#.evil.example"],
        ["0.0.0.0"],  # noqa: S104
        ["192.168.1.7"],
        ["[::"],
        [""],
        [],
        ["localhost", "evil.example"],
    ],
)
def test_other_names_do_not(hosts: list[str]) -> None:
    """DNS rebinding: evil.example has become 127.0.0.1 for the user's browser."""
    sent = ask([("host", host) for host in hosts])
    assert (status(sent), code(sent)) == (403, "wrong_host")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:8001", "https://localhost", "file://", "http://[::", "", "\xff"],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_pages_of_other_origins_do_not(origin: str, kind: str) -> None:
    sent = ask([("host", "localhost:8000"), ("origin", origin)], kind=kind)
    if kind == "http":
        assert (status(sent), code(sent)) == (403, "wrong_origin")
    else:
        assert [message["type"] for message in sent] == ["websocket.close"]


def test_a_websocket_of_the_own_page_passes() -> None:
    sent = ask([("host", "localhost:8000"), ("origin", "http://localhost:8000")], kind="websocket")
    assert [message["type"] for message in sent] == ["websocket.accept"]


def test_bound_to_all_the_token_protects_and_any_name_will_do() -> None:
    for name in ("192.168.1.7:8000", "box.example"):
        headers = [("host", name), ("origin", f"http://{name}"), ("authorization", f"Bearer {TOKEN}")]
        assert status(ask(headers, host="0.0.0.0", login=LOGIN)) == 200  # noqa: S104
        assert status(ask(headers[:2], host="0.0.0.0", login=LOGIN)) == 401  # noqa: S104


@pytest.mark.parametrize(
    "given", [None, "", TOKEN, "Bearer", "Bearer ", f"Bearer {TOKEN}x", "Bearer a-token-of-test\xff", f"Basic {TOKEN}"]
)
def test_without_the_token_nothing_passes(given: str | None) -> None:
    headers = [("host", "localhost")] + ([("authorization", given)] if given is not None else [])
    sent = ask(headers, login=LOGIN)
    assert (status(sent), code(sent)) == (401, "invalid_api_key")
    assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
    assert TOKEN not in sent[1]["body"].decode("utf-8")
    assert status(ask(headers, login=LOGIN, path="/health", open_paths=["/health"])) == 200


def test_the_token_passes() -> None:
    assert status(ask([("host", "localhost"), ("authorization", f"Bearer {TOKEN}")], login=LOGIN)) == 200
    assert status(ask([("host", "localhost"), ("authorization", f"bearer  {TOKEN} ")], login=LOGIN)) == 200


@pytest.mark.parametrize(
    ("declared", "parts", "expected"),
    [
        ("10", [b"0123456789"], 200),
        (None, [b"01234", b"56789"], 200),
        ("11", [b"0123456789", b"x"], 413),
        ("9" * 5000, [b""], 413),
        (None, [b"0123456789", b"x", b"y"], 413),
        ("5", [b"x" * 11], 413),
    ],
)
def test_bodies_that_are_too_large_are_refused(declared: str | None, parts: list[bytes], expected: int) -> None:
    headers = [("host", "localhost")] + ([("content-length", declared)] if declared else [])
    sent = ask(headers, body=parts)
    assert status(sent) == expected
    assert len([message for message in sent if message["type"] == "http.response.start"]) == 1


def test_bodies_that_never_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.05)
    monkeypatch.setattr(refusals, "LINGER", 0.05)

    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"", "more_body": True}

    sent = ask([("host", "localhost")], receive=receive)
    assert (status(sent), code(sent)) == (408, "request_too_slow")
    assert (b"connection", b"close") in sent[0]["headers"]
    assert len(sent) == 3


def test_who_has_sent_all_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.01)

    async def wait_for_the_end(scope: Message, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await echo(scope, receive, send)

    async def receive() -> Message:
        if parts:
            return parts.pop()
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    parts: list[Message] = [{"type": "http.request", "body": b"all"}]
    assert status(ask([("host", "localhost")], app=wait_for_the_end, receive=receive)) == 200


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "::", "10.0.0.1", "example.com", "localhost."]))  # noqa: S104
