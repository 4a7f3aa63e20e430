"""The server: OpenAI's paths in front of an engine."""

import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from scratchgpt import __version__
from scratchgpt.serving.completions import Completions, Limits
from scratchgpt.serving.engine import Engine
from scratchgpt.serving.guard import App, Guard, Message, Receive, Send
from scratchgpt.serving.metrics import Metrics
from scratchgpt.serving.problems import ApiError, tell_problems
from scratchgpt.serving.schemas import FAILURES, STREAMED, Completion, CompletionRequest, Health, Model, Models

LARGEST_BODY = 2**20
"""Bytes of a request."""

NO_CHAT = "This model continues texts and was not trained to chat; use /v1/completions."


def create_app(engine: Engine, model_id: str, limits: Limits, metrics: Metrics) -> FastAPI:
    """Return the application, which closes the engine when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(title="scratchgpt", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    tell_problems(app)
    api = Completions(engine, model_id, limits)

    @app.get("/v1/models", responses=FAILURES)
    async def list_models() -> Models:
        return Models(data=[api.model])

    @app.get("/v1/models/{model}", responses=FAILURES)
    async def retrieve_model(model: str) -> Model:
        api.require_model(model)
        return api.model

    @app.post("/v1/completions", response_model=Completion, responses=FAILURES | STREAMED)
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        return await api.complete(asked, request)

    @app.post("/v1/chat/completions", include_in_schema=False)
    async def chat() -> None:
        raise ApiError(HTTPStatus.NOT_FOUND, NO_CHAT, code="unsupported")

    @app.get("/health")
    async def health() -> Health:
        return Health()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


def guarded(engine: Engine, model_id: str, limits: Limits, *, host: str, token: str | None) -> App:
    """Return the whole server as an ASGI application: counted, guarded, answering."""
    metrics = Metrics(engine)
    app = create_app(engine, model_id, limits, metrics)
    guard = Guard(_as_get(app), host=host, token=token, largest_body=LARGEST_BODY, open_paths=["/health"])
    return metrics.around(guard)


def _as_get(app: App) -> App:
    """Return the application, which answers HEAD as GET; uvicorn leaves the body out."""

    async def answering(scope: Message, receive: Receive, send: Send) -> None:
        await app({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send)

    return answering
