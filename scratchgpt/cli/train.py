"""`scratchgpt train`: start a run, or go on with one."""

import importlib
import os
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from click.core import ParameterSource

from scratchgpt.cli import say
from scratchgpt.cli.options import asked_for, device_options, lanes_option, recipe_options, view_options
from scratchgpt.config import load_recipe
from scratchgpt.errors import UsageError
from scratchgpt.extras import imports

ATTACHING = ("--attach", "--tui")
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
    from scratchgpt.cli import opening, running
    from scratchgpt.cli.views import viewing

    if attach is not None:
        _attach(ctx, attach, view)
        return
    if resume and (preset or config or run or init):
        raise UsageError("--resume goes on with a run as it is; leave out --preset, --config, --run and --init.")
    if view == "tui" and _has_terminal():
        ctx.exit(_interface().watch(sys.argv[1:]))
    computing = opening.Computing(device, precision, lanes)
    asked = asked_for(settings, changes)
    with viewing(view) as renderer:
        if resume:
            name = None
            opened = opening.resumed_run(resume, data, asked, computing, force=force)
        else:
            recipe = load_recipe(preset, config).with_settings(asked)
            name, kinds = recipe.name, kinds or ()
            opened = opening.new_run(recipe, data, run, init, computing.on("auto"), tune=tune, force=force)
        with opened as trainer:
            if is_controlled:
                threading.Thread(target=running.listen, args=[trainer], daemon=True).start()
            running.train(ctx, trainer, renderer, name, kinds, verbose=verbose)


def _interface() -> ModuleType:
    """Return the module of the terminal interface. Raises UsageError if its packages are missing."""
    with imports("--tui", "tui"):
        return importlib.import_module("scratchgpt.cli.tui")


def _attach(ctx: click.Context, name: str, view: str) -> None:
    """Watch a run that this program does not train: the one of this name, or the newest."""
    from scratchgpt.training.places import RUNS
    from scratchgpt.training.runs import all_runs, is_run

    if view != "tui":
        raise UsageError("--attach goes with --tui; add that.")
    typed = {parameter.opts[0]: ctx.get_parameter_source(parameter.name or "") for parameter in ctx.command.params}
    if others := [name for name in typed if typed[name] is ParameterSource.COMMANDLINE and name not in ATTACHING]:
        raise UsageError(f"--attach only watches a run; leave out {', '.join(others)}.")
    run = Path(name) if name else next(reversed(all_runs(RUNS)), None)
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
