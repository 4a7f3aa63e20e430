"""`scratchgpt prepare`: from a text to token files."""

from pathlib import Path

import click


@click.command("prepare")
@click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--char", is_flag=True, default=True, help="One token for each character (the default).")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Where to write; by default data/<name>.")
@click.option("--val-fraction", type=float, default=0.1, show_default=True, help="Share of the text for validation.")
@click.option("--force", is_flag=True, help="Replace what was prepared there from something else.")
def command(*, source: Path, char: bool, out: Path | None, val_fraction: float, force: bool) -> None:  # noqa: ARG001
    """Turn a UTF-8 text into a folder of tokens to train on."""
    from scratchgpt.cli.render import byte_progress
    from scratchgpt.data.prepare import prepare

    folder = out or Path("data") / source.stem
    with byte_progress(f"Reading {source}", total=2 * source.stat().st_size) as progress:
        prepared = prepare(source, folder, val_fraction=val_fraction, force=force, progress=progress)
    meta = prepared.meta
    click.echo(
        f"{prepared.folder} {'is ready' if prepared.is_new else 'was prepared from this text before'}: "
        f"{meta['train_tokens']:,} tokens to train on, {meta['val_tokens']:,} to validate, "
        f"{meta['vocab_size']:,} different characters."
    )
