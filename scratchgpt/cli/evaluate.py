"""`scratchgpt evaluate`: how well a trained model predicts a whole text."""

import json
from pathlib import Path

import click

from scratchgpt.cli import say
from scratchgpt.cli.options import device_option, resolved
from scratchgpt.errors import UsageError

BATCH = 64
"""Sequences that a GPU is given at once, if they fit."""

FOLDER = click.Path(path_type=Path)


@click.command("evaluate", short_help="Measure a trained model on a whole text.")
@click.argument("model", required=False, metavar="[RUN]", type=FOLDER)
@click.option("--data", metavar="DIR", type=FOLDER, help="Prepared data; by default what the model was trained on.")
@click.option(
    "--split", type=click.Choice(["val", "train"]), default="val", show_default=True, help="Which part of the data."
)
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
@device_option
def command(*, model: Path | None, data: Path | None, split: str, is_json: bool, device: str | None) -> None:
    """Measure a model on a whole text, by default that of the newest run in runs/.

    RUN is a run, a checkpoint, RUN/checkpoints/best, or a folder of a GPT-2 that `transformers` has saved.
    Every token of the part is predicted once: mean loss in nats, perplexity, bits for each byte of the text, and how
    often the likeliest token was the right one.
    """
    from scratchgpt import backend
    from scratchgpt.cli.progress import stages, waiting
    from scratchgpt.config import TrainConfig
    from scratchgpt.data.dataset import Dataset, require_vocabulary
    from scratchgpt.engine.plan import default_plan
    from scratchgpt.model.gpt import GPT
    from scratchgpt.training import checkpoint
    from scratchgpt.training.evaluation import Measured, measure
    from scratchgpt.training.locate import locate
    from scratchgpt.training.origin import open_data

    folder = locate(model)
    device = resolved(device or "auto")
    with waiting("Checking model and data ..."):
        dataset = Dataset.open(data) if data else open_data(folder)
        config, params, tokenizer = checkpoint.open_model(folder)
    require_vocabulary(folder, tokenizer, dataset.folder, dataset.tokenizer)
    part = dataset.val if split == "val" else dataset.train
    if part.size < 2:
        raise UsageError(f"The {split} part of {dataset.folder} has no token that follows another; use a longer text.")
    train = TrainConfig(steps=1, batch_size=BATCH, learning_rate=1)
    sizes = {
        "batch_size": default_plan(config, train, lanes=1, device=device).micro_batch,
        "block_size": config.block_size,
    }
    gpt = GPT(config, backend.select(device), *params)
    n_batches = dataset.n_whole_batches(part, **sizes)
    measured = Measured()
    with stages(f"{split} of {dataset.folder}") as show:
        for measured in measure(gpt, tokenizer, dataset.whole(part, **sizes)):  # noqa: B007 - the last one is used
            show("Measuring", 1, n_batches)
    if is_json:
        report = {
            "model": folder.as_posix(),
            "data": dataset.folder.as_posix(),
            "split": split,
            "loss": measured.loss,
            "perplexity": measured.perplexity,
            "bits_per_byte": measured.bits_per_byte,
            "accuracy": measured.accuracy,
            "tokens": measured.n_targets,
            "bytes": measured.n_bytes,
        }
        click.echo(json.dumps(report))
    else:
        say(
            f"{folder} on {split} of {dataset.folder}: loss {measured.loss:.4f}, perplexity {measured.perplexity:.2f}, "
            f"{measured.bits_per_byte:.4f} bits per byte, accuracy {measured.accuracy:.1%} "
            f"({measured.n_targets:,} tokens, {measured.n_bytes:,} bytes)"
        )
