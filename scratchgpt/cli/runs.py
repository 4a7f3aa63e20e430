"""`scratchgpt runs`: a table of what was trained."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scratchgpt.cli import say
from scratchgpt.errors import UsageError
from scratchgpt.wording import duration, shown

if TYPE_CHECKING:  # imported when the command runs
    from scratchgpt.training.runs import Summary


@click.command("runs", short_help="List runs: how far they are and how good.")
@click.argument("folder", metavar="[FOLDER]", default="runs", type=click.Path(path_type=Path))
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line for each run.")
def command(*, folder: Path, is_json: bool) -> None:
    """List the runs in FOLDER, by default runs/, the one that was alive last at the end."""
    from scratchgpt.cli.progress import waiting
    from scratchgpt.training import runs

    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}; run `scratchgpt train` first, or name the folder of your runs.")
    with waiting("Reading the logs ..."):
        summaries = [runs.summary(run) for run in runs.all_runs(folder)]
    if is_json:
        for summary in summaries:
            click.echo(json.dumps(dataclasses.asdict(summary)))
    elif not summaries:
        say(f"There are no runs in {folder}.")
    else:
        _show(summaries)


def _show(summaries: list["Summary"]) -> None:
    """Print the table, and below it what is wrong."""
    from rich.table import Table
    from rich.text import Text

    from scratchgpt.cli.console import table_terminal

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("run", "preset", "state", "steps", "best loss", "trained", "device", "when"):
        table.add_column(title, justify="right" if title in {"steps", "best loss", "trained"} else "left")
    for summary in summaries:
        steps = "?" if summary.step is None else f"{summary.step:,}"
        if summary.steps is not None:
            steps += f" of {summary.steps:,}"
        best = "" if summary.best_loss is None else f"{summary.best_loss:.4f}"
        cells = (
            shown(Path(summary.run).name),
            shown(summary.preset or ""),
            summary.state or "",
            steps,
            best,
            duration(summary.seconds),
        )
        table.add_row(*map(Text, (*cells, summary.device or "", summary.when or "")))
    table_terminal().print(table)
    for summary in summaries:
        for problem in summary.problems:
            say(f"{summary.run}: {problem}")
