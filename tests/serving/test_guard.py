"""What stands before every request: foreign names, foreign pages, missing tokens and large bodies do not pass."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from scratchgpt.errors import UsageError
from scratchgpt.serving import guard, refusals
from scratchgpt.serving.answers import SECURITY_HEADERS, App, Message, Receive, Send
from scratchgpt.serving.guard import Guard
from scratchgpt.serving.origins import allowed_origin, is_loopback
from scratchgpt.serving.tokens import Login
from tests import clock

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
    clock.run(guarded(scope, receive or receive_parts, send))
    assert kind != "http" or receive or not any(part["body"] for part in parts), (
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
        assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 403)


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


NAVIGATION = {"mode": "navigate", "dest": "document"}


@pytest.mark.parametrize(
    ("method", "fetched", "expected"),
    [
        ("GET", {"site": "none"}, 200),
        ("GET", {"site": "same-origin", "mode": "cors", "dest": "empty"}, 200),
        ("GET", {"site": "cross-site"} | NAVIGATION, 200),
        ("GET", {"site": "same-site"} | NAVIGATION, 200),
        ("POST", {"site": "cross-site"} | NAVIGATION, 403),
        ("HEAD", {"site": "cross-site"} | NAVIGATION, 403),
        ("GET", {"site": "cross-site", "mode": "navigate", "dest": "iframe"}, 403),
        ("GET", {"site": "cross-site", "mode": "navigate", "dest": "object"}, 403),
        ("GET", {"site": "cross-site", "mode": "no-cors", "dest": "image"}, 403),
        ("GET", {"site": "cross-site", "mode": "cors", "dest": "document"}, 403),
        ("GET", {"site": "same-site", "mode": "no-cors", "dest": "script"}, 403),
        ("GET", {"site": "cross-site"}, 403),
        ("GET", {"site": "something-new"}, 403),
        ("GET", {"site": ""}, 403),
    ],
)
def test_other_sites_may_link_but_not_use(method: str, fetched: dict[str, str], expected: int) -> None:
    headers = [("host", "localhost"), *((f"sec-fetch-{name}", value) for name, value in fetched.items())]
    sent = ask(headers, method=method)
    assert status(sent) == expected
    if expected != 200:
        assert code(sent) == "wrong_site"
        assert ask(headers, method=method, kind="websocket")[0]["status"] == 403


SITE = "http://site.example:3000"


def test_a_site_that_is_named_may_use_the_server() -> None:
    headers = [("host", "localhost"), ("origin", SITE), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")]
    asks = [("access-control-request-method", "POST"), ("access-control-request-headers", "authorization, x-any")]
    private = [("access-control-request-private-network", "true")]
    settings: dict[str, Any] = {"login": LOGIN, "origins": [SITE]}
    sent = ask(headers + asks + private, method="OPTIONS", **settings)
    allowed = {name: value.decode("ascii") for name, value in sent[0]["headers"]}
    assert status(sent) == 200, "the token does not come with a preflight"
    assert allowed[b"access-control-allow-origin"] == SITE
    assert allowed[b"access-control-allow-headers"] == "authorization, x-any"
    assert allowed[b"access-control-allow-private-network"] == "true"
    assert int(allowed[b"access-control-max-age"]) > 0
    assert "POST" in allowed[b"access-control-allow-methods"]
    assert "Origin" in allowed[b"vary"]
    for token, expected in ((f"Bearer {TOKEN}", 200), ("Bearer another", 401)):
        sent = ask([*headers, ("authorization", token)], method="POST", **settings)
        assert status(sent) == expected
        answer = dict(sent[0]["headers"])
        assert answer[b"access-control-allow-origin"] == SITE.encode("ascii"), "the page can read why"
        assert b"retry-after" in answer[b"access-control-expose-headers"]
        assert b"Origin" in answer[b"vary"]


@pytest.mark.parametrize(
    "origin", ["http://site.example", "https://site.example:3000", "http://evil.example", "null", "*"]
)
def test_a_site_that_is_not_named_may_not(origin: str) -> None:
    for method in ("OPTIONS", "POST", "GET"):
        asks = [("access-control-request-method", "POST")] if method == "OPTIONS" else []
        sent = ask([("host", "localhost"), ("origin", origin), *asks], method=method, origins=[SITE])
        assert (status(sent), code(sent)) == (403, "wrong_origin")
        assert b"access-control-allow-origin" not in dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("HTTP://LocalHost:3000/", "http://localhost:3000"),
        ("https://site.example:443", "https://site.example"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://site.example:443", "http://site.example:443"),
    ],
)
def test_origins_as_browsers_send_them(text: str, origin: str) -> None:
    assert allowed_origin(text) == origin


NO_ORIGINS = (
    " * null localhost:3000 //localhost file:///a.html ftp://a http:// http://:80 http://a/b http://a?b http://a# "
    "http://u@a http://a:99999 http://a:0 http://a: http://[ http://*.a http://m\u00fcller.example http://a,http://b"
)


@pytest.mark.parametrize("text", [*NO_ORIGINS.split(" "), " http://a", "http://a\n"])
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(UsageError, match="is not an origin; name each one"):
        allowed_origin(text)


async def fail(*_: object) -> None:
    """Fail as an application with a bug does."""
    raise ValueError("\x1b[2J")


async def nothing_here(_: Message, __: Receive, send: Send) -> None:
    """Answer as a toolkit does, in its own words."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"<title>NiceGUI</title>HTTPException"})


ERRORS: list[tuple[int, dict[str, Any]]] = [
    (200, {"headers": []}),
    (401, {"headers": [], "login": LOGIN}),
    (401, {"headers": [], "login": Login(TOKEN, 8070)}),
    (403, {"headers": [("origin", "http://evil.example")]}),
    (403, {"headers": [("sec-fetch-site", "cross-site")]}),
    (404, {"headers": [], "app": nothing_here}),
    (413, {"headers": [("content-length", "1000")]}),
    (413, {"headers": [], "body": [b"x" * 1000]}),
    (400, {"headers": [("content-length", "1"), ("transfer-encoding", "chunked")]}),
    (500, {"headers": [], "app": fail}),
]


@pytest.mark.parametrize(("expected", "settings"), ERRORS)
@pytest.mark.parametrize("accept", ["text/html,*/*;q=0.8", "*/*", None])
def test_every_answer_is_ours_and_secured(expected: int, settings: dict[str, Any], accept: str | None) -> None:
    settings = dict(settings)
    headers = [("host", "localhost"), *settings.pop("headers")] + ([("accept", accept)] if accept else [])
    sent = ask(headers, **settings)
    answer = dict(sent[0]["headers"])
    assert status(sent) == expected
    assert set(SECURITY_HEADERS) <= set(answer)
    assert b"frame-ancestors 'none'" in answer[b"content-security-policy"]
    if expected == 200:
        return
    body = b"".join(message.get("body", b"") for message in sent).decode("utf-8")
    assert int(answer[b"content-length"]) == len(body)
    assert "NiceGUI" not in body
    assert "\x1b" not in body
    if accept and "html" in accept:
        assert answer[b"content-type"].startswith(b"text/html")
        assert 'href="/"' in body or 'type="password"' in body
        assert "<script" not in body
    else:
        assert json.loads(body)["error"]["message"]


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "::", "10.0.0.1", "example.com", "localhost."]))  # noqa: S104
