"""`scratchgpt train`: start a run, or go on with one."""

import contextlib
import importlib
import io
import itertools
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from scratchgpt.cli import say
from scratchgpt.cli.options import (
    asked_for,
    device_options,
    lanes_option,
    recipe_options,
    require_cpu_for,
    resolved,
    view_options,
)
from scratchgpt.config import ModelConfig, Recipe, Setting, TrainConfig, load_recipe
from scratchgpt.errors import DataError, ScratchGPTError, TrainingError, UsageError, fact_of, reason
from scratchgpt.files import safe_name
from scratchgpt.lock import FolderLock
from scratchgpt.wording import counted

if TYPE_CHECKING:  # imported when the command runs
    from scratchgpt.cli.views import Renderer
    from scratchgpt.data.dataset import Dataset
    from scratchgpt.model.plan import Plan
    from scratchgpt.ops.array import Array
    from scratchgpt.training.runs import Logs
    from scratchgpt.training.snapshot import Snapshot
    from scratchgpt.training.trainer import Trainer

DATA = Path("data")
RUNS = Path("runs")
CHECKING = "Checking the data ..."
ATTACHING = ("--attach", "--tui")
LONGEST_LINE = 2**16
"""Bytes of a command."""
FOLDER = click.Path(path_type=Path)


def _kinds(_: click.Context, __: click.Parameter, typed: str | None) -> tuple[str, ...] | None:
    """Return the logs that were typed, None if none was. Raises UsageError."""
    from scratchgpt.training import sinks

    return None if typed is None else sinks.chosen(typed)


@click.command("train")
@click.option("--data", metavar="DIR", type=FOLDER, help="Prepared data; by default the newest in data/.")
@click.option("--run", metavar="DIR", type=FOLDER, help="Where to keep the run; by default a new folder in runs/.")
@click.option("--resume", metavar="DIR", type=FOLDER, help="Go on with a run from its last checkpoint, or a named one.")
@click.option(
    "--init",
    metavar="DIR",
    type=FOLDER,
    help="Start from the weights of a run, a checkpoint or a model of GPT-2's form.",
)
@click.option("--force", is_flag=True, help="Replace the run in --run, or what came after --resume.")
@device_options
@lanes_option
@click.option(
    "--tune/--no-tune",
    default=True,
    help="Before a new run, measure what suits this machine's caches, unless that is known; at most two seconds.",
)
@click.option(
    "--log",
    "kinds",
    metavar="NAMES",
    callback=_kinds,
    help="Besides RUN/log.jsonl: csv, tensorboard, wandb, with commas. A resumed run goes on with those it had.",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell how the run computes.")
@click.option(
    "--attach",
    metavar="[DIR]",
    is_flag=False,
    flag_value="",
    help="With --tui: only watch a run that another program trains, or that has ended; by default the newest in runs/.",
)
@view_options
@recipe_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    preset: str | None,
    config: Path | None,
    changes: tuple[str, ...],
    data: Path | None,
    run: Path | None,
    resume: Path | None,
    init: Path | None,
    force: bool,
    device: str | None,
    precision: str | None,
    lanes: int | None,
    tune: bool,
    kinds: tuple[str, ...] | None,
    verbose: bool,
    attach: str | None,
    view: str,
    is_controlled: bool,
    **settings: Any,
) -> None:
    """Train a GPT on prepared data.

    Every setting of the preset can be changed by a file and by an option; `scratchgpt config` shows what comes of it.
    Ctrl-C saves and ends; --resume goes on from there to the very bit, with as many steps and at what learning rate an
    option says.
    """
    from scratchgpt.cli.views import viewing

    if attach is not None:
        _attach(ctx, attach, view)
        return
    if resume and (preset or config or run or init):
        raise UsageError("--resume goes on with a run as it is; leave out --preset, --config, --run and --init.")
    if view == "tui" and _has_terminal():
        ctx.exit(_interface().watch(sys.argv[1:]))
    computing = _Computing(device, precision, lanes)
    asked = asked_for(settings, changes)
    with viewing(view) as renderer:
        if resume:
            name = None
            opened = _resume(resume, data, asked, computing, force=force)
        else:
            recipe = load_recipe(preset, config).with_settings(asked)
            name, kinds = recipe.name, kinds or ()
            opened = _start(recipe, data, run, init, computing.on("auto"), tune=tune, force=force)
        with opened as trainer:
            if is_controlled:
                threading.Thread(target=_listen, args=[trainer], daemon=True).start()
            _train(ctx, trainer, renderer, name, kinds, verbose=verbose)


