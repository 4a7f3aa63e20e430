"""Files from the network: the very file that was meant, or none."""

import hashlib
import http.client
import urllib.request
from collections.abc import Callable

from scratchgpt.errors import DataError

TIMEOUT = 30.0
"""Seconds without an answer."""
CHUNK = 2**16
"""Bytes read at once."""


def download(
    address: str,
    *,
    n_bytes: int,
    sha256: str,
    timeout: float = TIMEOUT,
    progress: Callable[[int], None] = lambda _: None,
) -> bytes:
    """Return the file at an address if it has this size and hash. Raises DataError naming the address.

    `progress` is told how many bytes came, again and again.
    """
    parts = []
    n_left = n_bytes + 1  # one more than expected is enough to know that it is another file
    try:
        # The name, for some servers turn Python's own away.
        request = urllib.request.Request(address, headers={"User-Agent": "scratchgpt"})  # noqa: S310 - it is ours
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            while part := response.read(min(CHUNK, n_left)):
                parts.append(part)
                n_left -= len(part)
                progress(len(part))
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"Cannot download {address}: {reason}.") from error
    data = b"".join(parts)
    if len(data) < n_bytes:
        raise DataError(f"Cannot download {address}: only {len(data):,} of {n_bytes:,} bytes came.")
    if len(data) > n_bytes or hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{address} is another file now: its SHA-256 or size is not the expected one.")
    return data
