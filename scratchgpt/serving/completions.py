"""A request for completions: what is asked is checked, what is made is told, whole or in pieces."""

import asyncio
import contextlib
import dataclasses
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from scratchgpt.errors import UsageError
from scratchgpt.generation import Sampling, Stop, default_prompt
from scratchgpt.serving.engine import BusyError, ClosedError, Engine, Job, Likely, Wish
from scratchgpt.serving.problems import ApiError, bad, problem_of
from scratchgpt.serving.schemas import MOST_TEXTS, Choice, Completion, CompletionRequest, Logprobs, Model, Usage
from scratchgpt.tokenizer.base import end_of_text

USUAL_TOKENS = 16
"""OpenAI's default of max_tokens."""

PAUSE = 0.04
"""Seconds between the pieces of a stream: what a fast model makes meanwhile goes out as one."""

LONG_BODY, LONG_ANSWER = 2**13, 1000
"""Bytes and tokens from which a request is understood, and an answer written, in a thread of its own: others would wait
for it. What is shorter is done sooner than a thread is begun."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for."""

    prompt_tokens: int = 16_384
    max_tokens: int = 4096
    seconds: float = 120.0


class _Prompt(NamedTuple):
    text: str
    ids: tuple[int, ...]


class _News:
    """How the engine's thread wakes a reader in the event loop: seldom, for that takes time from both."""

    def __init__(self) -> None:
        self._loop, self._event, self._is_told = asyncio.get_running_loop(), asyncio.Event(), False

    def tell(self) -> None:
        """Say that there is news; from any thread."""
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody reads any more
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait for news."""
        await self._event.wait()
        self._event.clear()
        self._is_told = False


class Completions:
    """What answers requests."""

    def __init__(self, engine: Engine, model_id: str, limits: Limits) -> None:
        """Answer with an engine's model under this name."""
        self._engine, self._limits = engine, limits
        self.model = Model(id=model_id, created=int(time.time()))

    def require_model(self, name: str) -> None:
        """Raise an error if another model is meant than this one."""
        if name != self.model.id:
            message = f"There is no model {name!r} here; this server has {self.model.id!r}."
            raise ApiError(HTTPStatus.NOT_FOUND, message, code="model_not_found", param="model")

    async def complete(self, asked: CompletionRequest, request: Request) -> Response:
        """Answer a request for completions."""
        self.require_model(asked.model)
        is_long = len(await request.body()) > LONG_BODY
        prompts, wishes = await asyncio.to_thread(self._wishes, asked) if is_long else self._wishes(asked)
        news = _News()

        def tell(job: Job) -> None:
            if asked.stream or job.is_over:
                news.tell()

        try:
            jobs = self._engine.submit(wishes, tell)
        except (BusyError, ClosedError) as error:
            raise problem_of(error) from error
        answer = _Answer(asked, prompts, jobs, news, self._engine)
        return _Events(answer) if asked.stream else await answer.whole(request)

    def _wishes(self, asked: CompletionRequest) -> tuple[list[_Prompt], list[Wish]]:
        """Return what is to be made, prompt by prompt. Raises an error that names the field."""
        prompts, n = self._prompts(asked.prompt), asked.n or 1
        most = min(MOST_TEXTS, self._engine.n_places + self._engine.n_waiting)
        if len(prompts) * n > most:
            raise bad(f"{len(prompts)} prompts with n = {n} are more than {most} texts.", "n")
        n_tokens = USUAL_TOKENS if asked.max_tokens is None else asked.max_tokens
        if n_tokens > self._limits.max_tokens:
            raise bad(f"max_tokens is {n_tokens:,}, and at most {self._limits.max_tokens:,} here.", "max_tokens")
        if asked.stream_options and not asked.stream:
            raise bad("stream_options goes with stream = true.", "stream_options")
        has_echo = bool(asked.echo) and asked.logprobs is not None
        longest = max(len(prompt.ids) for prompt in prompts)
        if has_echo and longest > self._engine.block_size:
            block_size = self._engine.block_size
            message = f"The prompt has {longest:,} tokens; with echo and logprobs it may have {block_size:,}."
            raise bad(message, "prompt", "context_length_exceeded")
        sampling = _sampling(asked)
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        wishes = [
            Wish(
                prompt=prompt.ids,
                n_tokens=n_tokens,
                sampling=sampling,
                number=number,
                stop=Stop(stop, end_of_text(self._engine.vocabulary)),
                n_top=asked.logprobs,
                has_echo=has_echo,
                n_before=len(prompt.text),
                seconds=self._limits.seconds,
            )
            for prompt in prompts
            for number in range(n)
        ]
        return prompts, wishes

    def _prompts(self, given: str | list[str] | list[int] | list[list[int]] | None) -> list[_Prompt]:
        """Return the prompts in both forms. Raises an error if one is too long or cannot be said."""
        if given is None:
            given = default_prompt(self._engine.vocabulary)
        several = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        prompts = [self._prompt(one) for one in several]
        longest = max(len(prompt.ids) for prompt in prompts)
        if longest > self._limits.prompt_tokens:
            message = f"The prompt has {longest:,} tokens, and may have {self._limits.prompt_tokens:,}."
            raise bad(message, "prompt", "context_length_exceeded")
        return prompts

    def _prompt(self, given: Any) -> _Prompt:
        """Return one prompt in both forms. Raises an error if the vocabulary cannot say it."""
        vocabulary = self._engine.vocabulary
        if not isinstance(given, str):
            if max(given) >= vocabulary.vocab_size:
                raise bad(f"There is no token {max(given)}; the vocabulary has {vocabulary.vocab_size:,}.", "prompt")
            return _Prompt(vocabulary.decode(given), tuple(given))
        try:
            return _Prompt(given, tuple(vocabulary.encode(given).tolist()))
        except UsageError as error:
            raise bad(str(error), "prompt") from error


