"""`scratchgpt train`: start a run, or go on with one."""

import dataclasses
import itertools
import shutil
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from scratchgpt.cli.options import config_options, typed
from scratchgpt.config import DEFAULT_PRESET, ModelConfig, TrainConfig, load_preset
from scratchgpt.errors import DataError, UsageError

if TYPE_CHECKING:  # imported when the command runs
    from scratchgpt.training.checkpoint import Snapshot
    from scratchgpt.training.lock import RunLock
    from scratchgpt.training.trainer import Trainer

DATA = Path("data")
RUNS = Path("runs")
FOLDER = click.Path(path_type=Path)


@click.command("train")
@click.option("--preset", metavar="NAME", help=f"Recipe to start from; by default {DEFAULT_PRESET}.")
@click.option("--data", metavar="DIR", type=FOLDER, help="Prepared data; by default the newest in data/.")
@click.option("--run", metavar="DIR", type=FOLDER, help="Where to keep the run; by default a new folder in runs/.")
@click.option("--resume", metavar="DIR", type=FOLDER, help="Go on with a run from its last checkpoint, or a named one.")
@click.option("--force", is_flag=True, help="Replace the run that --run names.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or gpu.")
@config_options(ModelConfig, TrainConfig)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    preset: str | None,
    data: Path | None,
    run: Path | None,
    resume: Path | None,
    force: bool,
    device: str,
    **settings: Any,
) -> None:
    """Train a GPT on prepared data.

    Every setting of the preset can be changed by an option. Ctrl-C saves and ends; --resume goes on from there to the
    very bit, with as many steps and at what learning rate an option says.
    """
    from scratchgpt import backend
    from scratchgpt.data.dataset import Dataset
    from scratchgpt.training import checkpoint
    from scratchgpt.training.lock import RunLock
    from scratchgpt.training.trainer import Trainer

    chosen = backend.select(device)
    if resume is None:
        recipe = load_preset(preset or DEFAULT_PRESET)
        dataset = Dataset.open(data or _newest_data())
        from_data = {"vocab_size": dataset.tokenizer.vocab_size}
        snapshot = checkpoint.fresh(
            ModelConfig.from_mapping(dict(recipe.model) | typed(ModelConfig, settings) | from_data),
            TrainConfig.from_mapping(dict(recipe.train) | typed(TrainConfig, settings)),
            dataset,
        )
        run = run or _unused_run(f"{dataset.folder.name}-{preset or DEFAULT_PRESET}")
        trainer = Trainer(snapshot, dataset, run, chosen)
        with _claim(run, force=force):
            _train(ctx, trainer, run)
        return

    if preset or run or force:
        raise UsageError("--resume goes on with a run as it is; leave out --preset, --run and --force.")
    folder = checkpoint.locate(resume)
    run = folder.parent.parent
    with RunLock(run):
        snapshot = _with_changes(checkpoint.read(folder), settings)
        if snapshot.step >= snapshot.train.steps:
            click.echo(f"{run} is finished: it has made {snapshot.step:,} steps. To go on, ask for more with --steps.")
            return
        dataset = Dataset.open(data or Path(snapshot.data_folder))
        if dataset.digest() != snapshot.data_digest:
            raise DataError(f"{dataset.folder} is not the data that {run} was trained on; name that with --data.")
        _train(ctx, Trainer(snapshot, dataset, run, chosen), run)


def _newest_data() -> Path:
    """Return the folder in data/ that was prepared last."""
    metas = sorted(DATA.glob("*/meta.json"), key=lambda meta: meta.stat().st_mtime_ns)
    if not metas:
        raise DataError(
            f"There is no prepared text in {DATA}/; run `scratchgpt prepare FILE` first, or name one with --data."
        )
    return metas[-1].parent


def _unused_run(name: str) -> Path:
    """Return the first of runs/NAME-1, runs/NAME-2, ... that does not exist."""
    return next(run for n in itertools.count(1) if not (run := RUNS / f"{name}-{n}").exists())


def _claim(run: Path, *, force: bool) -> "RunLock":
    """Make the run's folder and lock it. An older run in it stays unless `force`. Raises DataError."""
    from scratchgpt.training.lock import RunLock

    old = [path for path in (run / "checkpoints", run / "log.jsonl") if path.exists()]
    if old and not force:
        raise DataError(f"{run} already holds a run; go on with it by --resume {run}, or use --force to replace it.")
    run.mkdir(parents=True, exist_ok=True)
    lock = RunLock(run)
    for path in old:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return lock


def _with_changes(snapshot: "Snapshot", settings: dict[str, Any]) -> "Snapshot":
    """Return the snapshot with the recipe changed as typed. Raises UsageError for what cannot change in a run."""
    fixed = typed(ModelConfig, settings) | {key: settings[key] for key in ("seed",) if settings[key] is not None}
    current = dataclasses.asdict(snapshot.model) | dataclasses.asdict(snapshot.train)
    for name, value in fixed.items():
        if value != current[name]:
            raise UsageError(f"A resumed run keeps its {name} of {current[name]}; it cannot become {value}.")
    train = TrainConfig.from_mapping(dataclasses.asdict(snapshot.train) | typed(TrainConfig, settings))
    return snapshot._replace(train=train)


def _train(ctx: click.Context, trainer: "Trainer", run: Path) -> None:
    """Run the trainer, with log and display, until it ends or a signal asks it to."""
    from scratchgpt.cli.render import for_console
    from scratchgpt.training.logs import Log

    signals: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        if signals:
            raise KeyboardInterrupt  # asked twice: at once
        signals.append(number)
        trainer.stop()

    config, model = trainer.config, trainer.model
    click.echo(
        f"{run}: {model.layout.size:,} parameters on {model.backend.name}, "
        f"{config.steps:,} steps of {config.batch_size * model.config.block_size:,} tokens, seed {config.seed}"
    )
    old_handlers = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    log = Log(run / "log.jsonl", step=trainer.step)
    trainer.checkpoints.clean()
    try:
        with for_console(config.steps, trainer.step) as renderer:
            for event in trainer.events():
                log.write(event)
                renderer.show(event)
    finally:
        log.close()
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
    if trainer.step < config.steps:
        click.echo(f"Saved and stopped at step {trainer.step:,}. Go on with: scratchgpt train --resume {run}")
        ctx.exit(128 + signals[0])
    click.echo(f"Done; checkpoints are in {trainer.checkpoints.folder}. Now: scratchgpt generate {run}")
