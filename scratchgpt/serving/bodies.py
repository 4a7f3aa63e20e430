"""Reads and checks the bodies of requests, while the event loop goes on."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from itertools import islice
from typing import ParamSpec, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from scratchgpt.errors import did_you_mean
from scratchgpt.serving.problems import ApiError, bad, cut, invalid
from scratchgpt.serving.schemas import UNSUPPORTED

SHORT_BODY = 2**12
"""Bytes of a body that is read in the event loop: at most 5 ms, and often less than a thread takes to start."""

MOST_WAITING = 32
"""Long bodies that may wait for their turn."""

MOST_COMPARED, LONGEST_COMPARED, NEAR = 16, 40, 0.81
"""Unknown fields, and characters of each, that are compared with the known ones; and how much must be the same."""

MOST_CONTAINERS = 10_000
"""Lists and objects in a body. Python would take 0.3 s to make as many as fit in, and nothing else would run."""

NOT_AN_OBJECT = "The body must be a JSON object, sent as application/json."

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
Given = ParamSpec("Given")


class Aside:
    """A thread for work that would make the event loop wait: one piece at a time, and then a pause of the same length.

    Python runs one thread at a time. To parse a body of a megabyte takes up to 30 ms in which it runs no other, and the
    pause leaves half of the time to the event loop.
    """

    def __init__(self, name: str) -> None:
        """Start no thread yet."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turn, self._free_at = asyncio.Lock(), 0.0
        self.n_pieces = 0  # that are done or wait

    async def do(self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Return what `work` returns."""
        loop = asyncio.get_running_loop()
        self.n_pieces += 1
        try:
            async with self._turn:
                await asyncio.sleep(self._free_at - loop.time())
                start = loop.time()
                try:
                    return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))
                finally:
                    self._free_at = 2 * loop.time() - start
        finally:
            self.n_pieces -= 1


class Reader:
    """Reads bodies: short ones at once, long ones in a thread, in the order in which they have come."""

    def __init__(self) -> None:
        """Begin with none."""
        self._aside = Aside("reader")

    async def read(self, request: Request, kind: type[Body], work: Callable[[Body], Result]) -> Result:
        """Return the result of `work` for a body of this kind. Raises ApiError if it is invalid or too many wait."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":  # a page of another site could send other types without being asked
            raise bad(NOT_AN_OBJECT, None)
        body = await request.body()
        if len(body) <= SHORT_BODY:
            return work(understood(body, kind))
        if self._aside.n_pieces > MOST_WAITING:
            message = f"{MOST_WAITING} long requests wait already; try again later."
            raise ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, code="rate_limit_exceeded", retry_after="1")
        return await self._aside.do(lambda: work(understood(body, kind)))


def understood(body: bytes, kind: type[Body]) -> Body:
    """Return a body as a request of this kind. Raises ApiError naming the first thing that is wrong."""
    asked = _parsed(body, kind)
    if isinstance(asked, ApiError):  # raised here, where the traceback does not keep what was parsed
        raise asked
    return asked


def _parsed(body: bytes, kind: type[Body]) -> Body | ApiError:
    """Return a body as a request of this kind, or the first thing that is wrong."""
    if _n_containers(body) > MOST_CONTAINERS:
        return bad(f"The body has more than {MOST_CONTAINERS:,} lists and objects.", None)
    try:
        given = from_json(body)
    except ValueError as error:
        return bad(f"The body is not valid JSON: {error}.", None)
    if not isinstance(given, dict):
        return bad(NOT_AN_OBJECT, None)
    unknown = (name for name in given if name not in kind.model_fields and len(name) <= LONGEST_COMPARED)
    known = kind.model_fields.keys() - UNSUPPORTED
    for name in islice(unknown, MOST_COMPARED):
        if near := did_you_mean(name, known, cutoff=NEAR):
            return bad(f"There is no field {cut(name)}{near}.", name, "unknown_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        return invalid(error.errors(include_url=False, include_input=False)[0])


def _n_containers(body: bytes) -> int:
    """Return how many lists and objects a body has, or if they are few, how many brackets."""
    n_brackets = body.count(b"[") + body.count(b"{")
    if n_brackets <= MOST_CONTAINERS:
        return n_brackets
    without_escapes = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(without_escapes.split(b'"')[::2])
    return outside_strings.count(b"[") + outside_strings.count(b"{")
