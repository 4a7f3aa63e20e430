"""`scratchgpt logs`: what a run has logged, for other programs."""

import contextlib
from pathlib import Path

import click

from scratchgpt.cli import say
from scratchgpt.errors import DataError
from scratchgpt.files import written_whole
from scratchgpt.training.sinks import KINDS
from scratchgpt.wording import shown


@click.group("logs", short_help="Turn the log of a run into what other programs read.")
def command() -> None:
    """What a run has logged, for other programs."""


@command.command("export", short_help="Write a run's log for TensorBoard, W&B or as CSV.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(KINDS), help="What to make of it.")
@click.option(
    "-o",
    "--out",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The file (csv) or folder to write; by default RUN/log.csv, RUN/tensorboard/ or, for RUN/wandb/, RUN.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
def export(*, run: Path, kind: str, out: Path | None, force: bool) -> None:
    """Write the log of RUN, which may still be going on, as `train --log` would have written it."""
    from scratchgpt.cli.progress import stages
    from scratchgpt.training import logs, runs, sinks

    rows = [row for row in logs.read(run / logs.NAME) if row]
    if not rows:
        raise DataError(f"{run / logs.NAME} has no rows yet.")
    place = out or sinks.place(kind, run)
    if sinks.is_taken(kind, place) and not force:
        raise DataError(f"{place} is there already; use --force to replace it, or name another place with -o.")
    is_file = kind == "csv"
    with (
        written_whole(place, force=force) if is_file else contextlib.nullcontext(place) as written,
        stages(f"the log for {kind}") as show,
    ):
        sink = sinks.begin(kind, written, shown(run.resolve().name), runs.description(run))
        for row in rows:
            sink.write(row)
            show("Writing", 1, len(rows))
        sink.close()
    n_numbers = sum("event" not in row for row in rows)
    say(f"{place}: {n_numbers:,} rows, to step {rows[-1]['step']:,}")
