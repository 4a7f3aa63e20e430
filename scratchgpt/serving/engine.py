"""Texts for many requests at once: each step adds a token to all that have a slot, and between steps they come and go.

One thread computes, a small piece of work at a time: a move of a text, a chunk of a prompt, or a step. Before each
piece it looks at closing, cancellations and deadlines, so none of these waits for a long prompt or a long text.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from scratchgpt.errors import ScratchGPTError
from scratchgpt.generation import suitable_threads
from scratchgpt.generation.decoder import Decoder, seen
from scratchgpt.generation.sampler import choose, log_probabilities, without
from scratchgpt.model.gpt import GPT
from scratchgpt.ops.array import Array
from scratchgpt.serving.job import Job, Scored, Wish
from scratchgpt.serving.live_text import Echo, LiveText
from scratchgpt.serving.schedule import QUANTUM, Request, Schedule
from scratchgpt.tokenizer import Tokenizer

CHUNK_WORK = 2**30
"""Multiply-adds for prompts before each step. A small model's prompts are all done at once, so that its texts remain in
step; of a large model's, at least one chunk is."""

KEPT_BYTES = 2**26
"""Keys and values of suspended texts in memory, or as many bytes as all slots have if that is more. Those of further
texts are computed again."""

RECOMPUTED = 4
"""Positions that may be computed again for each token of a turn: about the same time."""

SCAN_SECONDS = 0.05
"""Between looks at the deadlines of all texts that wait."""

CLOSE_SECONDS = 3.0
"""To wait for the thread to end. It ends after the piece that it computes."""

SCORED_ROWS = 64
"""Positions whose logits are computed at once where there are many: they stay in the cache of a core."""


class BusyError(ScratchGPTError):
    """The queue has no room for a request."""


class ClosedError(ScratchGPTError):
    """The engine has ended."""


class LateError(ScratchGPTError):
    """A text was not done in its time."""


