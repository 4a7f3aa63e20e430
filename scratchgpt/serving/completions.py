"""Answers to requests for completions, whole or in pieces."""

import asyncio
import contextlib
import dataclasses
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from scratchgpt.generation import Sampling, Stop
from scratchgpt.serving.answers import CLIENT_LEFT
from scratchgpt.serving.bodies import Aside, Reader
from scratchgpt.serving.engine import BusyError, ClosedError, Engine
from scratchgpt.serving.job import Job, Likely, Wish
from scratchgpt.serving.problems import bad, problem_of
from scratchgpt.serving.schemas import MOST_TEXTS, Choice, Completion, CompletionRequest, Logprobs, Usage
from scratchgpt.serving.served import Served

USUAL_TOKENS = 16
"""OpenAI's default of max_tokens."""

PAUSE = 0.04
"""Seconds between the pieces of a stream: what a fast model makes meanwhile goes out as one."""

LONG_ANSWER = 1000
"""Tokens from which an answer is written in a thread of its own: other requests would wait for it."""

LONGEST_PIECE = 2**16
"""Characters of a stream that are sent before other requests have their turn."""

MOST_LIKELY = 2**18
"""Log-probabilities in an answer. Until it is sent, Python looks at all of them each time it collects garbage."""

MOST_ECHOED = 2**22
"""Characters of prompts in an answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of what a request may ask for."""

    prompt_tokens: int = 16_384
    max_tokens: int = 4096
    seconds: float = 120.0


class _Prompt(NamedTuple):
    text: str
    ids: tuple[int, ...]


class _News:
    """Wakes a reader in the event loop from the engine's thread: once until it looks, as that takes time from both."""

    def __init__(self) -> None:
        self._loop, self._event, self._is_told = asyncio.get_running_loop(), asyncio.Event(), False

    def tell(self) -> None:
        """Report news, from any thread."""
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and there is no reader
                self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        """Wait for news."""
        await self._event.wait()
        self._event.clear()
        self._is_told = False


class Completions:
    """Answers requests for completions."""

    def __init__(self, engine: Engine, served: Served, limits: Limits, reader: Reader) -> None:
        """Answer with an engine's texts."""
        self._engine, self._served, self._limits = engine, served, limits
        self._reader, self._writer = reader, Aside("writer")

    async def complete(self, request: Request) -> Response:
        """Answer a request for completions."""
        asked, prompts, wishes = await self._reader.read(request, CompletionRequest, self._wishes)
        news = _News()

        def tell(job: Job) -> None:
            if asked.stream or job.is_over:
                news.tell()

        try:
            jobs = self._engine.submit(wishes, tell)
        except (BusyError, ClosedError) as error:
            raise problem_of(error) from error
        answer = _Answer(asked, prompts, jobs, news, self._engine, self._writer)
        return _Events(answer) if asked.stream else await answer.whole(request)

    def _wishes(self, asked: CompletionRequest) -> tuple[CompletionRequest, list[_Prompt], list[Wish]]:
        """Return a request with its prompts and texts, prompt by prompt. Raises an error that names the field."""
        self._served.require(asked.model)
        prompts, n = self._prompts(asked.prompt), asked.n or 1
        n_tokens = USUAL_TOKENS if asked.max_tokens is None else asked.max_tokens
        self._require_size(asked, prompts, n_tokens)
        sampling = self._sampling(asked)
        strings = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        ends = () if asked.ignore_eos else self._served.ends
        wishes = [
            Wish(
                prompt=prompt.ids,
                n_tokens=n_tokens,
                sampling=sampling,
                number=number,
                stop=Stop([string for string in strings if string], ends),
                n_top=asked.logprobs,
                has_echo=bool(asked.echo) and asked.logprobs is not None,
                n_before=len(prompt.text),
                seconds=self._limits.seconds,
            )
            for prompt in prompts
            for number in range(n)
        ]
        return asked, prompts, wishes

    def _require_size(self, asked: CompletionRequest, prompts: Sequence[_Prompt], n_tokens: int) -> None:
        """Raise an error that names the field if a request would take too much time or memory."""
        n, block_size = asked.n or 1, self._served.block_size
        most = min(MOST_TEXTS, self._engine.n_places + self._engine.n_waiting)
        if len(prompts) * n > most:
            raise bad(f"{len(prompts)} prompts with n = {n} are more than {most} texts.", "n")
        if asked.best_of not in {None, n}:
            raise bad(f"best_of is {asked.best_of}, and must be n = {n}: no text is left out here.", "best_of")
        if n_tokens > self._limits.max_tokens:
            raise bad(f"max_tokens is {n_tokens:,}, and at most {self._limits.max_tokens:,} here.", "max_tokens")
        if asked.stream_options and not asked.stream:
            raise bad("stream_options goes with stream = true.", "stream_options")
        n_echoed = n * sum(len(prompt.text) for prompt in prompts) if asked.echo else 0
        if n_echoed > MOST_ECHOED:
            raise bad(f"The prompts repeated would be {n_echoed:,} characters; at most {MOST_ECHOED:,}.", "echo")
        if asked.logprobs is None:
            return
        longest = max(len(prompt.ids) for prompt in prompts)
        if asked.echo and longest > block_size:
            message = f"The prompt has {longest:,} tokens; with echo and logprobs it may have {block_size:,}."
            raise bad(message, "prompt", "context_length_exceeded")
        n_scored = n * sum(n_tokens + (len(prompt.ids) if asked.echo else 0) for prompt in prompts)
        if n_scored * (asked.logprobs + 1) > MOST_LIKELY:
            message = f"{n_scored:,} tokens with logprobs = {asked.logprobs} are more than {MOST_LIKELY:,} numbers."
            raise bad(message, "logprobs")

    def _prompts(self, given: str | list[str] | list[int | None] | list[list[int | None]] | None) -> list[_Prompt]:
        """Return the prompts as texts and as ids. Raises an error if one is too long or not of the vocabulary."""
        several = given if isinstance(given, list) and isinstance(given[0], str | list) else [given]
        return [self._prompt(one) for one in several]

    def _prompt(self, given: Any) -> _Prompt:
        """Return one prompt as text and as ids. Raises an error if it is too long or not of the vocabulary."""
        is_text = not isinstance(given, list)
        text = given or self._served.beginning
        ids = self._served.encoded(text, "prompt").tolist() if is_text else self._served.with_beginning(given)
        if len(ids) > self._limits.prompt_tokens:
            message = f"The prompt has {len(ids):,} tokens, and may have {self._limits.prompt_tokens:,}."
            raise bad(message, "prompt", "context_length_exceeded")
        return _Prompt(text if is_text else self._served.decoded(ids, "prompt"), tuple(ids))

    def _sampling(self, asked: CompletionRequest) -> Sampling:
        """Return how to choose, with OpenAI's defaults. Raises an error for a bias of a token that is not there."""
        biases = {int(token): bias for token, bias in (asked.logit_bias or {}).items()}
        self._served.require_tokens(biases, "logit_bias")
        return Sampling(
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_k=None if asked.top_k in {0, -1} else asked.top_k,
            top_p=sys.float_info.min if asked.top_p == 0 else asked.top_p,  # OpenAI's may be 0: only the likeliest
            min_p=asked.min_p,
            repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
            frequency_penalty=asked.frequency_penalty or 0.0,
            presence_penalty=asked.presence_penalty or 0.0,
            logit_bias=tuple(biases.items()),
            seed=secrets.randbelow(2**63) if asked.seed is None else asked.seed % 2**63,  # OpenAI's may be negative
        )


