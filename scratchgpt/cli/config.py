"""`scratchgpt config`: what a training would go by."""

from pathlib import Path
from typing import Any

import click

from scratchgpt.cli.options import asked_for, recipe_options
from scratchgpt.config import ModelConfig, TrainConfig, load_recipe


@click.command("config", short_help="Show the recipe that a training would go by.")
@click.option(
    "--init", metavar="DIR", type=click.Path(path_type=Path), help="Take the sizes of a run, a checkpoint or a model."
)
@click.option("--data", metavar="DIR", type=click.Path(path_type=Path), help="Take the number of tokens of this data.")
@recipe_options
def command(
    *,
    preset: str | None,
    config: Path | None,
    changes: tuple[str, ...],
    init: Path | None,
    data: Path | None,
    **settings: Any,
) -> None:
    """Print the recipe that `scratchgpt train` goes by with the same options, as TOML that --config reads.

    A comment says where each value comes from: a default gives way to the preset, that to --config, that to --set and
    the options. The number of tokens is always that of the data trained on.
    """
    recipe = load_recipe(preset, config).with_settings(asked_for(settings, changes))
    if init is not None:
        from scratchgpt.model.folder import load_config
        from scratchgpt.training.locate import locate

        recipe = recipe.for_weights(load_config(locate(init) / "config.json"), f"--init {init}")
    if data is not None:
        from scratchgpt import tokenizer

        recipe = recipe.changed({"vocab_size": tokenizer.load(data).vocab_size}, f"data {data}")
    ModelConfig.from_mapping({"vocab_size": 1} | recipe.of(ModelConfig))
    TrainConfig.from_mapping(recipe.of(TrainConfig))
    click.echo(recipe.to_toml(), nl=False)
