"""`scratchgpt attention`: where each head of a model looks, as a picture."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scratchgpt.cli import say
from scratchgpt.cli.options import device_option, model_option, resolved
from scratchgpt.errors import UsageError
from scratchgpt.extras import imports

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
@model_option
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
    from scratchgpt.cli.plot import require_picture, save
    from scratchgpt.cli.progress import waiting
    from scratchgpt.inspection.inside import attention_maps, without_future
    from scratchgpt.inspection.labels import label
    from scratchgpt.model.gpt import GPT
    from scratchgpt.training import checkpoint
    from scratchgpt.training.locate import locate

    out = out or Path("-".join(["attention", *re.findall(r"\w+", prompt)])[:LONGEST_NAME] + ".png")
    require_picture(out, force=force)
    folder = locate(model)
    with waiting("Drawing ..."):
        config, params, vocabulary = checkpoint.open_model(folder)
        layers = _chosen(layer, config.n_layer, "layer")
        heads = _chosen(head, config.n_head, "head")
        ids = vocabulary.encode(prompt)
        n_seen = min(config.block_size, MOST_TOKENS)
        gpt = GPT(config, backend.select(resolved(device or "auto")), *params)
        maps = attention_maps(gpt, ids[-n_seen:])[layers[0] : layers[-1] + 1, heads[0] : heads[-1] + 1]
        labels = [label(vocabulary, index) for index in ids[-n_seen:]]
        save(figure(without_future(maps), labels, layers, heads), out, force=force)
    if len(ids) > n_seen:
        say(f"The prompt has {len(ids):,} tokens; the picture shows the last {n_seen:,} of them.", err=True)
    say(str(out))


def _chosen(number: int | None, count: int, kind: str) -> range:
    """Return which layers or heads to draw. Raises UsageError if there is no such one."""
    if number is None:
        return range(count)
    if number >= count:
        raise UsageError(f"There is no {kind} {number}: the model's count from 0 to {count - 1}.")
    return range(number, number + 1)


def figure(maps: "Array", labels: list[str], layers: Sequence[int], heads: Sequence[int]) -> "Figure":
    """Draw maps (L, H, T, T) of these layers and heads, NaN where a head cannot look, with labels of T tokens.

    One layer or one head of a model is drawn as near to a square as it goes, all as a table. Raises UsageError.
    """
    with imports("Drawing", "plot"):
        import matplotlib as mpl
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure
    L, H = maps.shape[:2]
    is_table = L > 1 and H > 1
    n_columns = H if is_table else math.ceil(math.sqrt(L * H))
    n_rows = math.ceil(L * H / n_columns)
    inches = ENLARGED if L * H == 1 else min(max(WIDTH / n_columns, SMALLEST), LARGEST)
    gap = 0.08 if is_table else 0.3 / inches
    picture = Figure(figsize=(inches * n_columns + 1.8, inches * n_rows + 1.0), layout="constrained")
    # All heads share one Axes, each head as wide and high as 1: of one for each, a hundred take many seconds.
    axes = picture.add_subplot()
    axes.spines[:].set_visible(False)
    colours = mpl.colormaps["magma_r"].with_extremes(bad="0.94")
    scale = PowerNorm(0.5, 0, 1)
    for number, (layer, head) in enumerate((layer, head) for layer in range(L) for head in range(H)):
        left, top = (place * (1 + gap) for place in reversed(divmod(number, n_columns)))
        extent = (left, left + 1, top + 1, top)
        image = axes.imshow(maps[layer, head], cmap=colours, norm=scale, interpolation="nearest", extent=extent)
        title = f"layer {layers[layer]}, head {heads[head]}"
        if is_table:
            title = f"head {heads[head]}" if layer == 0 else ""
            if head == H - 1:
                axes.text(left + 1 + gap, top + 0.5, f"layer {layers[layer]}", fontsize=9, rotation=270, va="center")
        axes.text(left + 0.5, top - 0.04 / inches, title, fontsize=9, ha="center", va="bottom")
    axes.set(xlim=(0, n_columns * (1 + gap)), ylim=(n_rows * (1 + gap) - gap, -gap))
    _label(axes, labels, inches, [[place * (1 + gap) for place in range(n)] for n in (n_columns, n_rows)])
    axes.set_xlabel("each row: a token that looks; each column: what it looks at", fontsize=9)
    bar = picture.colorbar(image, ax=axes, shrink=min(1.0, 3 / (inches * n_rows)), aspect=18, pad=0.02)
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"])
    bar.outline.set_visible(False)
    return picture


def _label(axes: "Axes", labels: list[str], inches: float, begins: Sequence[Sequence[float]]) -> None:
    """Write the tokens below columns and beside rows that begin there: all of them, or as many as can be read."""
    smallest, largest = LETTERS
    room = 72 * inches / len(labels) * 0.8
    every = math.ceil(smallest / room)
    across, down = (
        [begin + (place + 0.5) / len(labels) for begin in part for place in range(0, len(labels), every)]
        for part in begins
    )
    style: dict[str, Any] = {"fontsize": min(max(room, smallest), largest), "parse_math": False}
    axes.tick_params(length=0, pad=1)
    axes.set_xticks(across, labels[::every] * len(begins[0]), rotation=90 * (max(map(len, labels)) > 1), **style)
    axes.set_yticks(down, labels[::every] * len(begins[1]), **style)