class _Answer:
    """The answer to one request."""

    def __init__(
        self,
        asked: CompletionRequest,
        prompts: Sequence[_Prompt],
        jobs: list[Job],
        news: _News,
        engine: Engine,
        writer: Aside,
    ) -> None:
        self._asked, self._prompts, self._jobs = asked, prompts, jobs
        self._news, self._engine, self._writer = news, engine, writer
        self._id, self._created = f"cmpl-{secrets.token_hex(12)}", int(time.time())

    def cancel(self) -> None:
        """Drop the texts that are not over."""
        self._engine.cancel(self._jobs)

    async def whole(self, request: Request) -> Response:
        """Return all at once, or nothing if the client has left."""
        watcher = asyncio.create_task(self._watch(request))
        try:
            while not (watcher.done() or all(job.is_over for job in self._jobs)):
                await self._news.wait()
        finally:
            watcher.cancel()
            self.cancel()
        if watcher.done():
            return Response(status_code=CLIENT_LEFT)
        for job in self._jobs:
            if job.error:
                raise problem_of(job.error) from job.error
        usage = self._usage()
        is_long = (usage.total_tokens if self._asked.echo else usage.completion_tokens) > LONG_ANSWER
        content = await self._writer.do(self._written, usage) if is_long else self._written(usage)
        return Response(content, media_type="application/json")

    def _written(self, usage: Usage) -> bytes:
        """Return the answer's JSON. Its choices are written one by one: Python runs no other thread meanwhile."""
        choices = [
            self._choice(index, *job.take(), is_first=True, end=job.end).model_dump_json()
            for index, job in enumerate(self._jobs)
        ]
        before, after = self._completion([], usage).model_dump_json().split('"choices":[]')
        return f'{before}"choices":[{",".join(choices)}]{after}'.encode()

    async def _watch(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._news.tell()

    async def pieces(self) -> AsyncIterator[str]:
        """Yield events, as they come."""
        is_told = bool(self._asked.stream_options and self._asked.stream_options.get("include_usage"))
        unsaid = None if is_told else {"usage"}
        left, begun = dict(enumerate(self._jobs)), set[int]()
        while left:
            await self._news.wait()
            events, n_characters = list[str](), 0
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
                    n_characters += len(events[-1])
                if end:
                    del left[index]
                if n_characters > LONGEST_PIECE:  # of a client that has not read for long
                    yield "".join(events)
                    events, n_characters = [], 0
                    await asyncio.sleep(0)
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
    """Server-sent events. A client that leaves before the end frees its slots."""

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