def _interface() -> ModuleType:
    """Return the module of the terminal interface. Raises UsageError if its packages are missing."""
    try:
        return importlib.import_module("scratchgpt.cli.tui")
    except ImportError as error:
        raise UsageError(f"--tui needs two more packages ({error}): pip install 'scratchgpt[tui]'.") from error


def _attach(ctx: click.Context, name: str, view: str) -> None:
    """Watch a run that this program does not train: the one of this name, or the newest."""
    from scratchgpt.training.runs import all_runs, is_run

    if view != "tui":
        raise UsageError("--attach goes with --tui; add that.")
    typed = {parameter.opts[0]: ctx.get_parameter_source(parameter.name or "") for parameter in ctx.command.params}
    if others := [name for name in typed if typed[name] is ParameterSource.COMMANDLINE and name not in ATTACHING]:
        raise UsageError(f"--attach only watches a run; leave out {', '.join(others)}.")
    run = Path(name) if name else next(reversed(all_runs(RUNS) if RUNS.is_dir() else []), None)
    if run is None:
        raise UsageError(f"There is no run in {RUNS}; run `scratchgpt train` first, or name a run.")
    if not is_run(run):
        raise UsageError(f"There is no run {run}; `scratchgpt runs` lists the runs that there are.")
    if lacking := _lacking():
        raise UsageError(f"--attach draws in a whole terminal, but {lacking}.")
    _interface().attach(run)


def _has_terminal() -> bool:
    """Tell whether there is a terminal for --tui; if not, say so."""
    if lacking := _lacking():
        say(f"Watching in lines and not with --tui, since {lacking}.", err=True)
    return not lacking


def _lacking() -> str:
    """Return what --tui lacks here, nothing if it can draw."""
    from scratchgpt.cli.console import has_unicode

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "there is no terminal here"
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return f"a terminal of the kind {os.environ['TERM']} cannot be drawn in"
    return "" if has_unicode() else "this terminal has no UTF-8"


class _Computing(NamedTuple):
    """How it was asked to compute; None where it was not."""

    device: str | None
    precision: str | None
    lanes: int | None

    def on(self, device: str) -> "_Computing":
        """Return it with the device that was asked for, or this one, as cpu or gpu:N. Raises UsageError."""
        device = resolved(self.device or device)
        require_cpu_for(self.lanes, device)
        return self._replace(device=device)

    def plan(self, model: ModelConfig, train: TrainConfig) -> "Plan":
        """Return the default plan. Raises UsageError for what does not go together."""
        from scratchgpt.model.plan import default_plan

        device = self.device or "cpu"
        return default_plan(model, train, lanes=self.lanes, device=device, precision=self.precision or "fp32")