class Engine:
    """A model, slots for a ragged batch of texts, a queue of those that wait, and the thread that computes."""

    def __init__(
        self, model: GPT, vocabulary: Tokenizer, *, n_places: int, n_waiting: int, ends: Sequence[int] = ()
    ) -> None:
        """Make room for `n_places` texts that are computed together, and for `n_waiting` that wait.

        `ends` are the ids that end the model's texts.
        """
        self.ends = ends
        self.vocabulary, self.n_places, self.n_waiting = vocabulary, n_places, n_waiting
        self.n_prompt_tokens, self.n_tokens_made, self.n_steps = 0, 0, 0
        self._model, self.config, self.block_size = model, model.config, model.config.block_size
        self._decoder = Decoder(model, n_places)
        self._cache = self._decoder.cache
        self._slots: list[LiveText] = []
        self._n_turns = 0
        self._most_positions = max(1, CHUNK_WORK // model.layout.size)  # of chunks, before a step
        self._n_positions = self._most_positions  # that are left before the next step
        self._next_scan = 0.0
        self._changed = threading.Condition()  # guards what follows
        self._texts: dict[Job, LiveText] = {}  # all that are not over
        self._schedule: Schedule[LiveText] = Schedule(n_places)
        self.n_kept_bytes, self._most_kept_bytes = 0, max(KEPT_BYTES, self._cache.nbytes)  # of suspended texts
        self.is_closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """The number of texts that have a slot."""
        return self._schedule.n_running

    @property
    def waiting(self) -> int:
        """The number of texts that wait for a slot."""
        return self._schedule.n_waiting

    def submit(self, wishes: Sequence[Wish], tell: Callable[[Job], None]) -> list[Job]:
        """Have the texts of a request made. Raises BusyError, or ClosedError.

        A request that comes while others are there may take half of the room that is left, so there always is room for
        a small one.
        """
        request = Request()
        echoes: dict[int, Echo] = {}
        texts = [
            LiveText(request, Job(wish, self.vocabulary, tell), self._echo(wish, echoes), self.block_size)
            for wish in wishes
        ]
        with self._changed:
            if self.is_closed:
                raise ClosedError("The server is shutting down.")
            n_free = self.n_places + self.n_waiting - len(self._texts)
            most = (n_free + 1) // 2 if self._texts else n_free
            if len(texts) > most:
                room = f", and a request may add {most} more now" if most else ""
                raise BusyError(f"{self.waiting} texts wait already{room}; try again later.")
            self._texts.update({text.job: text for text in texts})
            self._schedule.add(request)
            self.n_prompt_tokens += sum({id(wish.prompt): len(wish.prompt) for wish in wishes}.values())
            self._changed.notify()
        return [text.job for text in texts]

    def _echo(self, wish: Wish, echoes: dict[int, Echo]) -> Echo | None:
        """Return the place for the log-probabilities of a prompt: one for all texts of a prompt, or None."""
        if not wish.has_echo or wish.n_top is None:
            return None
        if id(wish.prompt) not in echoes:
            scored = Scored(self.vocabulary, wish.n_top, 0)
            scored.add(wish.prompt[-self.block_size :][0], None)
            echoes[id(wish.prompt)] = Echo(scored)
        return echoes[id(wish.prompt)]

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Drop texts of a client that has left. Those that have slots lose them before the next piece of work."""
        with self._changed:
            for job in jobs:
                job.is_cancelled = True
                text = self._texts.get(job)
                if text and not text.is_running:
                    self._forget(text)

    def close(self) -> None:
        """End within CLOSE_SECONDS; all texts that are not over fail."""
        with self._changed:
            self.is_closed = True
            self._changed.notify()
        self._fail_all()  # without waiting for the thread: clients read at once why there is no text
        self._thread.join(CLOSE_SECONDS)

    # ------------------------------------------------------------------------------- in the engine's thread

    def _work(self) -> None:
        try:
            self._model.backend.use()
            with suitable_threads(self._model):
                while self._work_once():
                    pass
        finally:
            with self._changed:
                self.is_closed = True
            self._fail_all()

    def _work_once(self) -> bool:
        """Wait for work and do a piece of it; return whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._texts or self.is_closed)
            if self.is_closed:
                return False
        try:
            self._drop_unwanted()
            if not (self.waiting and self._move()) and self._slots:
                self._compute()
        except Exception as error:  # noqa: BLE001 - whatever it was, the next texts may succeed
            self._fail_running(error)
        return True

    def _drop_unwanted(self) -> None:
        """Drop running texts that are late or cancelled and, now and then, waiting ones that are late."""
        now = time.monotonic()
        for text in [text for text in self._slots if text.job.deadline < now or text.job.is_cancelled]:
            self._leave(text)
            if not text.job.is_cancelled:
                text.job.fail(_late(text.job))
        if now < self._next_scan:
            return
        self._next_scan = now + SCAN_SECONDS
        with self._changed:
            late = [text for text in self._schedule.waiting() if text.job.deadline < now]
            for text in late:
                self._forget(text)
        for text in late:
            text.job.fail(_late(text.job))

    def _move(self) -> bool:
        """Give a slot to the text whose turn it is: that of another, which is suspended, or a free one. False: none."""
        with self._changed:
            move = self._schedule.next_move()
        if not move:
            return False
        entering, leaving = move
        slot = leaving.slot if leaving else len(self._slots)
        if leaving:
            self._suspend(leaving)
            self._slots[slot] = entering
        else:
            self._slots.append(entering)
            self._cache.n_used = len(self._slots)
        entering.slot = slot
        self._cache.lengths[slot] = 0
        if entering.kept is not None:
            self._cache.restore(slot, entering.kept)
            with self._changed:
                self._drop_kept(entering)
        entering.enter(self.config.vocab_size)
        entering.n_allowed = max(QUANTUM, self._n_missing(entering) // RECOMPUTED)
        entering.turn = self._next_turn()
        self._begin_if_ready(entering)
        return True

    def _suspend(self, text: LiveText) -> None:
        text.penalties = None
        self._keep(text.slot, text)

    def _keep(self, slot: int, text: LiveText) -> None:
        """Keep a slot's keys and values for a text that waits, if there is room."""
        n_bytes = self._cache.n_bytes(slot)
        if not n_bytes or self.n_kept_bytes + n_bytes > self._most_kept_bytes:
            return
        kept = self._cache.copy_of(slot)
        with self._changed:
            if text.job in self._texts:  # it may have been cancelled meanwhile
                text.kept = kept
                self.n_kept_bytes += n_bytes

    def _compute(self) -> None:
        """Compute a chunk of a prompt, or a step."""
        lengths = self._cache.lengths
        unready = [text for text in self._slots if len(text.recent) - 1 > lengths[text.slot]]
        if unready and (self._n_positions > 0 or len(unready) == len(self._slots)):
            self._extend(unready)
        else:
            self._n_positions = self._most_positions
            self._step(unready)

    def _extend(self, unready: list[LiveText]) -> None:
        """Compute a chunk of the prompt that has waited longest, at once for all texts that have the same.

        A text's last half, from which it goes on where it has filled block_size, is such a prompt.
        """
        first = min(unready, key=lambda text: text.turn)
        n = len(first.recent) - 1
        start = self._cache.lengths[first.slot]
        alike = [text for text in unready if self._cache.lengths[text.slot] == start and len(text.recent) == n + 1]
        group = [text for text in alike if text.recent[:-1] == first.recent[:-1]]
        echoes = {text.echo for text in group if text.echo and text.echo.n_done == start}
        # Small chunks for an echo, even again: a large one would begin before n_done, and would not be scored.
        is_alone = len(group) == len(self._texts) and not any(text.echo for text in group)
        chunk = self._decoder.next_chunk(first.slot, n, is_alone=is_alone)
        rows = [first.recent[chunk]]
        if len(group) == 1 and not echoes and chunk == slice(0, n):
            others = [text for text in alike if text is not first and not text.echo]
            group = [first, *others][: max(1, self._decoder.chunk_size // n)]
            rows = [text.recent[chunk] for text in group]
        n_last = len(rows[0]) if echoes else 0
        x = self._decoder.extend([text.slot for text in group], np.array(rows, np.int64), n_last)
        if echoes:
            self._score(x[0], first.recent[chunk.start + 1 : chunk.stop + 1], echoes)
        self._n_positions -= len(rows) * len(rows[0])
        for text in group:
            text.turn = self._next_turn()
            self._begin_if_ready(text)

    def _score(self, x: Array, following: Sequence[int], echoes: Iterable[Echo]) -> None:
        """Add the log-probabilities of the tokens that follow positions, given their residual stream x (T, C)."""
        for start in range(0, len(following), SCORED_ROWS):
            logits = self._model.backend.to_numpy(self._model.logits(x[start : start + SCORED_ROWS]))
            for token, scores in zip(following[start:], log_probabilities(logits), strict=False):
                for echo in echoes:
                    echo.scored.add(token, scores)
        for echo in echoes:
            echo.n_done += len(following)

    def _begin_if_ready(self, text: LiveText) -> None:
        """Give a text the log-probabilities of its prompt once they are known; end one that wants no tokens."""
        if self._n_missing(text):
            return
        if text.echo:
            text.job.echo(text.echo.scored)
            text.echo = None
        self._pass_on(text)
        if not text.job.wish.n_tokens:
            text.job.finish()
            self._leave(text)
            text.job.tell()

    def _pass_on(self, text: LiveText) -> None:
        """Keep the prompt's keys and values for the next text of the same request and prompt, which may begin later."""
        with self._changed:
            following = next(self._schedule.waiting_of(text), None)
        if following and following.kept is None and following.recent == text.recent:
            self._keep(text.slot, following)

    def _step(self, unready: Sequence[LiveText]) -> None:
        """Add a token to each text whose prompt has been computed; those that end leave."""
        is_unready = set(unready)
        ready = [text for text in self._slots if text not in is_unready]
        logits = self._decoder.step([text.recent[-1] for text in self._slots], idle=[text.slot for text in unready])
        kinds: dict[Hashable, list[LiveText]] = {}
        for text in ready:
            kinds.setdefault(text.kind, []).append(text)
        for texts in kinds.values():
            try:
                self._draw(texts, logits[[text.slot for text in texts]])
            except Exception as error:  # noqa: BLE001 - a failure ends the texts of this kind, not the others
                for text in texts:
                    text.job.error = text.job.error or error
                    self._cache.clear(text.slot)
        self.n_steps += 1
        for text in ready:
            if text.job.is_over:
                self._leave(text)
        for text in ready:
            text.job.tell()

    def _draw(self, texts: list[LiveText], logits: Array) -> None:
        """Add a token to texts of one kind, given the logits (B, V) of what follows."""
        penalties, sampling = texts[0].penalties, texts[0].job.wish.sampling
        penalised = penalties.applied(logits) if penalties else logits
        tokens = choose(without(penalised, self.vocabulary.unused), sampling, [text.uniform() for text in texts])
        for text, token, row in zip(texts, tokens.tolist(), logits, strict=True):
            text.job.add(token, None if text.job.wish.n_top is None else log_probabilities(row[None])[0])
            text.recent.append(token)
            text.n_allowed -= 1
            if text.penalties:
                text.penalties.count(np.array([token]))
            n_recent, text.recent = len(text.recent), seen(text.recent, self.block_size)
            if len(text.recent) < n_recent:  # it goes on from its last half
                self._cache.lengths[text.slot] = 0
        self.n_tokens_made += len(texts)

    def _n_missing(self, text: LiveText) -> int:
        """Return how many positions of a running text must be computed before its next step."""
        return len(text.recent) - 1 - self._cache.lengths[text.slot]

    def _next_turn(self) -> int:
        self._n_turns += 1
        return self._n_turns

    def _leave(self, text: LiveText) -> None:
        """Free a text's slot for the text in the last one."""
        with self._changed:
            self._forget(text)
        last = self._slots.pop()
        if last is not text:
            self._slots[text.slot], last.slot = last, text.slot
        self._cache.release(text.slot)

    def _fail_running(self, error: Exception) -> None:
        """Free all slots; their texts fail."""
        with self._changed:
            texts = [text for text in self._texts.values() if text.is_running]
            for text in texts:
                self._forget(text)
        self._slots.clear()
        self._cache.n_used = 0
        for text in texts:
            text.job.fail(error)

    # ------------------------------------------------------------------------------------------ in any thread

    def _forget(self, text: LiveText) -> None:
        """Remove a text that is over or was cancelled; the caller holds the lock."""
        if self._texts.pop(text.job, None):
            self._schedule.remove(text)
            self._drop_kept(text)

    def _drop_kept(self, text: LiveText) -> None:
        """Free a suspended text's keys and values; the caller holds the lock."""
        if text.kept is not None:
            self.n_kept_bytes -= text.kept.nbytes
            text.kept = None

    def _fail_all(self) -> None:
        """Let all texts that are not over fail, as nothing more will be computed."""
        with self._changed:
            jobs = list(self._texts)
        for job in jobs:
            job.fail(ClosedError("The server is shutting down."))


def _late(job: Job) -> LateError:
    """Return why a text is given up."""
    verb = "done" if job.n_made else "begun"
    return LateError(f"The text was not {verb} in {job.wish.seconds:g} seconds.")
