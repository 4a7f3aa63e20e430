"""Names of servers and sites: in options, in Host, in Origin, and in what browsers add about a request's origin."""

import ipaddress
from urllib.parse import urlsplit

from scratchgpt.errors import UsageError
from scratchgpt.serving.answers import Message, values


def allowed_origin(text: str) -> str:
    """Return the origin that an option names, as browsers send it. Raises UsageError if it is none."""
    try:
        parts = urlsplit(text.lower())
        port = {"http": 80, "https": 443}[parts.scheme]
        origin = f"{parts.scheme}://{parts.netloc}"
        is_whole = text.lower() in {origin, f"{origin}/"} and text.isascii() and not set(parts.netloc) & set("@*")
        if is_whole and parts.hostname and parts.port != 0 and not origin.endswith(":"):
            return origin.removesuffix(f":{port}")
    except (ValueError, KeyError):
        pass
    raise UsageError(
        f"{text!r:.80} is not an origin; name each one, as http://localhost:3000. A page that is opened as a file has "
        "none: serve it with `python -m http.server`."
    )


def is_loopback(host: str) -> bool:
    """Return whether this name or address reaches only this machine."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def place_of(origin: str) -> str | None:
    """Return the host and port of an origin, None if there are none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def name_of(host: str) -> str:
    """Return a Host header without its port; nothing if it is more than that."""
    try:
        return "" if set(host) & set("@/?#") else urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def opens_a_page(scope: Message) -> bool:
    """Return whether a browser asks for a page to show it in a tab of its own."""
    modes, places = values(scope, "sec-fetch-mode"), values(scope, "sec-fetch-dest")
    return (scope.get("method"), modes, places) == ("GET", ["navigate"], ["document"])
