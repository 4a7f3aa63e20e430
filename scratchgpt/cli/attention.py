"""`scratchgpt attention`: where each head of a model looks, as a picture."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scratchgpt.cli.options import device_option, resolved
from scratchgpt.cli.output import require_picture
from scratchgpt.errors import UsageError

if TYPE_CHECKING:  # imported when the command runs
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scratchgpt.ops.array import Array

MOST_TOKENS = 256
"""With more, a picture's dots are smaller than a screen's, and the weights of a large model take gigabytes."""

WIDTH = 11.0
"""Inches that the grid may be wide, if heads are not to become too small."""
SMALLEST, LARGEST = 0.6, 3.2
"""Inches of one head among many."""
ENLARGED = 6.5
"""Inches of one head alone."""
LETTERS = (5.0, 9.0)
"""Sizes of the tokens' letters, in points: if they are to be smaller, some are left out."""


LONGEST_NAME = 50
"""Letters of a picture's name, if nobody gives it one."""


@click.command("attention", short_help="Draw where each head of a model looks.")
@click.argument("prompt", metavar="PROMPT")
@click.option(
    "--model", metavar="RUN", type=click.Path(path_type=Path), help="A run or a checkpoint; by default the newest run."
)
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The picture, .png, .svg or .pdf; by default a .png named after the prompt.",
)
@click.option("--layer", type=click.IntRange(min=0), help="Only this layer; they count from 0, as in the files.")
@click.option("--head", type=click.IntRange(min=0), help="Only this head; they count from 0.")
@click.option("--force", is_flag=True, help="Replace the picture if it is there.")
@device_option
def command(
    *,
    prompt: str,
    model: Path | None,
    out: Path | None,
    layer: int | None,
    head: int | None,
    force: bool,
    device: str | None,
) -> None:
    """Draw the attention of each layer (a row) and head (a column) for PROMPT.

    In each little picture a row is a token, and its colours say from which tokens before it the head takes what it
    passes on. With --layer and --head one is drawn large.
    """
    from scratchgpt import backend
    from scratchgpt.cli.plot import save
    from scratchgpt.cli.render import waiting
    from scratchgpt.inspection.inside import attention_maps
    from scratchgpt.inspection.labels import label
    from scratchgpt.model.gpt import GPT
    from scratchgpt.training import checkpoint

    out = out or Path("-".join(["attention", *re.findall(r"\w+", prompt)])[:LONGEST_NAME] + ".png")
    require_picture(out, force=force)
    folder = checkpoint.locate(model or checkpoint.newest_run(Path("runs")))
    with waiting("Drawing ..."):
        config, params, vocabulary = checkpoint.read_model(folder)
        layers = _chosen(layer, config.n_layer, "layer")
        heads = _chosen(head, config.n_head, "head")
        ids = vocabulary.encode(prompt)
        n_seen = min(config.block_size, MOST_TOKENS)
        maps = attention_maps(GPT(config, backend.select(resolved(device or "auto")), params), ids[-n_seen:])
        chosen = maps[layers[0] : layers[-1] + 1, heads[0] : heads[-1] + 1]
        save(figure(chosen, [label(vocabulary, index) for index in ids[-n_seen:]], layers, heads), out)
    if len(ids) > n_seen:
        click.echo(f"The prompt has {len(ids):,} tokens; the picture shows the last {n_seen:,} of them.", err=True)
    click.echo(str(out))


def _chosen(number: int | None, count: int, kind: str) -> range:
    """Return which layers or heads to draw. Raises UsageError if there is no such one."""
    if number is None:
        return range(count)
    if number >= count:
        raise UsageError(f"There is no {kind} {number}: the model's count from 0 to {count - 1}.")
    return range(number, number + 1)


def figure(maps: "Array", labels: Sequence[str], layers: Sequence[int], heads: Sequence[int]) -> "Figure":
    """Draw maps (L, H, T, T) of these layers and heads with a label for each of T tokens. Raises UsageError.

    One layer or one head of a model is drawn as near to a square as it goes, all as a table.
    """
    try:
        import matplotlib as mpl
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise UsageError("Drawing needs one more package: `pip install 'scratchgpt[plot]'`.") from error
    import numpy as np

    L, H, T, _ = maps.shape
    n_columns = H if L > 1 and H > 1 else math.ceil(math.sqrt(L * H))
    n_rows = math.ceil(L * H / n_columns)
    inches = ENLARGED if L * H == 1 else min(max(WIDTH / n_columns, SMALLEST), LARGEST)
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    picture = Figure(figsize=(inches * n_columns + 1.6, inches * n_rows + 0.8), layout=close)
    grid = picture.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
    colours = mpl.colormaps["magma_r"].with_extremes(bad="0.94")
    places = [(layer, head) for layer in range(L) for head in range(H)]
    future = np.triu(np.ones((T, T), bool), 1)
    for number, (axes, (layer, head)) in enumerate(zip(grid, places, strict=False)):
        shown = np.ma.array(maps[layer, head], mask=future)
        image = axes.imshow(shown, cmap=colours, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        axes.spines[:].set_visible(False)
        _label(axes, labels, inches, left=number % n_columns == 0, below=number >= len(places) - n_columns)
        if L > 1 and H > 1:
            axes.set_title(f"head {heads[head]}" if layer == 0 else "", fontsize="small")
            axes.set_ylabel(f"layer {layers[layer]}" if head == 0 else "", fontsize="small")
        else:
            axes.set_title(f"layer {layers[layer]}, head {heads[head]}", fontsize="small")
    for axes in grid[len(places) :]:
        axes.set_axis_off()
    picture.supxlabel("each row: a token that looks; each column: what it looks at", fontsize="small")
    bar = picture.colorbar(image, ax=grid, shrink=min(1.0, 3 / (inches * n_rows)), aspect=18, pad=0.01)
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"])
    bar.outline.set_visible(False)
    return picture


def _label(axes: "Axes", labels: Sequence[str], inches: float, *, left: bool, below: bool) -> None:
    """Write the tokens beside a head's rows and below its columns: all of them, or as many as can be read."""
    smallest, largest = LETTERS
    room = 72 * inches / len(labels) * 0.8
    every = math.ceil(smallest / room)
    places = range(0, len(labels), every)
    style: dict[str, Any] = {
        "labels": labels[::every],
        "fontsize": min(max(room, smallest), largest),
        "parse_math": False,
    }
    axes.tick_params(length=0, pad=1)
    axes.set_yticks(places, **style) if left else axes.set_yticks([])
    rotation = 90 if max(map(len, labels)) > 1 else 0
    axes.set_xticks(places, rotation=rotation, **style) if below else axes.set_xticks([])
