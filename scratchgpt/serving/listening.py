"""The address on which a server listens."""

import contextlib
import secrets
import socket

from scratchgpt.errors import UsageError
from scratchgpt.serving.origins import is_loopback

MOST_TRIED = 100
"""Ports tried after one that is in use."""


def require_token(host: str, token: str | None) -> None:
    """Raise UsageError if a server on this host needs a token and has none."""
    if token is None and not is_loopback(host):
        raise UsageError(
            f"On {host} others can reach the server, so it needs a token: set SCRATCHGPT_TOKEN in the environment (a "
            f"random one: {secrets.token_urlsafe(24)}), or leave out --host."
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0: any that is free. Raises UsageError, which names a free port."""
    try:
        return _bound(host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror) or not _is_ours(host):
            raise UsageError(f"This machine has no address {host}; leave out --host, or use 0.0.0.0.") from error
        reason = error
    for other in range(port + 1, min(port + MOST_TRIED, 65536)):
        with contextlib.suppress(OSError):
            _bound(host, other).close()
            raise UsageError(f"Port {port} is not available ({reason.strerror}); {other} is free: --port {other}.")
    raise UsageError(f"Port {port} is not available ({reason.strerror}); choose another with --port.")


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        host.encode("idna")  # create_server would not close its socket
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "This cannot be the name of a host.") from error
    return socket.create_server((host, port), family=family, backlog=1024)


def _is_ours(host: str) -> bool:
    """Return whether this machine has the address."""
    with contextlib.suppress(OSError):
        _bound(host, 0).close()
        return True
    return False


def address(listener: socket.socket) -> str:
    """Return where a browser finds what listens here."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound to here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
