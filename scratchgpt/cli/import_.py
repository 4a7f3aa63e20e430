"""`scratchgpt import`: models and data of other programs."""

from pathlib import Path

import click

from scratchgpt.cli import say
from scratchgpt.errors import UsageError

ENDINGS = (".safetensors", ".config.json", ".training_log.json")


@click.command("import", short_help="Bring a model or data of nanogpt-rusted.")
@click.option("--rusted", "stem", metavar="STEM", type=click.Path(path_type=Path), help="A model: its files' STEM.")
@click.option(
    "--vocab",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The model's vocab.json; by default the one beside it.",
)
@click.option(
    "--rusted-data", "data", metavar="DIR", type=click.Path(path_type=Path), help="Data: where train.bin, ... are."
)
@click.option(
    "-o",
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where to write; by default a folder named STEM beside the files, or data/<name>.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
def command(*, stem: Path | None, vocab: Path | None, data: Path | None, out: Path | None, force: bool) -> None:
    """Turn what nanogpt-rusted has written into a folder that all commands take.

    \b
    scratchgpt import --rusted model_step_15000 --vocab data/vocab.json
    scratchgpt import --rusted-data shakespeare/
    """  # noqa: D301 - \b is click's mark for lines that are not to be wrapped
    if (stem is None) == (data is None):
        raise UsageError("Say what to bring: --rusted STEM for a model, or --rusted-data DIR for data.")
    if stem is not None:
        _import_model(stem, vocab, out, force=force)
        return
    if vocab is not None:
        raise UsageError("--vocab is a model's; --rusted-data takes the vocab.json beside train.bin.")
    assert data is not None  # noqa: S101 - as the first lines have seen to
    from scratchgpt.training.places import DATA

    _import_data(data, out or DATA / data.resolve().name, force=force)


def _import_model(stem: Path, vocab: Path | None, out: Path | None, *, force: bool) -> None:
    """Write the folder of a model. Raises CheckpointError, DataError, UsageError and OSError."""
    from scratchgpt import tokenizer as tokenizers
    from scratchgpt.cli.progress import waiting
    from scratchgpt.data.rusted import VOCABULARY, read_vocabulary
    from scratchgpt.files import copy_mode, folder_written_whole
    from scratchgpt.interchange.rusted import read_model
    from scratchgpt.model import folder as model_folder
    from scratchgpt.model.formats.gpt2 import HEAD_BIAS_NOTE

    if not stem.name:
        raise UsageError(f"{stem} names no file; give what its names begin with, as in --rusted model_step_1000.")
    for ending in ENDINGS:
        stem = stem.with_name(stem.name.removesuffix(ending))
    out = out or stem
    vocab = vocab or stem.with_name(VOCABULARY)
    if not vocab.is_file():
        raise UsageError(f"There is no {vocab}; name the vocab.json of the model's data with --vocab.")
    vocabulary = read_vocabulary(vocab, tell=lambda what: say(what, err=True))
    with waiting(f"Reading {stem} ..."):
        config, params = read_model(stem, vocabulary)
        names = (*model_folder.FILES, *tokenizers.FILES)
        with folder_written_whole(out, names, force=force) as folder:
            model_folder.save(folder, config, params)
            tokenizers.save(vocabulary.tokenizer, folder)
            # safetensors makes files that only their owner can read
            copy_mode(folder / names[1], like=folder / names[0])
    say(f"{out} is ready: {params.size:,} parameters. {HEAD_BIAS_NOTE}")


def _import_data(source: Path, out: Path, *, force: bool) -> None:
    """Write a prepared folder. Raises DataError and UsageError."""
    from scratchgpt.cli.progress import stages
    from scratchgpt.data.rusted import import_data

    with stages(str(source)) as progress:
        prepared = import_data(source, out, force=force, progress=progress, tell=lambda what: say(what, err=True))
    meta = prepared.meta
    say(
        f"{out} {'is ready' if prepared.is_new else 'was made of these data before'}: {meta['train_tokens']:,} tokens "
        f"to train on, {meta['val_tokens']:,} to validate, {meta['vocab_size']:,} different ones."
    )