def _sampling(asked: CompletionRequest) -> Sampling:
    """Return how to choose, with OpenAI's defaults."""
    return Sampling(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=asked.top_k,
        top_p=sys.float_info.min if asked.top_p == 0 else asked.top_p,  # OpenAI's may be 0: only the likeliest
        min_p=asked.min_p,
        repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
        frequency_penalty=asked.frequency_penalty or 0.0,
        seed=secrets.randbelow(2**63) if asked.seed is None else asked.seed % 2**63,  # OpenAI's may be negative
    )


class _Answer:
    """What becomes of one request."""

    def __init__(
        self, asked: CompletionRequest, prompts: Sequence[_Prompt], jobs: list[Job], news: _News, engine: Engine
    ) -> None:
        self._asked, self._prompts, self._jobs, self._news, self._engine = asked, prompts, jobs, news, engine
        self._id, self._created = f"cmpl-{secrets.token_hex(12)}", int(time.time())

    def cancel(self) -> None:
        """Make no more of it."""
        self._engine.cancel(self._jobs)

    async def whole(self, request: Request) -> Response:
        """Return all at once, or nothing if the reader has gone."""
        watcher = asyncio.create_task(self._watch(request))
        try:
            while not (watcher.done() or all(job.is_over for job in self._jobs)):
                await self._news.wait()
        finally:
            watcher.cancel()
            self.cancel()
        if watcher.done():
            return Response(status_code=499)  # as nginx counts those who have gone
        for job in self._jobs:
            if job.error:
                raise problem_of(job.error) from job.error
        is_long = sum(job.n_made for job in self._jobs) > LONG_ANSWER
        return await asyncio.to_thread(self._written) if is_long else self._written()

    def _written(self) -> Response:
        choices = [self._choice(index, *job.take(), is_first=True, end=job.end) for index, job in enumerate(self._jobs)]
        content = self._completion(choices, usage=self._usage()).model_dump_json()
        return Response(content, media_type="application/json")

    async def _watch(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._news.tell()

    async def pieces(self) -> AsyncIterator[str]:
        """Yield events, as they come."""
        is_told = bool(self._asked.stream_options and self._asked.stream_options.include_usage)
        unsaid = None if is_told else {"usage"}
        left, begun = dict(enumerate(self._jobs)), set[int]()
        while left:
            await self._news.wait()
            events: list[str] = []
            for index, job in list(left.items()):
                end = job.end  # before taking: after the end there is nothing new
                text, likely = job.take()
                if job.error:
                    yield "".join([*events, _event(json.dumps(problem_of(job.error).content))])
                    return
                if text or likely or end:
                    choice = self._choice(index, text, likely, is_first=index not in begun, end=end)
                    begun.add(index)
                    events.append(_event(self._completion([choice]).model_dump_json(exclude=unsaid)))
                if end:
                    del left[index]
            yield "".join(events)
            if left:
                await asyncio.sleep(PAUSE)
        if is_told:
            yield _event(self._completion([], usage=self._usage()).model_dump_json())
        yield "data: [DONE]\n\n"

    def _choice(self, index: int, text: str, likely: Iterable[Likely], *, is_first: bool, end: Any) -> Choice:
        prompt = self._prompts[index * len(self._prompts) // len(self._jobs)]
        return Choice(
            text=prompt.text + text if self._asked.echo and is_first else text,
            index=index,
            logprobs=None if self._asked.logprobs is None else _logprobs(likely),
            finish_reason=end,
        )

    def _completion(self, choices: list[Choice], usage: Usage | None = None) -> Completion:
        return Completion(id=self._id, created=self._created, model=self._asked.model, choices=choices, usage=usage)

    def _usage(self) -> Usage:
        n_prompt, n_made = sum(len(prompt.ids) for prompt in self._prompts), sum(job.n_made for job in self._jobs)
        return Usage(prompt_tokens=n_prompt, completion_tokens=n_made, total_tokens=n_prompt + n_made)


class _Events(StreamingResponse):
    """Server-sent events; who goes away before the end frees his places."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__(answer.pieces(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


def _event(content: str) -> str:
    return f"data: {content}\n\n"


def _logprobs(likely: Iterable[Likely]) -> Logprobs:
    entries = list(likely)
    return Logprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[entry.log_probability for entry in entries],
        top_logprobs=[entry.top for entry in entries],
        text_offset=[entry.offset for entry in entries],
    )
