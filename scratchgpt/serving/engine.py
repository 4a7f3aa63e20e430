"""Texts for many readers at once: each step adds a token to all of them, and between steps texts come and go.

One thread computes. Others submit wishes, are told when there is news, and take it whenever they like.
"""

import codecs
import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.chance import Place, philox
from scratchgpt.errors import ScratchGPTError
from scratchgpt.generation import Sampling, Stop, Text, suitable_threads
from scratchgpt.generation.ragged_cache import RaggedCache
from scratchgpt.generation.sampler import Penalties, choose, log_probabilities
from scratchgpt.generation.text import bytes_of
from scratchgpt.model.gpt import GPT
from scratchgpt.ops.array import Array
from scratchgpt.tokenizer import Tokenizer

ROWS = 64
"""Positions that are computed at once where there are many: what they need stays in the cache of a core."""


CONTINUING = {bytes([byte]) for byte in range(0x80, 0xC0)}
"""What UTF-8 has inside a character."""


class BusyError(ScratchGPTError):
    """As many texts wait as may."""


class ClosedError(ScratchGPTError):
    """The engine has ended."""


class LateError(ScratchGPTError):
    """A text was not done in its time."""


class Likely(NamedTuple):
    """How likely a token was to the model."""

    token: str  # its text, or bytes:\x.. if it is a part of a character
    offset: int  # how many characters of prompt and text stand before it
    log_probability: float | None  # None for the first token of a prompt
    top: dict[str, float] | None  # of the likeliest tokens, and of this one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """What is wanted: a text that goes on from a prompt."""

    prompt: Sequence[int]
    n_tokens: int
    sampling: Sampling
    number: int = 0  # the text's among those of the seed
    stop: Stop
    n_top: int | None = None  # how many of the likeliest tokens to name beside each; None: nothing about how likely
    has_echo: bool = False  # whether that is wanted for the prompt's tokens too, which must fit into block_size
    n_before: int = 0  # characters of the prompt, from whose beginning offsets count
    seconds: float  # that it may take, waiting included


class Job:
    """A text in the making: the engine's thread writes, a reader takes."""

    def __init__(self, wish: Wish, vocabulary: Tokenizer, tell: "Callable[[Job], None]") -> None:
        """Begin; `tell` is called in the engine's thread whenever there may be something to take."""
        self.wish, self._tell = wish, tell
        self.n_made = 0  # tokens, one that ended the text included
        self.end: Literal["stop", "length"] | None = None
        self.error: Exception | None = None  # why there is no end
        self.is_cancelled = False
        self.deadline = time.monotonic() + wish.seconds
        self._vocabulary = vocabulary
        self._news: deque[tuple[str, list[Likely]]] = deque()
        self._text = Text(vocabulary, wish.stop)
        # Of tokens in text that is held back:
        self._likely: deque[Likely] = deque()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0 if wish.has_echo else wish.n_before

    @property
    def is_over(self) -> bool:
        """Whether nothing will follow but what can be taken."""
        return self.end is not None or self.error is not None

    def take(self) -> tuple[str, list[Likely]]:
        """Return what is new: text, and, if that was wanted, how likely its tokens were."""
        news = [self._news.popleft() for _ in range(len(self._news))]
        return "".join(text for text, _ in news), [likely for _, several in news for likely in several]

    def tell(self) -> None:
        """Tell the reader that there may be something to take."""
        self._tell(self)

    def add(self, token: int, scores: npt.NDArray[np.float64] | None) -> None:
        """Add a token that was drawn, given, if that is wanted, how likely all tokens were (V,)."""
        self.n_made += 1
        shown = self._text.add(token)
        if scores is not None and self._text.end != "token":
            self.describe(token, scores)
        if self.n_made == self.wish.n_tokens:
            shown += self._text.finish()
        self._hand_over(shown)

    def finish(self) -> None:
        """End as no tokens are wanted."""
        self._hand_over(self._text.finish())

    def describe(self, token: int, scores: npt.NDArray[np.float64] | None) -> None:
        """Keep how likely a token was, given how likely all were (V,); None where there was nothing to go by."""
        name, data = self._name(token), bytes_of(token, self._vocabulary.decode_bytes)
        if self._decoder.getstate()[0] and data[:1] not in CONTINUING:  # what was begun will not be completed
            self._offset += len(self._decoder.decode(b"", final=True))
        if scores is None:
            self._likely.append(Likely(name, self._offset, None, None))
        else:
            best = np.argsort(-scores, kind="stable")[: self.wish.n_top].tolist()
            top = {self._name(other): float(scores[other]) for other in (*best, token)}
            self._likely.append(Likely(name, self._offset, float(scores[token]), top))
        self._offset += len(self._decoder.decode(data))

    def _name(self, token: int) -> str:
        """Return a token's text as OpenAI writes it."""
        data = bytes_of(token, self._vocabulary.decode_bytes)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _hand_over(self, shown: str) -> None:
        """Give the reader text, and what is known of the tokens in it: none of what stands after the end."""
        has_ended_before = self._text.end == "string"
        n_shown = self.wish.n_before + self._text.n_shown
        limit = math.inf if self._text.end and not has_ended_before else n_shown
        likely = []
        while self._likely and self._likely[0].offset < limit:
            likely.append(self._likely.popleft())
        if shown or likely:
            self._news.append((shown, likely))
        if self._text.end:
            self.end = "length" if self._text.end == "length" else "stop"


