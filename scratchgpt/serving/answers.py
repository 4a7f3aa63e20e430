"""Answers that both servers give by themselves: errors, small pages, and the headers of every answer."""

import base64
import hashlib
import html
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
"""ASGI, which all Python web servers and toolkits speak."""
Headers = Iterable[tuple[bytes, bytes]]

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 40rem; margin: 0 auto; padding: 1.5rem 1rem; overflow-wrap: anywhere;
  color: light-dark(#1d2129, #e4e6eb); background: light-dark(#fff, #14161a); }
h1 { font-size: 1.4rem; line-height: 1.25; }
a { color: light-dark(#2f56d9, #a9bcff); }
pre { padding: .75rem; white-space: pre-wrap; background: light-dark(#f1f3f6, #22252b); }
label { display: block; font-weight: 600; }
input, button { box-sizing: border-box; width: 100%; max-width: 24rem; min-height: 2.75rem; margin: .25rem 0 .75rem;
  padding: 0 .75rem; font: inherit; border: 1px solid light-dark(#6b7280, #9aa1ad); border-radius: .375rem; }
button { color: #fff; background: #2f56d9; border-color: #2f56d9; font-weight: 600; cursor: pointer; }
:focus-visible { outline: 3px solid light-dark(#2f56d9, #a9bcff); outline-offset: 2px; }
.error { color: light-dark(#b3201c, #ff9c94); }
"""


def hash_source(text: str) -> str:
    """Return the source of a Content-Security-Policy that allows this inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


NOWHERE_ELSE = "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
"""The part of a Content-Security-Policy that holds for every answer."""

POLICY = f"default-src 'none'; img-src data:; style-src {hash_source(STYLE)}; {NOWHERE_ELSE}"
"""The Content-Security-Policy of all answers that bring no policy of their own: `html_page` needs no more."""

SECURITY_HEADERS = {
    b"content-security-policy": POLICY.encode("ascii"),
    b"x-frame-options": b"DENY",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


def with_security_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return these headers, and the security headers that they lack."""
    headers = list(headers)
    given = {name.lower() for name, _ in headers}
    return headers + [header for header in SECURITY_HEADERS.items() if header[0] not in given]


def html_page(title: str, body: str) -> bytes:
    """Return a page without scripts: `title` is text, `body` is HTML, and `STYLE` is its style."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{html.escape(title)}</h1>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    ).encode("utf-8", "replace")


SENTENCES: dict[int, str] = {
    HTTPStatus.NOT_FOUND: "There is nothing at this address.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take requests of this method.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The server is busy; try again in a moment.",
}
"""Messages of errors for which the application has none."""


CLIENT_LEFT = 499
"""nginx's status of a request whose client has left before the answer."""


def phrase(status: int) -> str:
    """Return the name of a status, which may be one that HTTP does not define, such as CLIENT_LEFT."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else f"Error {status}"


def error_page(status: int, message: str) -> bytes:
    """Return an error as a page, with a link to the first page."""
    return html_page(phrase(status), f'<p>{html.escape(message)}</p>\n<p><a href="/">Go to the first page</a></p>')


def error_content(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def values(scope: Message, name: str) -> list[str]:
    """Return the values of all headers of this name."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.decode("latin-1").lower() == name]


def wants_html(scope: Message) -> bool:
    """Return whether a browser asks to show the answer, and no program asks for data."""
    return any("text/html" in value.lower() for value in values(scope, "accept"))
