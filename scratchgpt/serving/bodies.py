"""Reading requests' bodies: what they ask for, or what is wrong with them, while the event loop goes on."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator
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

NOT_AN_OBJECT = "The body must be a JSON object, sent as application/json."

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
Given = ParamSpec("Given")


class Aside:
    """A thread for work that would make the event loop wait: one piece at a time, and then a pause of the same length.

    Python runs one thread at a time, and to parse a long body takes up to 60 ms in which it runs no other. The pause
    leaves half of the time to the event loop.
    """

    def __init__(self, name: str) -> None:
        """Start no thread yet."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turn, self._free_at = asyncio.Lock(), 0.0
        self.n_waiting = 0

    async def do(self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Return what `work` returns."""
        loop = asyncio.get_running_loop()
        self.n_waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self.n_waiting -= 1
        try:
            await asyncio.sleep(self._free_at - loop.time())
            start = loop.time()
            result = await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))
            self._free_at = 2 * loop.time() - start
            return result
        finally:
            self._turn.release()


class Reader:
    """Reads bodies: short ones at once, long ones in a thread, in the order in which they have come."""

    def __init__(self) -> None:
        """Begin with none."""
        self._aside = Aside("reader")

    async def read(self, request: Request, kind: type[Body], work: Callable[[Body], Result]) -> Result:
        """Return what `work` makes of a body of this kind. Raises ApiError if it is none, or if too many wait."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":  # a page of another site could send other types without being asked
            raise bad(NOT_AN_OBJECT, None)
        body = await request.body()
        if len(body) <= SHORT_BODY:
            return work(understood(body, kind))
        if self._aside.n_waiting >= MOST_WAITING:
            message = f"{MOST_WAITING} long requests wait already; try again later."
            raise ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, code="rate_limit_exceeded", retry_after="1")

        def read_long() -> Result:
            with _no_collection():
                asked = understood(body, kind)
            return work(asked)

        return await self._aside.do(read_long)


def understood(body: bytes, kind: type[Body]) -> Body:
    """Return a body as a request of this kind. Raises ApiError naming the first thing that is wrong."""
    try:
        given = from_json(body)
    except ValueError as error:
        raise bad(f"The body is not valid JSON: {error}.", None) from error
    if not isinstance(given, dict):
        raise bad(NOT_AN_OBJECT, None)
    unknown = (name for name in given if name not in kind.model_fields and len(name) <= LONGEST_COMPARED)
    known = kind.model_fields.keys() - UNSUPPORTED
    for name in islice(unknown, MOST_COMPARED):
        if near := did_you_mean(name, known, cutoff=NEAR):
            raise bad(f"There is no field {cut(name)}{near}.", name, "unknown_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False)[0]) from error


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage: Python would look through the lists of a long body again and again while they are made."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
