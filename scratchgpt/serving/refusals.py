"""Errors, as both servers answer them: pages for browsers, JSON in OpenAI's form for programs."""

import asyncio
import contextlib
import json
from http import HTTPStatus
from typing import Any, NamedTuple

from scratchgpt.serving.answers import (
    SENTENCES,
    Headers,
    Message,
    Receive,
    Send,
    error_content,
    error_page,
    phrase,
    wants_html,
    with_security_headers,
)

LINGER = 5.0
"""Seconds for which the rest of a refused request is read and dropped: a client that still sends reads no answer."""


class Refusal(NamedTuple):
    """An answer in place of the application's."""

    status: HTTPStatus
    code: str
    message: str
    headers: Headers = ()
    page: bytes | None = None
    """For browsers, in place of `error_page`."""


async def refuse(scope: Message, refusal: Refusal, receive: Receive, send: Send) -> None:
    """Send the reason; then read on for a while, or the connection breaks before the client has read the answer."""
    content = error_content(refusal.status, refusal.message, code=refusal.code)
    media, body = _dressed(scope, refusal.status, content)
    if wants_html(scope) and refusal.page:
        body = refusal.page
    headers = [*_content_headers(media, body), *refusal.headers]
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    await send({"type": f"{kind}.start", "status": refusal.status.value, "headers": headers})
    await send({"type": f"{kind}.body", "body": body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body"):
                pass
    await send({"type": f"{kind}.body", "body": b""})


def secured(send: Send) -> Send:
    """Return a `send` that adds the security headers, and refuses a WebSocket with them."""
    is_open = False

    async def secure(message: Message) -> None:
        nonlocal is_open
        is_open = is_open or message["type"] == "websocket.accept"
        if message["type"] == "websocket.close" and not is_open:
            headers = with_security_headers(())
            status = HTTPStatus.FORBIDDEN.value
            await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
            message = {"type": "websocket.http.response.body", "body": b""}
        if message["type"].endswith("http.response.start"):
            message = {**message, "headers": with_security_headers(message.get("headers", ()))}
        await send(message)

    return secure


def with_our_errors(scope: Message, send: Send) -> Send:
    """Return a `send` that gives an application's errors the form of ours."""
    start: Message | None = None
    body = b""

    async def dress(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
            start = message
            return
        if start is not None:
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            kind, body = _dressed(scope, start["status"], _content(start["status"], body))
            ours = {b"content-type", b"content-length", b"content-encoding"}
            headers = [header for header in start.get("headers", ()) if header[0].lower() not in ours]
            await send({**start, "headers": headers + _content_headers(kind, body)})
            message = {"type": "http.response.body", "body": body}
        await send(message)

    return dress


def _content(status: int, body: bytes) -> dict[str, Any]:
    """Return an error in OpenAI's form, given the application's answer, which may have this form already."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        given: dict[str, Any] = json.loads(body)
        if isinstance(given["error"]["message"], str):
            return given
    return error_content(status, SENTENCES.get(status, f"{phrase(status)}."))


def _dressed(scope: Message, status: int, content: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the type and the body of an error: a page for browsers, JSON for programs."""
    if wants_html(scope):
        return b"text/html; charset=utf-8", error_page(status, content["error"]["message"])
    return b"application/json", json.dumps(content).encode("utf-8")


def _content_headers(kind: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", kind), (b"content-length", str(len(body)).encode("ascii"))]
