"""The trainer: a generator of events. Whoever iterates over it makes the run go on."""

import math
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from threadpoolctl import threadpool_limits

from scratchgpt.backend import Backend
from scratchgpt.data.dataset import Batch, Dataset
from scratchgpt.errors import TrainingError
from scratchgpt.model.gpt import GPT, Score
from scratchgpt.ops import adamw
from scratchgpt.training.checkpoint import Checkpoints, Snapshot
from scratchgpt.training.events import Ended, Evaluated, Evaluating, Event, Saved, StepDone
from scratchgpt.training.schedule import learning_rate


class Trainer:
    """One run, from its snapshot to its last step."""

    def __init__(self, snapshot: Snapshot, dataset: Dataset, run: Path, backend: Backend) -> None:
        """Take over the snapshot's state; checkpoints go to `run`. Raises UsageError if the data is too short."""
        dataset.require(snapshot.model.block_size)
        self.config = snapshot.train
        self.step = snapshot.step
        self.model = GPT(snapshot.model, backend, snapshot.params)
        self.checkpoints = Checkpoints(run)
        self._snapshot = snapshot
        self._dataset = dataset
        self._moments = adamw.Moments(*(backend.xp.asarray(moment) for moment in snapshot.moments))
        self._best_loss = snapshot.best_loss
        self._saved_step: int | None = None
        self._stopping = False

    def stop(self) -> None:
        """Save and end after the current step. May be called from a signal handler."""
        self._stopping = True

    def events(self) -> Iterator[Event]:
        """Train to the last step, or until `stop`. Raises TrainingError and CheckpointError."""
        with threadpool_limits(self._snapshot.blas_threads, user_api="blas"):
            if self.step == 0:
                yield from self._evaluate_windows()
            else:
                self._saved_step = self.step
            while self.step < self.config.steps and not self._stopping:
                yield self._train_step()
                is_last = self.step == self.config.steps
                if is_last or self._is_due(self.config.eval_every):
                    yield from self._evaluate_windows()
                if is_last or self._is_due(self.config.save_every):
                    yield from self._save()
            yield from self._save()
            is_finished = self.step >= self.config.steps
            if is_finished:
                yield from self._evaluate_whole()
            yield Ended(self.step, is_finished)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _train_step(self) -> StepDone:
        started = time.perf_counter()
        config = self.config
        block_size = self.model.config.block_size
        batch = self._dataset.batch(
            seed=config.seed, step=self.step, batch_size=config.batch_size, block_size=block_size
        )
        loss = self.model.loss_and_grad(*batch, seed=config.seed, step=self.step, micro_batch=config.micro_batch)
        rate = learning_rate(config, self.step)
        hyperparameters = adamw.Hyperparameters(rate, config.beta1, config.beta2, config.weight_decay)
        grad_norm = self.model.update(
            self._moments, hyperparameters, clip=config.grad_clip, update_number=self.step + 1
        )
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            last = self.checkpoints.pointed("last")
            raise TrainingError(
                f"At step {self.step + 1} the loss became {loss} and the gradients' norm {grad_norm}. The last good "
                f"checkpoint is {last}; resume it with a --learning-rate below {config.learning_rate:g}."
            )
        self.step += 1
        return StepDone(self.step, loss, rate, grad_norm, time.perf_counter() - started, batch.tokens.size)

    def _evaluate_windows(self) -> Iterator[Event]:
        """Measure on the fixed windows; the best model so far is saved at once."""
        n_windows, batch_size = self.config.eval_windows, self._evaluation_batch
        batches = self._dataset.validation_windows(
            n_windows=n_windows, batch_size=batch_size, block_size=self.model.config.block_size
        )
        loss = yield from self._evaluate(batches, math.ceil(n_windows / batch_size), is_whole=False)
        if math.isfinite(loss) and (self._best_loss is None or loss < self._best_loss):
            self._best_loss = loss
            yield from self._save(is_best=True)

    def _evaluate_whole(self) -> Iterator[Event]:
        """Measure on the whole validation part."""
        sizes = {"batch_size": self._evaluation_batch, "block_size": self.model.config.block_size}
        n_batches = self._dataset.n_whole_batches(**sizes)
        yield from self._evaluate(self._dataset.whole_validation(**sizes), n_batches, is_whole=True)

    @property
    def _evaluation_batch(self) -> int:
        return self.config.micro_batch or self.config.batch_size

    def _evaluate(self, batches: Iterator[Batch], n_batches: int, *, is_whole: bool) -> Generator[Event, None, float]:
        """Yield the progress and the result of an evaluation; return its loss."""
        scores: list[Score] = []
        for batch in batches:
            scores.append(self.model.score(*batch))
            yield Evaluating(self.step, len(scores), n_batches)
        n_targets = sum(score.n_targets for score in scores)
        loss = math.fsum(score.loss for score in scores) / n_targets
        accuracy = sum(score.n_correct for score in scores) / n_targets
        yield Evaluated(self.step, loss, accuracy, n_targets, is_whole)
        return loss

    def _save(self, *, is_best: bool = False) -> Iterator[Event]:
        """Write a checkpoint, unless this step has one."""
        if self._saved_step == self.step:
            return
        to_numpy = self.model.backend.to_numpy
        snapshot = self._snapshot._replace(
            params=to_numpy(self.model.params),
            moments=adamw.Moments(*(to_numpy(moment) for moment in self._moments)),
            step=self.step,
            best_loss=self._best_loss,
        )
        folder = self.checkpoints.save(snapshot, self._dataset.tokenizer, is_best=is_best)
        self._saved_step = self.step
        yield Saved(self.step, folder, is_best)
