"""The server's numbers, in the form that Prometheus reads."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scratchgpt.serving.answers import CLIENT_LEFT, App, Message, Receive, Send
from scratchgpt.serving.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""The latencies by which requests are sorted."""


class Metrics:
    """The numbers, and an ASGI application around another that counts its answers."""

    def __init__(self, engine: Engine) -> None:
        """Begin at zero."""
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine))
        self._requests = Counter("scratchgpt_requests", "Answers by status.", ["status"], registry=self.registry)
        self._seconds = Histogram(
            "scratchgpt_request_seconds", "Until an answer was complete.", buckets=SECONDS, registry=self.registry
        )

    def text(self) -> bytes:
        """Return the page that Prometheus reads."""
        return generate_latest(self.registry)

    def around(self, app: App) -> App:
        """Return the application, counted."""

        async def counted(scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            status, start = CLIENT_LEFT, time.perf_counter()

            async def noted(message: Message) -> None:
                nonlocal status
                status = message.get("status", status)
                await send(message)

            try:
                await app(scope, receive, noted)
            finally:
                self._requests.labels(str(status)).inc()
                self._seconds.observe(time.perf_counter() - start)

        return counted


class _EngineCollector(Collector):
    """Reads the engine's numbers when they are asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine = self._engine
        yield CounterMetricFamily("scratchgpt_prompt_tokens", "Tokens of prompts.", value=engine.n_prompt_tokens)
        yield CounterMetricFamily("scratchgpt_generated_tokens", "Tokens made.", value=engine.n_tokens_made)
        yield CounterMetricFamily("scratchgpt_steps", "Steps, each a token for every text.", value=engine.n_steps)
        yield GaugeMetricFamily("scratchgpt_batch_size", "Texts that are being made.", value=engine.running)
        yield GaugeMetricFamily("scratchgpt_queue_length", "Texts that wait.", value=engine.waiting)
