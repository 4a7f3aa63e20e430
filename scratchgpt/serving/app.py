"""The server: OpenAI's paths in front of an engine."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus
from typing import Annotated

from fastapi import FastAPI, Path, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from scratchgpt import __version__
from scratchgpt.serving import front
from scratchgpt.serving.answers import App, Message, Receive, Send
from scratchgpt.serving.bodies import Reader
from scratchgpt.serving.completions import Completions, Limits
from scratchgpt.serving.engine import Engine
from scratchgpt.serving.guard import Guard
from scratchgpt.serving.metrics import Metrics
from scratchgpt.serving.problems import ApiError, tell_problems
from scratchgpt.serving.schemas import (
    FAILURES,
    LONGEST_NAME,
    STREAMED,
    Completion,
    CompletionRequest,
    Decoded,
    DetokenizeRequest,
    Health,
    Model,
    Models,
    TokenizeRequest,
    TokenizerInfo,
    Tokens,
    Version,
    takes,
)
from scratchgpt.serving.served import Served
from scratchgpt.serving.tokens import Login

LARGEST_BODY = 2**20
"""Bytes of a request."""

OPEN_PATHS = ("/health", "/v1/health")
"""These need no token."""

NO_CHAT = "This model continues texts and was not trained to chat; use /v1/completions."


def create_app(engine: Engine, model_id: str, limits: Limits, metrics: Metrics) -> FastAPI:
    """Return the application, which closes the engine when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(
        title="scratchgpt",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,  # a redirect would repeat the address, however long it is
        lifespan=lifespan,
    )
    tell_problems(app)
    served = Served(model_id, engine.config, engine.vocabulary, engine.ends)
    reader = Reader()
    completions = Completions(engine, served, limits, reader)
    _describe(app, served, reader)

    @app.post("/v1/completions", response_model=Completion, responses=FAILURES | STREAMED, **takes(CompletionRequest))
    async def complete(request: Request) -> Response:
        return await completions.complete(request)

    @app.post("/v1/chat/completions", include_in_schema=False)
    async def chat() -> None:
        raise ApiError(HTTPStatus.NOT_FOUND, NO_CHAT, code="unsupported")

    @app.get("/health")
    @app.get("/v1/health", include_in_schema=False)
    async def health() -> Health:
        return Health()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    document = json.dumps(app.openapi()).encode("ascii")  # once: to write it takes milliseconds

    @app.get("/openapi.json", include_in_schema=False)
    async def show_document() -> Response:
        return Response(document, media_type="application/json")

    return app


def _describe(app: FastAPI, served: Served, reader: Reader) -> None:
    """Add the paths that need a model's name, sizes and vocabulary alone."""

    @app.get("/", response_class=HTMLResponse)
    async def show_front(request: Request) -> Response:
        return HTMLResponse(front.page(served.model, str(request.base_url).rstrip("/")))

    @app.get("/v1/models", responses=FAILURES)
    async def list_models() -> Models:
        return Models(data=[served.model])

    @app.get("/v1/models/{model}", responses=FAILURES)
    async def retrieve_model(model: Annotated[str, Path(max_length=LONGEST_NAME)]) -> Model:
        served.require(model)
        return served.model

    @app.post("/tokenize", response_model=Tokens, responses=FAILURES, **takes(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        return await reader.read(request, TokenizeRequest, lambda asked: _json(served.tokenize(asked)))

    @app.post("/detokenize", response_model=Decoded, responses=FAILURES, **takes(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        return await reader.read(request, DetokenizeRequest, lambda asked: _json(served.detokenize(asked)))

    @app.get("/tokenizer_info")
    async def show_tokenizer() -> TokenizerInfo:
        return served.tokenizer_info

    @app.get("/version")
    async def show_version() -> Version:
        return Version(version=__version__)


def _json(content: BaseModel) -> Response:
    return Response(content.model_dump_json(), media_type="application/json")


def guarded(
    engine: Engine, model_id: str, limits: Limits, *, host: str, login: Login | None = None, origins: Iterable[str] = ()
) -> App:
    """Return the whole server as an ASGI application: counted, guarded, answering."""
    metrics = Metrics(engine)
    app = create_app(engine, model_id, limits, metrics)
    guard = Guard(
        _as_get(app), host=host, login=login, origins=origins, largest_body=LARGEST_BODY, open_paths=OPEN_PATHS
    )
    return metrics.around(guard)


def _as_get(app: App) -> App:
    """Return the application, which answers HEAD as GET; uvicorn leaves the body out."""

    async def answering(scope: Message, receive: Receive, send: Send) -> None:
        await app({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send)

    return answering