@contextlib.contextmanager
def _start(
    recipe: Recipe,
    data: Path | None,
    run: Path | None,
    init: Path | None,
    computing: _Computing,
    *,
    tune: bool,
    force: bool,
) -> Iterator["Trainer"]:
    """Yield the trainer of a new run in a folder that is locked. An older run in it stays unless `force`."""
    from scratchgpt.cli.progress import waiting
    from scratchgpt.data.dataset import Dataset
    from scratchgpt.model.tuning import tuned_plan
    from scratchgpt.training import sinks
    from scratchgpt.training.snapshot import fresh
    from scratchgpt.training.store import Checkpoints
    from scratchgpt.training.trainer import Trainer

    train = TrainConfig.from_mapping(recipe.of(TrainConfig))
    weights, ends = None, tuple[int, ...]()
    with waiting(CHECKING):
        dataset = Dataset.open(data or _newest_data())
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
    with contextlib.nullcontext(run) if run else _claimed_run(name) as folder:
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
    from scratchgpt.model.files import end_tokens
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
def _resume(
    resume: Path,
    data: Path | None,
    asked: dict[str, Setting],
    computing: _Computing,
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


def _newest_data() -> Path:
    """Return the folder in data/ that was prepared last."""
    metas = sorted(DATA.glob("*/meta.json"), key=lambda meta: meta.stat().st_mtime_ns)
    if not metas:
        raise UsageError(
            f"There is no prepared text in {DATA}.",
            advice="Run `scratchgpt prepare FILE` first, or name one with --data.",
            page="Prepare one in the tab Data.",
        )
    return metas[-1].parent


@contextlib.contextmanager
def _claimed_run(name: str) -> Iterator[Path]:
    """Make the first of runs/NAME-1, runs/NAME-2, ... that does not exist, and yield it.

    Trainings that start at the same moment get a folder each. A folder that stays empty is removed.
    """
    RUNS.mkdir(exist_ok=True)
    for n in itertools.count(1):
        run = RUNS / f"{name}-{n}"
        with contextlib.suppress(FileExistsError):
            run.mkdir()
            break
    try:
        yield run
    finally:
        with contextlib.suppress(OSError):
            run.rmdir()


def _with_changes(snapshot: "Snapshot", asked: dict[str, Setting], computing: _Computing) -> "Snapshot":
    """Return the snapshot with the recipe changed as typed. Raises UsageError for what cannot change in a run.

    What a run is computed by may change, and its last bits with it: it does if that is typed. A run that moves between
    a CPU and a GPU leaves behind what suited the other: its lanes, its precision, its micro-batch unless typed.
    """
    current = vars(snapshot.model) | vars(snapshot.train)
    for name, (value, _) in asked.items():
        if (name in vars(snapshot.model) or name == "seed") and value != current[name]:
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


def _listen(trainer: "Trainer") -> None:
    """Tell the trainer what standard input says; say what it means nothing by."""
    from scratchgpt.training.commands import Resume, parse

    # Not sys.stdin, whose lock a thread that waits for a line would hold while Python shuts down.
    with io.FileIO(0, closefd=False) as lines:
        while line := lines.readline(LONGEST_LINE):
            if line.strip():
                try:
                    trainer.tell(parse(line.decode("utf-8", "surrogateescape")))
                except UsageError as error:
                    say(f"Error: {error}", err=True)
    trainer.tell(Resume())  # from a pause that nobody could end any more


def _train(
    ctx: click.Context,
    trainer: "Trainer",
    renderer: "Renderer",
    preset: str | None,
    kinds: tuple[str, ...] | None,
    *,
    verbose: bool,
) -> None:
    """Run the trainer, with logs and display, until it ends or a signal asks it to.

    A resumed run has no preset, and no kinds of logs unless they were typed: it has those it began with.
    """
    from scratchgpt.cli.progress import waiting
    from scratchgpt.machine import amount
    from scratchgpt.model.plan import needed_bytes
    from scratchgpt.model.solo import Solo
    from scratchgpt.training.events import Noted
    from scratchgpt.training.runs import Logs

    config, model, run = trainer.config, trainer.model, trainer.run
    go_on = f"scratchgpt train --resume {shlex.quote(str(run))}"
    if trainer.is_finished:
        longer = "--patience N" if trainer.is_early else "--steps N"
        say(f"{run} is finished: it has made {trainer.step:,} steps. To train it longer: {go_on} {longer}")
        return
    plan, tokens = trainer.engine.plan, config.batch_size * model.config.block_size
    say(
        f"{run}: {model.layout.size:,} parameters on {_device(plan)}, about "
        f"{amount(needed_bytes(model.config, plan))} of memory, seed {config.seed}"
    )
    say(
        f"{config.steps:,} steps of {tokens:,} tokens, {config.steps * tokens:,} in all: "
        f"{trainer.n_epochs:,.3g} times as many as there are to train on"
    )
    if verbose:
        attention = model.backend.attention
        say(_engine(plan, attention and attention(model.config)))
    if isinstance(trainer.engine, Solo):
        with waiting("Compiling kernels, unless CuPy has kept them from an earlier run ..."):
            trainer.engine.warm_up()
    trainer.checkpoints.clean()
    with waiting("Opening the logs ..."):
        logs = Logs(trainer, preset, kinds)
    with _signals(trainer) as received:
        try:
            _show(trainer, renderer, logs)
        except KeyboardInterrupt:
            ended = f"Ended at once; the last checkpoint is {trainer.checkpoints.pointed('last')}."
            logs.write(Noted(ended))
            say(f"{ended} Go on with: {go_on}")
            ctx.exit(128 + signal.SIGINT)
        finally:
            logs.close(tell=lambda message: say(message, err=True))
    if received or not trainer.is_finished:
        say(f"Saved at step {trainer.step:,} of {config.steps:,}. Go on with: {go_on}")
        ctx.exit(128 + received[0] if received else 0)
    if trainer.is_early:
        say(
            f"The validation loss has not become better in {counted(config.patience, 'evaluation')}; the best is "
            f"{trainer.checkpoints.pointed('best')}."
        )
    say(f"Done. Checkpoints are in {trainer.checkpoints.folder}. Now: scratchgpt generate {shlex.quote(str(run))}")


def _show(trainer: "Trainer", renderer: "Renderer", logs: "Logs") -> None:
    """Train, log and show each event. A failure is logged before it is raised; the page shows the log, too."""
    from scratchgpt.training.events import Noted

    try:
        with renderer:
            for event in itertools.chain([trainer.started], trainer.events()):
                for shown in (event, *logs.write(event)):
                    renderer.show(shown)
    except OSError as error:  # the terminal, a pipe or the log has gone: that must not cost any steps
        for event in trainer.save():
            logs.write(event)
        logs.write(Noted(f"Error: {reason(error)}"))
        raise
    except (ScratchGPTError, MemoryError) as error:
        logs.write(Noted(f"Error: {fact_of(error)}"))
        raise


def _lock(run: Path) -> FolderLock:
    """Keep other trainings out of a run's folder. Raises TrainingError if one is in it."""
    lock = FolderLock(run, TrainingError(f"Another training is running in {run}; stop it first."))
    if lock.note:
        say(lock.note, err=True)
    return lock


def _device(plan: "Plan") -> str:
    return f"cpu, {counted(plan.lanes, 'lane')}" if plan.device == "cpu" else f"{plan.device} in {plan.precision}"


def _engine(plan: "Plan", attention: str | None) -> str:
    """Tell how the run computes."""
    from scratchgpt.backend.cpu import blas

    if plan.device != "cpu":
        return f"{plan.device} computes {counted(plan.micro_batch, 'sequence')} at once, attention {attention}."
    products = "adds products in place" if blas.can_add_products() else "cannot add products in place, which is slower"
    return (
        f"Each lane computes {counted(plan.micro_batch, 'sequence')} at once, single numbers in blocks of "
        f"{plan.block_bytes // 1024} KiB. {blas.name()} {products}."
    )


@contextlib.contextmanager
def _signals(trainer: "Trainer") -> Iterator[list[int]]:
    """Let the first signal stop the trainer after its step, and the second at once; yield those received."""
    received: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        trainer.stop()
        say("Finishing the step, then saving; once more to end at once.", err=True)

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    old_handlers = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
