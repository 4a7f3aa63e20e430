"""Errors that a client receives, in OpenAI's form."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from scratchgpt.errors import ScratchGPTError
from scratchgpt.serving.answers import error_content
from scratchgpt.serving.engine import BusyError, ClosedError, LateError
from scratchgpt.serving.schemas import FORMS, UNSUPPORTED

LONGEST_QUOTE = 80
"""Characters of what was sent that a message repeats."""


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, **headers: str
    ) -> None:
        """Say what is wrong, in a sentence; `headers` with _ for -."""
        super().__init__(message)
        self.status = status
        self.content = error_content(status, message, code=code, param=param)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def cut(text: str) -> str:
    """Return a text that was sent as a message may quote it: in quotes, printable, and cut if it is long."""
    quoted = repr(text[:LONGEST_QUOTE])
    return quoted if len(quoted) <= LONGEST_QUOTE else f"{quoted[:LONGEST_QUOTE]}...'"


def bad(message: str, param: str | None, code: str | None = None) -> ApiError:
    """Return the error of a field that is not valid."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def problem_of(error: Exception) -> ApiError:
    """Return the error of a request whose text failed."""
    message = str(error) if isinstance(error, ScratchGPTError) else f"The model failed: {type(error).__name__}."
    match error:
        case BusyError():
            return ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, code="rate_limit_exceeded", retry_after="1")
        case ClosedError():
            return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, code="shutting_down")
        case LateError():  # OpenAI's clients would try again, and be late again
            return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, code="timeout", x_should_retry="false")
        case _:
            return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, message, x_should_retry="false")


def invalid(error: Mapping[str, Any]) -> ApiError:
    """Return the error of a request, given the first error that pydantic found."""
    field, code = str(error["loc"][0]), None
    if field in UNSUPPORTED:
        message, code = f"This server does not support {field}; leave it out.", "unsupported_parameter"
    elif field in FORMS:
        message = f"{field} must be {FORMS[field]}."
    elif error["type"] == "missing":
        message = f"{field} is missing."
    else:
        message = f"{field}: {error['msg']}."
    return bad(message, field, code)


def tell_problems(app: FastAPI) -> None:
    """Let an application report every error in this form."""

    @app.exception_handler(ApiError)
    async def tell(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.content, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def tell_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]  # of a path's parameter; bodies.py reads bodies
        return await tell(request, invalid(first | {"loc": first["loc"][1:]}))

    @app.exception_handler(HTTPException)
    async def tell_refused(_: Request, error: HTTPException) -> Response:
        return JSONResponse(error_content(error.status_code, f"{error.detail}."), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def tell_failure(_: Request, error: Exception) -> Response:
        content = error_content(HTTPStatus.INTERNAL_SERVER_ERROR, f"The server failed: {type(error).__name__}.")
        return JSONResponse(content, HTTPStatus.INTERNAL_SERVER_ERROR)
