"""`scratchgpt plot`: the losses of runs as a picture."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scratchgpt.cli import say
from scratchgpt.errors import DataError, UsageError
from scratchgpt.extras import imports
from scratchgpt.files import require_free, written_whole
from scratchgpt.wording import shown

if TYPE_CHECKING:  # imported when the command runs
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scratchgpt.training.curves import Curves

AXES = ("steps", "tokens", "time")
PICTURES = (".png", ".svg", ".pdf")
SMOOTHED_PART = 50
"""Unless told otherwise, training losses are averaged over one part in so many of a run."""


@click.command("plot", short_help="Draw the losses of runs.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    default="curves.png",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The picture, .png, .svg or .pdf.",
)
@click.option("--against", type=click.Choice(AXES), default="steps", show_default=True, help="The horizontal axis.")
@click.option(
    "--smooth",
    metavar="N",
    type=click.IntRange(min=1),
    help="Training losses are means over N steps; by default over a fiftieth of the run.",
)
@click.option("--force", is_flag=True, help="Replace the picture if it is there.")
def command(*, runs: tuple[Path, ...], out: Path, against: str, smooth: int | None, force: bool) -> None:
    """Draw the losses of each RUN: training, each step faint and smoothed, and validation.

    Time is that of training steps alone, without evaluations and pauses.
    """
    from scratchgpt.cli.progress import waiting
    from scratchgpt.training import curves

    require_picture(out, force=force)
    with waiting("Drawing ..."):
        found = {_label(run, runs): curves.read(run, against) for run in dict.fromkeys(runs)}
        drawn = {name: run for name, run in found.items() if len(run.training.x) or len(run.validation.x)}
        if not drawn:
            raise DataError(f"There is nothing to draw yet: the log of {' and of '.join(found)} has no losses.")
        save(figure(drawn, against, smooth), out, force=force)
    for name in found.keys() - drawn.keys():
        say(f"The log of {name} has no losses yet.", err=True)
    say(str(out))


def require_picture(out: Path, *, force: bool) -> None:
    """Raise UsageError if a picture's name does not say of what kind it is, DataError if one would be lost."""
    if out.suffix.lower() not in PICTURES:
        raise UsageError(f"The picture's name must end in {', '.join(PICTURES)}, not {out.name!r}.")
    require_free(out, force=force)


def save(picture: "Figure", out: Path, *, force: bool) -> None:
    """Write a picture, whole or not at all. Raises OSError, and DataError if one would be lost."""
    with (
        written_whole(out, force=force) as temporary,
        warnings.catch_warnings(action="ignore"),
    ):  # of letters that the font has not
        picture.savefig(temporary, format=out.suffix[1:].lower(), dpi=150)


def _label(run: Path, runs: Sequence[Path]) -> str:
    """Return a run's name if no other has the same, else its path."""
    names = [other.resolve().name for other in dict.fromkeys(runs)]
    name = run.resolve().name
    return name if names.count(name) == 1 else str(run)


def figure(runs: dict[str, "Curves"], against: str, smooth: int | None) -> "Figure":
    """Draw the losses of named runs, at least one, each in a colour of its own. Raises UsageError."""
    with imports("Drawing", "plot"):
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter
    from scratchgpt.training.curves import outline, smoothed, sparse

    picture = Figure(figsize=(9, 5.5), layout="constrained")
    axes = picture.add_subplot()
    colours = [mpl.colormaps["turbo"](n / len(runs)) if len(runs) > 10 else f"C{n}" for n in range(len(runs))]
    scale, unit = _unit(against, max(curve.x[-1] for run in runs.values() for curve in run if len(curve.x)))
    shown: list[float] = []
    faint: list[float] = []
    for (training, validation), colour in zip(runs.values(), colours, strict=True):
        width = smooth or max(1, len(training.x) // SMOOTHED_PART)
        raw, mean = outline(training), sparse(smoothed(training, width))
        if width > 1:
            axes.plot(raw.x / scale, raw.y, color=colour, alpha=0.25, linewidth=0.6)
        axes.plot(mean.x / scale, mean.y, color=colour, linewidth=1.5)
        axes.plot(validation.x / scale, validation.y, "o--", color=colour, linewidth=1.2, markersize=3.5)
        shown += [*mean.y.tolist(), *validation.y.tolist()]
        faint += raw.y.tolist()
    _fit(axes, shown, faint)
    axes.set_xlabel(unit)
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=against != "time"))
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if against == "tokens" else StrMethodFormatter("{x:,.10g}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    kinds = [
        Line2D([], [], color="0.3", linewidth=1.5, label="training"),
        Line2D([], [], color="0.3", linewidth=1.2, linestyle="--", marker="o", markersize=3.5, label="validation"),
    ]
    names = [
        Line2D([], [], color=colour, linewidth=4, label=_plain(name))
        for name, colour in zip(runs, colours, strict=True)
    ]
    axes.legend(handles=[*names, *kinds], frameon=False, fontsize="small", ncols=1 + len(runs) // 16)
    return picture


def _unit(against: str, most: float) -> tuple[float, str]:
    """Return by what to divide, and the axis's title."""
    if against != "time":
        return 1.0, {"steps": "step", "tokens": "tokens"}[against]
    if most < 300:
        return 1.0, "time in training steps (seconds)"
    return (60.0, "time in training steps (minutes)") if most < 3 * 3600 else (3600.0, "time in training steps (hours)")


def _fit(axes: "Axes", shown: Sequence[float], faint: Sequence[float]) -> None:
    """Show all of the smooth curves, and the faint ones but for their upward spikes."""
    top = max(filter(math.isfinite, shown), default=1.0)
    bottom = min(filter(math.isfinite, [*shown, *faint]), default=0.0)
    margin = 0.05 * (top - bottom) or 0.1
    axes.set_ylim(bottom - margin, top + margin)


def _plain(name: str) -> str:
    """Return a name as Matplotlib is to write it: no mathematics, and not hidden from the legend."""
    name = shown(name).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name
