"""The trainer: a generator of events. Whoever iterates over it makes the run go on."""

import dataclasses
import itertools
import math
import queue
import time
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from scratchgpt.data.dataset import Batch, Dataset
from scratchgpt.engine.base import open_engine
from scratchgpt.errors import DataError, LaneError, MemoryShortageError, TrainingError, UsageError, fact_of, for_page
from scratchgpt.generation import default_prompt, write
from scratchgpt.machine import resident_memory
from scratchgpt.model.formats import format_for
from scratchgpt.ops.adamw import clip_scale
from scratchgpt.ops.optimizer import Update
from scratchgpt.training import checkpoint
from scratchgpt.training.backoff import MOST_SKIPPED, RECOVERY, Backoff
from scratchgpt.training.commands import Command, Evaluate, Pause, Resume, Sample, Save, Stop
from scratchgpt.training.events import (
    Ended,
    Evaluated,
    Evaluating,
    Event,
    Noted,
    Paused,
    Resumed,
    Sampled,
    Saved,
    Started,
    StepDone,
)
from scratchgpt.training.schedule import learning_rate
from scratchgpt.training.snapshot import Snapshot
from scratchgpt.training.store import Checkpoints, step_of
from scratchgpt.wording import time_left

PACE_STEPS = 10
"""Steps after which a run says how long the others will take."""
PATIENCE = 0.5
"""Seconds after which a trainer that waits looks up: where signals cannot interrupt it, they are heard then."""


