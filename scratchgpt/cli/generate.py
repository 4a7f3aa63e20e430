"""`scratchgpt generate`: text from a trained model."""

from pathlib import Path

import click

from scratchgpt.cli.options import device_option, resolved


@click.command("generate", short_help="Make text with a trained model.")
@click.argument("model", required=False, metavar="[RUN]", type=click.Path(path_type=Path))
@click.option("--prompt", help="What the text begins with; by default a newline.")
@click.option(
    "--tokens", "n_tokens", type=click.IntRange(min=1), default=200, show_default=True, help="How many to make."
)
@click.option(
    "--temperature", type=float, default=0.8, show_default=True, help="0: always the likeliest; 1: as learnt."
)
@click.option("--top-k", type=int, help="Choose among the k likeliest only.")
@click.option("--top-p", type=float, help="Choose among the fewest likeliest that add up to probability p.")
@click.option("--seed", type=int, default=1337, show_default=True, help="The same seed gives the same text.")
@click.option(
    "--samples", "n_samples", type=click.IntRange(min=1), default=1, show_default=True, help="How many texts."
)
@device_option
def command(
    *,
    model: Path | None,
    prompt: str | None,
    n_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    n_samples: int,
    device: str | None,
) -> None:
    """Continue a prompt with the model of RUN (a run or a checkpoint), by default the newest in runs/."""
    from scratchgpt import backend
    from scratchgpt.generation import Sampling, default_prompt, write
    from scratchgpt.model.gpt import GPT
    from scratchgpt.training import checkpoint

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    folder = checkpoint.locate(model or checkpoint.newest_run(Path("runs")))
    config, params, vocabulary = checkpoint.read_model(folder)
    gpt = GPT(config, backend.select(resolved(device or "auto")), params)
    if prompt is None:
        prompt = default_prompt(vocabulary)
    for sample in range(n_samples):
        if sample:
            click.echo("\n" + "-" * 80)
        for text in write(gpt, vocabulary, prompt, n_tokens, sampling, sample=sample):
            click.echo(text, nl=False)
        click.echo()
