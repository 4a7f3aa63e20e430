"""Train an open run, with its logs and its view, until it ends or a signal stops it."""

import contextlib
import io
import itertools
import shlex
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import click

from scratchgpt.cli import say
from scratchgpt.errors import ScratchGPTError, UsageError, fact_of, reason
from scratchgpt.wording import counted

if TYPE_CHECKING:  # imported when the command runs
    from scratchgpt.cli.views import Renderer
    from scratchgpt.engine.plan import Plan
    from scratchgpt.training.runs import Logs
    from scratchgpt.training.trainer import Trainer

LONGEST_LINE = 2**16
"""Bytes of a command."""


def listen(trainer: "Trainer") -> None:
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
    trainer.tell(Resume())  # from a pause: no command can end it now


def train(
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
    from scratchgpt.training.events import Noted
    from scratchgpt.training.runs import Logs

    config, run = trainer.config, trainer.run
    go_on = f"scratchgpt train --resume {shlex.quote(str(run))}"
    if trainer.is_finished:
        longer = "--patience N" if trainer.is_early else "--steps N"
        say(f"{run} is finished: it has made {trainer.step:,} steps. To train it longer: {go_on} {longer}")
        return
    _introduce(trainer, verbose=verbose)
    if trainer.engine.plan.device != "cpu":
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


def _introduce(trainer: "Trainer", *, verbose: bool) -> None:
    """Say what is trained, where and on how much; with `verbose`, also how the run computes."""
    from scratchgpt.engine.plan import needed_bytes
    from scratchgpt.machine import amount

    config, model, plan = trainer.config, trainer.model, trainer.engine.plan
    tokens = config.batch_size * model.config.block_size
    say(
        f"{trainer.run}: {model.layout.size:,} parameters on {_device(plan)}, about "
        f"{amount(needed_bytes(model.config, config, plan))} of memory, seed {config.seed}"
    )
    say(
        f"{config.steps:,} steps of {tokens:,} tokens, {config.steps * tokens:,} in all: "
        f"{trainer.n_epochs:,.3g} times as many as there are to train on"
    )
    if verbose:
        attention = model.backend.attention
        say(_engine(plan, attention and attention(model.config)))


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