class Trainer:
    """One run, from its snapshot to its last step."""

    def __init__(self, snapshot: Snapshot, dataset: Dataset, run: Path) -> None:
        """Take over the snapshot's state; checkpoints go to `run`.

        Raises UsageError if the data is too short or there is no such device, MemoryError if there is not enough.
        """
        train = snapshot.train
        dataset.require(snapshot.model.block_size, order=train.order, within_documents=train.within_documents)
        self.config = train
        self.run = run
        self.engine = open_engine(
            snapshot.model, train, snapshot.params, snapshot.slots, snapshot.plan, loss_scale=snapshot.loss_scale
        )
        self.model = self.engine.gpt
        self.checkpoints = Checkpoints(run)
        self._snapshot = snapshot._replace(params=self.model.params, slots=self.engine.slots)
        self._dataset = dataset
        self._saved_at = time.monotonic()
        self._has_warned = False
        self._seconds: deque[float] = deque(maxlen=PACE_STEPS)  # that the last steps took
        self._stopping = False
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()

    @property
    def started(self) -> Started:
        """What there is to say of the run before its first event."""
        plan = self.engine.plan
        return Started(self.run, self.step, self.config.steps, self.model.layout.size, plan.device)

    def tell(self, command: Command) -> None:
        """Have a command obeyed after the current step. May be called from any thread and from a signal handler."""
        if isinstance(command, Stop):
            self._stopping = True
        self._commands.put(command)

    @property
    def step(self) -> int:
        """How many updates there have been."""
        return self._snapshot.step

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do, be it that the validation loss has long not become better."""
        return self._snapshot.is_finished

    @property
    def is_early(self) -> bool:
        """Whether the run is finished before its last step."""
        return self.is_finished and self.step < self.config.steps

    @property
    def n_epochs(self) -> float:
        """How often the whole run sees as many tokens as there are to train on."""
        tokens = self.config.steps * self.config.batch_size * self.model.config.block_size
        return tokens / self._dataset.train.size

    def stop(self) -> None:
        """Save and end after the current step. May be called from any thread and from a signal handler."""
        self.tell(Stop())

    def events(self) -> Iterator[Event]:
        """Train to the last step, or until `stop`. Raises TrainingError, CheckpointError and MemoryError."""
        try:
            # Numbers that overflow are found where the loss is looked at.
            with np.errstate(all="ignore"), self.engine.running():
                yield from self._run()
        except LaneError as error:
            raise TrainingError(
                f"{error} The run's last checkpoint is {self.checkpoints.pointed('last')}.",
                advice="Go on with --resume, and if memory is short with fewer --lanes or a smaller --micro-batch.",
                page="Press Continue from checkpoint; if memory is short, end other programs first.",
            ) from error

    def _run(self) -> Iterator[Event]:
        for note in (self.engine.note, format_for(self.model.config).note):
            if note:
                yield Noted(note)
        yield from self._warn_of_full_disk()
        if self.step == 0:
            yield from self.save()  # a full disk shows now, not after an hour
        yield from self._evaluate_if_due()
        first = self.step
        while not self.is_finished and not self._stopping:
            yield from self._train_step()
            if self.step == first + PACE_STEPS < self.config.steps:
                yield Noted(self._outlook())
            yield from self._evaluate_if_due()
            if self._is_save_due():
                yield from self.save()
            if self._is_due(self.config.sample_every):
                yield from self._sample(Sample())
            yield from self._obey()
        yield from self.save()
        if self.is_finished:
            yield from self._evaluate_whole()
            yield from self._obey()
        yield Ended(self.step, is_finished=self.is_finished, is_early=self.is_early)

    def _obey(self) -> Iterator[Event]:
        """Do what the trainer has been told, in that order; after a pause, wait for more."""
        is_paused = False
        while not self._stopping and (is_paused or not self._commands.empty()):
            try:
                command = self._commands.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            match command:
                case Pause() if not is_paused:
                    is_paused = True
                    yield Paused(self.step)
                case Resume() if is_paused:
                    is_paused = False
                    yield Resumed(self.step)
                case Save():
                    yield from self._save_anyhow()
                case Evaluate():
                    yield (yield from self._evaluate(*self._windows(), is_whole=False))
                case Sample():
                    yield from self._sample(command)

    def _save_anyhow(self) -> Iterator[Event]:
        """Save, or say that there is nothing new to save."""
        events = list(self.save())
        yield from events or [Noted(f"step {self.step:,}: it is saved already")]

    def _sample(self, sample: Sample) -> Iterator[Event]:
        """Write a text with the present weights."""
        vocabulary = self._dataset.tokenizer
        prompt = default_prompt(vocabulary) if sample.prompt is None else sample.prompt
        try:
            for text in write(self.model, vocabulary, prompt, sample.n_tokens, sample):
                yield Sampled(self.step, text)
                if self._stopping:
                    break
        except (DataError, UsageError, MemoryError) as error:
            yield Noted(f"step {self.step:,}: no sample: {fact_of(error)}")
        yield Sampled(self.step, "", is_last=True)

    def save(self) -> Iterator[Event]:
        """Write a checkpoint of the present state, unless there is one. Raises CheckpointError."""
        last = self.checkpoints.pointed("last")
        if last is not None and step_of(last) == self.step:
            return
        yield from self._warn_of_full_disk()
        state = self._snapshot
        to_numpy = self.model.backend.to_numpy
        snapshot = state._replace(
            params=to_numpy(state.params),
            slots={name: to_numpy(values) for name, values in state.slots.items()},
            loss_scale=self.engine.loss_scale or state.loss_scale,
        )
        folder = checkpoint.save(self.checkpoints, snapshot, self._dataset.tokenizer)
        self._saved_at = time.monotonic()
        yield Saved(self.step, folder)

    def _warn_of_full_disk(self) -> Iterator[Event]:
        """Say so, once, if there might be no room for the next checkpoints."""
        n_numbers = (1 + len(self.engine.slots)) * self.model.layout.size
        needed, free = 2 * 4 * n_numbers, self.checkpoints.free_bytes()
        if free < needed and not self._has_warned:
            self._has_warned = True
            yield Noted(
                f"Only {free / 1e6:,.1f} MB are free for {self.run}, and two more checkpoints need "
                f"{needed / 1e6:,.1f} MB: make room before the disk is full."
            )

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _is_save_due(self) -> bool:
        if self._snapshot.backoff.n_skipped:
            return False  # perhaps the weights are broken: let no good checkpoint go for them
        minutes = (time.monotonic() - self._saved_at) / 60
        is_time = 0 < self.config.save_minutes <= minutes
        return is_time or self._is_due(self.config.save_every) or self._is_due(self.config.keep_every)

    def _train_step(self) -> Iterator[Event]:
        started = time.perf_counter()
        config = self.config
        block_size = self.model.config.block_size
        batch = self._dataset.batch(
            seed=config.seed,
            step=self.step,
            batch_size=config.batch_size,
            block_size=block_size,
            order=config.order,
            within_documents=config.within_documents,
        )
        data_seconds = time.perf_counter() - started
        try:
            loss = self.engine.accumulate(*batch, seed=config.seed, step=self.step)
        except MemoryError as error:
            raise (yield from self._saved_before(error)) from error
        state = self._snapshot
        rate = state.backoff.factor * learning_rate(config, self.step)
        grad_norm = self._update(rate) if math.isfinite(loss) else self._drop(math.nan)
        note, backoff = "", state.backoff.after_update()
        if not math.isfinite(grad_norm):
            note, backoff = self._skipped(loss, grad_norm)
        self._snapshot = state._replace(step=self.step + 1, backoff=backoff)
        seconds = time.perf_counter() - started
        self._seconds.append(seconds)
        yield StepDone(
            step=self.step,
            loss=loss,
            learning_rate=rate,
            grad_norm=grad_norm,
            seconds=seconds,
            n_tokens=batch.tokens.size,
            device_bytes=self.engine.device_bytes(),
            data_seconds=data_seconds,
            resident_bytes=resident_memory(),
        )
        if note:
            yield Noted(f"step {self.step:,}: {note}")

    def _update(self, rate: float) -> float:
        """Move the parameters by the clipped gradients, unless their norm is not finite; return it."""
        self.engine.reduce()
        norm = self.engine.norm()
        if not math.isfinite(norm):
            return self._drop(norm)
        self.engine.update(Update(rate, clip_scale(norm, self.config.grad_clip), number=self.step + 1))
        return norm

    def _drop(self, norm: float) -> float:
        """Leave the parameters as they are; return the norm."""
        self.engine.drop()
        return norm

    def _skipped(self, loss: float, grad_norm: float) -> tuple[str, Backoff]:
        """Say why the weights stay as they were, and what follows. Raises TrainingError if the run is to end."""
        scale, backoff = self.engine.loss_scale, self._snapshot.backoff
        if scale is not None and not scale.is_exhausted:
            return (
                "gradients overflowed in half precision; the weights stay as they were, and the next gradients are "
                f"scaled by {scale.value:,.0f}"
            ), backoff
        backoff = backoff.after_skip()
        if self.config.on_nan == "stop" or backoff.n_skipped == MOST_SKIPPED:
            raise self._diverged(self.step + 1, loss, grad_norm)
        return (
            f"the loss was {loss:g} and the norm of its gradient {grad_norm:g}; the weights stay as they were, and the "
            f"learning rate is {backoff.factor:g} of the schedule's for the next {RECOVERY} updates"
        ), backoff

    def _outlook(self) -> str:
        """Return how long the steps that are left will take, if they are like the last ones."""
        left, pace = self.config.steps - self.step, median(self._seconds)
        speed = self.config.batch_size * self.model.config.block_size / pace
        return (
            f"step {self.step:,}: {speed:,.0f} tokens/s; the {left:,} steps that are left take about "
            f"{time_left(left * pace)}, evaluations not counted"
        )

    def _saved_before(self, error: MemoryError) -> Generator[Event, None, MemoryError]:
        """Save, so that no steps are lost, and return the error with what to do about it."""
        yield from self.save()
        last = self.checkpoints.pointed("last")
        return MemoryShortageError(
            advice=f"{str(error).rstrip('.')}. The run is saved in {last}; go on with --resume.",
            page=f"{for_page(error).rstrip('.')}. The run is saved in {last}; press Continue from checkpoint.",
        )

    def _diverged(self, step: int, *numbers: float) -> TrainingError:
        """Return the error of a run that has come to numbers that are none."""
        return TrainingError(
            f"At step {step} the loss or its gradient became {' and '.join(f'{number:g}' for number in numbers)}: "
            f"the run has diverged. Its last checkpoint is {self.checkpoints.pointed('last')}.",
            advice=f"Go on from that or an earlier one with a --learning-rate below {self.config.learning_rate:g}.",
            page=f"Start a run with a learning_rate below {self.config.learning_rate:g}.",
        )

    def _evaluate_if_due(self) -> Iterator[Event]:
        """Evaluate on the windows if this step asks for it and it has not been done."""
        is_asked = self.step in (0, self.config.steps) or self._is_due(self.config.eval_every)
        if is_asked and self._snapshot.last_evaluation != self.step:
            yield from self._evaluate_windows()

    def _evaluate_windows(self) -> Iterator[Event]:
        """Measure on the fixed windows; the best model so far is saved at once."""
        result = yield from self._evaluate(*self._windows(), is_whole=False)
        if not math.isfinite(result.loss):
            raise self._diverged(self.step, result.loss)
        state = self._snapshot._replace(last_evaluation=self.step)
        is_best = state.best_loss is None or result.loss < state.best_loss
        if is_best:
            self._snapshot = state._replace(best_loss=result.loss, best_step=self.step, n_worse=0)
        else:
            self._snapshot = state._replace(n_worse=state.n_worse + 1)
        yield dataclasses.replace(result, is_best=is_best)
        if is_best:
            yield from self.save()
            self.checkpoints.mark_best(self.step)

    def _windows(self) -> tuple[Iterator[Batch], int]:
        """Return the fixed windows and how many batches they are."""
        n_windows, batch_size = self.config.eval_windows, self._evaluation_batch
        batches = self._dataset.validation_windows(
            n_windows=n_windows,
            batch_size=batch_size,
            block_size=self.model.config.block_size,
            within_documents=self.config.within_documents,
        )
        return batches, math.ceil(n_windows / batch_size)

    def _evaluate_whole(self) -> Iterator[Event]:
        """Measure on the whole validation part, unless somebody asks to stop."""
        sizes = {"batch_size": self._evaluation_batch, "block_size": self.model.config.block_size}
        part = self._dataset.val
        batches = itertools.takewhile(lambda _: not self._stopping, self._dataset.whole(part, **sizes))
        result = yield from self._evaluate(batches, self._dataset.n_whole_batches(part, **sizes), is_whole=True)
        if not self._stopping:
            yield result

    @property
    def _evaluation_batch(self) -> int:
        return min(self.engine.plan.lanes * self.engine.plan.micro_batch, self.config.batch_size)

    def _evaluate(
        self, batches: Iterator[Batch], n_batches: int, *, is_whole: bool
    ) -> Generator[Event, None, Evaluated]:
        """Yield the progress of an evaluation; return its result."""
        loss, n_correct, n_targets = 0.0, 0, 0
        for done, batch in enumerate(batches, start=1):
            try:
                score = self.engine.score(*batch)
            except MemoryError as error:
                raise (yield from self._saved_before(error)) from error
            loss, n_correct, n_targets = loss + score.loss, n_correct + score.n_correct, n_targets + score.n_targets
            yield Evaluating(self.step, done, n_batches)
        return Evaluated(self.step, loss / max(n_targets, 1), n_correct / max(n_targets, 1), n_targets, is_whole)
