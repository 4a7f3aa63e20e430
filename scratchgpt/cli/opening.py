"""Open a run for training: a new run, or one to resume."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scratchgpt.cli import say
from scratchgpt.cli.options import require_cpu_for, resolved
from scratchgpt.config import ModelConfig, Recipe, Setting, TrainConfig
from scratchgpt.errors import DataError, TrainingError, UsageError
from scratchgpt.files import safe_name
from scratchgpt.lock import FolderLock

KEPT = ("seed", "optimizer")
"""Settings of the recipe that a resumed run keeps."""

if TYPE_CHECKING:  # imported when a command runs
    from scratchgpt.data.dataset import Dataset
    from scratchgpt.engine.plan import Plan
    from scratchgpt.ops.array import Array
    from scratchgpt.training.snapshot import Snapshot
    from scratchgpt.training.trainer import Trainer

CHECKING = "Checking the data ..."


class Computing(NamedTuple):
    """How it was asked to compute; None where it was not."""

    device: str | None
    precision: str | None
    lanes: int | None

    def on(self, device: str) -> "Computing":
        """Return it with the device that was asked for, or this one, as cpu or gpu:N. Raises UsageError."""
        device = resolved(self.device or device)
        require_cpu_for(self.lanes, device)
        return self._replace(device=device)

    def plan(self, model: ModelConfig, train: TrainConfig) -> "Plan":
        """Return the default plan. Raises UsageError for what does not go together."""
        from scratchgpt.engine.plan import default_plan

        device = self.device or "cpu"
        return default_plan(model, train, lanes=self.lanes, device=device, precision=self.precision or "fp32")


@contextlib.contextmanager
def new_run(
    recipe: Recipe,
    data: Path | None,
    run: Path | None,
    init: Path | None,
    computing: Computing,
    *,
    tune: bool,
    force: bool,
) -> Iterator["Trainer"]:
    """Yield the trainer of a new run in a folder that is locked. An older run in it stays unless `force`."""
    from scratchgpt.cli.progress import waiting
    from scratchgpt.data.dataset import Dataset
    from scratchgpt.engine.tuning import tuned_plan
    from scratchgpt.training import sinks
    from scratchgpt.training.places import claimed_run, newest_data
    from scratchgpt.training.snapshot import fresh
    from scratchgpt.training.store import Checkpoints
    from scratchgpt.training.trainer import Trainer

    train = TrainConfig.from_mapping(recipe.of(TrainConfig))
    weights, ends = None, tuple[int, ...]()
    with waiting(CHECKING):
        dataset = Dataset.open(data or newest_data())
        vocab_size = dataset.tokenizer.vocab_size
        if init is not None:
            recipe, weights, vocab_size, ends = _weights(init, recipe, dataset)
        model = ModelConfig.from_mapping(recipe.of(ModelConfig) | {"vocab_size": vocab_size})
        dataset.require(model.block_size, order=train.order, within_documents=train.within_documents)
    if run and not force:
        _require_empty(run)  # before anything that takes time
    snapshot = fresh(model, train, dataset, computing.plan(model, train), params=weights, ends=ends)
    del weights
    if tune and snapshot.plan.device == "cpu":
        with waiting("Measuring what suits this machine ..."):
            snapshot = snapshot._replace(plan=tuned_plan(model, train, lanes=computing.lanes))
    name = f"{safe_name(dataset.folder.resolve().name)}-{safe_name(recipe.name)}"
    with contextlib.nullcontext(run) if run else claimed_run(name) as folder:
        trainer = Trainer(snapshot, dataset, folder)
        del snapshot  # whose arrays the trainer has copied
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if not force:
                _require_empty(folder)
            Checkpoints(folder).clear()
            (folder / "log.jsonl").unlink(missing_ok=True)
            sinks.clear(folder)
            yield trainer


def _weights(init: Path, recipe: Recipe, dataset: "Dataset") -> tuple[Recipe, "Array", int, tuple[int, ...]]:
    """Return the recipe with the sizes of the weights to start from, these (P,), their V, and what ends their texts.

    V is larger than the data's where rows have no token. Raises UsageError.
    """
    from scratchgpt.data.dataset import require_vocabulary
    from scratchgpt.model.folder import end_tokens
    from scratchgpt.model.params import cropped
    from scratchgpt.training.checkpoint import read_model
    from scratchgpt.training.locate import locate

    folder = locate(init)
    model, params, tokenizer = read_model(folder)
    require_vocabulary(folder, tokenizer, dataset.folder, dataset.tokenizer)
    recipe = recipe.for_weights(model, f"--init {init}")
    params = cropped(model, params, recipe.settings["block_size"].value)
    return recipe, params, model.vocab_size, end_tokens(folder, model.vocab_size)


@contextlib.contextmanager
def resumed_run(
    resume: Path,
    data: Path | None,
    asked: dict[str, Setting],
    computing: Computing,
    *,
    force: bool,
) -> Iterator["Trainer"]:
    """Yield the trainer of a run that goes on. Later checkpoints than a named one stay unless `force`."""
    from scratchgpt.cli.progress import waiting
    from scratchgpt.data.dataset import Dataset
    from scratchgpt.training.checkpoint import read
    from scratchgpt.training.locate import locate
    from scratchgpt.training.origin import open_data, require_same_data
    from scratchgpt.training.store import Checkpoints
    from scratchgpt.training.trainer import Trainer

    if resume.is_file():  # RUN/checkpoints/best
        resume = locate(resume)
    folder = locate(resume)
    is_named = folder == resume
    run = resume.resolve().parent.parent if is_named else resume
    checkpoints = Checkpoints(run)
    folder = checkpoints.folder / folder.resolve().name
    if folder not in checkpoints.all():
        raise UsageError(f"{resume} is not in the folder `checkpoints` of a run, so no run can go on from it.")
    with _lock(run):
        later = checkpoints.after(folder)
        if later and is_named and not force:
            names = ", ".join(path.name for path in later)
            raise UsageError(
                f"{run} has later checkpoints, {names}; use --force to drop them and go on from {folder.name}."
            )
        snapshot = _with_changes(read(folder), asked, computing)
        train = snapshot.train
        with waiting(CHECKING):
            dataset = Dataset.open(data) if data else open_data(folder)
            require_same_data(dataset, run, snapshot.data_digest)
            dataset.require(snapshot.model.block_size, order=train.order, within_documents=train.within_documents)
        snapshot = snapshot._replace(data_folder=dataset.folder.as_posix())
        trainer = Trainer(snapshot, dataset, run)
        checkpoints.rewind(folder, snapshot.best_step)
        del snapshot  # whose arrays the trainer has copied
        yield trainer


def _require_empty(run: Path) -> None:
    """Raise DataError if there is a run in this folder."""
    from scratchgpt.training.store import Checkpoints

    if Checkpoints(run).all():
        raise DataError(
            f"{run} already holds a run.",
            advice=f"Go on with it by --resume {run}, or use --force to replace it.",
            page="Choose another name, or go on with it in the tab Train.",
        )


def _with_changes(snapshot: "Snapshot", asked: dict[str, Setting], computing: Computing) -> "Snapshot":
    """Return the snapshot with the recipe changed as typed. Raises UsageError for what cannot change in a run.

    Options may change device, precision and division of a run, and with them its last bits. A run that moves between
    a CPU and a GPU leaves behind what suited the other: its lanes, its precision, its micro-batch unless typed.
    """
    model = vars(snapshot.model)
    current = model | vars(snapshot.train) | snapshot.model.as_meant()
    for name, (value, _) in asked.items():
        if (name in KEPT or name in model) and value not in (current[name], model.get(name, current[name])):
            raise UsageError(f"A resumed run keeps its {name} of {current[name]}; it cannot become {value}.")
    recipe = {name: value for name, (value, _) in asked.items() if name in vars(snapshot.train)}
    train = TrainConfig.from_mapping(vars(snapshot.train) | recipe)
    plan = snapshot.plan
    computing = computing.on(plan.device)
    moved = (plan.device == "cpu") != (computing.device == "cpu")
    default = computing._replace(
        precision=computing.precision or (None if moved else plan.precision),
        lanes=computing.lanes or (None if moved else plan.lanes),
    ).plan(snapshot.model, train)
    if moved or train.micro_batch != snapshot.train.micro_batch:
        plan = plan._replace(micro_batch=default.micro_batch)
    plan = plan._replace(lanes=default.lanes, device=default.device, precision=default.precision)
    return snapshot._replace(train=train, plan=plan)


def _lock(run: Path) -> FolderLock:
    """Keep other trainings out of a run's folder. Raises TrainingError if one is in it."""
    lock = FolderLock(run, TrainingError(f"Another training is running in {run}; stop it first."))
    if lock.note:
        say(lock.note, err=True)
    return lock