class _Running:
    """What the engine keeps of a job that has a place."""

    def __init__(self, job: Job, model: GPT) -> None:
        wish = job.wish
        self.job = job
        self.recent = list(wish.prompt[-model.config.block_size :])  # the tokens that the cache has
        self.token = 0  # the last one drawn
        self._generator = np.random.Generator(philox(Place.SAMPLE, seed=wish.sampling.seed, sequence=wish.number))
        self.penalties = None
        if wish.sampling.has_penalties:
            self.penalties = Penalties(wish.sampling, wish.prompt, (1, model.config.vocab_size))
        # Those of one kind are drawn together.
        self.kind: Hashable = self
        if not self.penalties:
            self.kind = dataclasses.astuple(dataclasses.replace(wish.sampling, seed=0))

    def uniform(self) -> float:
        """Return the text's next random number."""
        return self._generator.random()

    def add(self, token: int, logits: Array) -> None:
        """Add the token that was drawn from logits (V,)."""
        self.token = token
        if self.penalties:
            self.penalties.count(np.array([token]))
        wants_scores = self.job.wish.n_top is not None
        self.job.add(token, log_probabilities(logits[None])[0] if wants_scores else None)


class Engine:
    """A model, a ragged batch of texts, those that wait for a place in it, and the thread that computes."""

    def __init__(self, model: GPT, vocabulary: Tokenizer, *, n_places: int, n_waiting: int) -> None:
        """Make room for `n_places` texts that are computed together, and for `n_waiting` that wait."""
        self.vocabulary, self.n_places, self.n_waiting = vocabulary, n_places, n_waiting
        self.n_prompt_tokens, self.n_tokens_made, self.n_steps = 0, 0, 0
        self._model, self.config, self.block_size = model, model.config, model.config.block_size
        self._cache = RaggedCache(model, n_places)
        self._running: list[_Running] = []  # by place
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()  # guards `_waiting` and `_is_closed`
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """How many texts are being made."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many texts wait for a place."""
        return len(self._waiting)

    def submit(self, wishes: Sequence[Wish], tell: Callable[[Job], None]) -> list[Job]:
        """Have texts made. Raises BusyError, or ClosedError."""
        jobs = [Job(wish, self.vocabulary, tell) for wish in wishes]
        with self._changed:
            if self._is_closed:
                raise ClosedError("The server is shutting down.")
            n_free = self.n_places - len(self._running)
            if len(self._waiting) + len(jobs) > self.n_waiting + n_free:
                raise BusyError(f"{len(self._waiting)} texts wait already; try again later.")
            self._waiting.extend(jobs)
            self._changed.notify()
        return jobs

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Make no more of these texts: nobody reads them. They lose their places before the next step."""
        for job in jobs:
            job.is_cancelled = True
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.is_cancelled)

    def close(self) -> None:
        """End; what is not done yet never will be."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        """Run in the engine's thread."""
        with suitable_threads(self._model):
            while self._work_once():
                pass

    def _work_once(self) -> bool:
        """Wait for work and do a step of it; return whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._is_closed)
            if self._is_closed:
                self._fail([*self._waiting, *self._release_all()], ClosedError("The server is shutting down."))
                return False
            admitted = self._admitted()
        try:
            self._begin(admitted)
            self._draw()
            self._step()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next texts may succeed
            self._fail([*admitted, *self._release_all()], error)
        return True

    def _admitted(self) -> list[Job]:
        """Give up jobs that nobody wants or that are late; take those from the queue that begin now.

        They have one prompt, which is computed once; other prompts wait for the next step, so that the texts in the
        making wait for one prompt at most.
        """
        now = time.monotonic()
        for place in reversed(range(len(self._running))):
            job = self._running[place].job
            if job.deadline < now:
                self._fail([job], LateError(f"The text was not done in {job.wish.seconds:g} seconds."))
            if job.is_cancelled or job.is_over:
                self._leave(place)
        while self._waiting and self._waiting[0].deadline < now:
            job = self._waiting.popleft()
            self._fail([job], LateError(f"The text was not begun in {job.wish.seconds:g} seconds."))
        admitted: list[Job] = []
        n_free = self.n_places - len(self._running)
        while self._waiting and len(admitted) < n_free:
            if admitted and self._waiting[0].wish.prompt != admitted[0].wish.prompt:
                break
            admitted.append(self._waiting.popleft())
        return admitted

    def _begin(self, jobs: list[Job]) -> None:
        """Give jobs of one prompt their places."""
        if not jobs:
            return
        first = len(self._running)
        self.n_prompt_tokens += len(jobs[0].wish.prompt)
        self._running += [_Running(job, self._model) for job in jobs]
        self._cache.n_used = len(self._running)
        prompt = self._running[first].recent
        echoing = [job for job in jobs if job.wish.has_echo]
        places = list(range(first, len(self._running)))
        x = self._cache.prefill(places, np.array([prompt], np.int64), only_last=not echoing)
        if echoing:
            self._describe(prompt, x[0], echoing)
        for place in reversed(range(first, len(self._running))):
            job = self._running[place].job
            if not job.wish.n_tokens:
                job.finish()
                self._leave(place)
                job.tell()

    def _describe(self, prompt: Sequence[int], x: Array, jobs: list[Job]) -> None:
        """Say how likely a prompt's tokens were, given their residual stream x (T, C)."""
        for job in jobs:
            job.describe(prompt[0], None)
        for start in range(0, len(prompt) - 1, ROWS):
            logits = self._model.backend.to_numpy(self._model.logits(x[start : start + ROWS]))
            for token, scores in zip(prompt[start + 1 :], log_probabilities(logits), strict=False):
                for job in jobs:
                    job.describe(token, scores)

    def _draw(self) -> None:
        """Add a token to each text; those that end lose their places."""
        kinds: dict[Hashable, list[int]] = {}
        for place, running in enumerate(self._running):
            kinds.setdefault(running.kind, []).append(place)
        for places in kinds.values():
            those = [self._running[place] for place in places]
            logits = self._cache.logits[places]
            penalised = those[0].penalties.applied(logits) if those[0].penalties else logits
            tokens = choose(penalised, those[0].job.wish.sampling, [running.uniform() for running in those])
            for running, token, row in zip(those, tokens.tolist(), logits, strict=True):
                running.add(token, row)
        self.n_tokens_made += len(self._running)
        self.n_steps += bool(self._running)
        jobs = [running.job for running in self._running]
        for place in reversed(range(len(jobs))):
            if jobs[place].is_over:
                self._leave(place)
        for job in jobs:
            job.tell()

    def _step(self) -> None:
        """Make the logits of what follows; a text that has filled block_size goes on from its last half."""
        full = [place for place, running in enumerate(self._running) if len(running.recent) == self.block_size]
        for running in self._running:
            running.recent.append(running.token)
        if len(full) < len(self._running):
            self._cache.step([running.token for running in self._running])
        n_kept = max(1, self.block_size // 2)
        at_once = max(1, ROWS // n_kept)
        for start in range(0, len(full), at_once):
            some = full[start : start + at_once]
            for place in some:
                self._running[place].recent = self._running[place].recent[-n_kept:]
            self._cache.prefill(some, np.array([self._running[place].recent for place in some], np.int64))

    def _leave(self, place: int) -> None:
        """Give a place to the text in the last one."""
        self._cache.release(place)
        last = self._running.pop()
        if place < len(self._running):
            self._running[place] = last

    def _release_all(self) -> list[Job]:
        """Take all texts from their places."""
        jobs = [running.job for running in self._running]
        self._running.clear()
        self._cache.n_used = 0
        return jobs

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        for job in jobs:
            if not job.is_over:
                job.error = error
                job.tell()
