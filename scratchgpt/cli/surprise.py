"""`scratchgpt surprise`: a text, coloured by how much each token surprised a model."""

import math
from pathlib import Path

import click

from scratchgpt.cli import say
from scratchgpt.cli.options import device_option, encoded, model_option, read_text, resolved
from scratchgpt.errors import DataError, UsageError
from scratchgpt.files import require_free, written_whole


@click.command("surprise", short_help="Colour a text by how much it surprises a model.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@model_option
@click.option(
    "-o",
    "--out",
    metavar="PAGE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page; by default FILE.surprise.html, or surprise.html.",
)
@click.option(
    "--top",
    metavar="K",
    type=click.IntRange(min=0, max=50),
    default=3,
    show_default=True,
    help="How many of the likeliest tokens to tell of at each place; fewer make a smaller page.",
)
@click.option("--skip-unknown", is_flag=True, help="Leave out what the vocabulary does not have.")
@click.option("--force", is_flag=True, help="Replace the page if it is there.")
@device_option
def command(
    *,
    file: Path,
    model: Path | None,
    out: Path | None,
    top: int,
    skip_unknown: bool,
    force: bool,
    device: str | None,
) -> None:
    """Write a page that shows FILE (-: standard input), each token coloured by its loss.

    The page is one file that needs nothing else. Resting the mouse on a token tells its loss, its probability, and
    which tokens were the likeliest.
    """
    from scratchgpt import backend
    from scratchgpt.cli.progress import stages
    from scratchgpt.inspection.inside import joined, predictions
    from scratchgpt.inspection.page import page, summary
    from scratchgpt.model.gpt import GPT
    from scratchgpt.training import checkpoint
    from scratchgpt.training.locate import locate

    is_piped = str(file) == "-"
    out = out or Path("surprise.html" if is_piped else f"{file}.surprise.html")
    require_free(out, force=force)
    folder = locate(model)
    config, params, vocabulary = checkpoint.open_model(folder)
    with click.open_file(str(file), "rb") as opened:
        _, ids = encoded(read_text(opened, "text"), vocabulary, skip_unknown=skip_unknown)
    if len(ids) < 2:
        raise UsageError("The text has no token that follows another; give at least two.")
    gpt = GPT(config, backend.select(resolved(device or "auto")), *params)
    parts = []
    title = "standard input" if is_piped else file.name
    with stages(title) as show:
        for part in predictions(gpt, ids, top, vocabulary.unused):
            parts.append(part)
            show("Reading", len(part.losses), len(ids) - 1)
        said = joined(parts)
        if not math.isfinite(said.losses.sum()):
            raise DataError(
                f"{folder} predicts nothing that is a number: its weights are too large; use another model."
            )
        about = summary(title, str(folder), vocabulary, ids, said, config.block_size)
        with (
            written_whole(out, force=force) as temporary,
            temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as written,
        ):
            for piece in page(vocabulary, ids, said, about):
                written.write(piece)
                show("Writing", 1, len(ids))
    say(str(out))
