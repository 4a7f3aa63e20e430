"""Command-line options made from the fields of the configuration: each is declared once, in config.py.

Only vocab_size has none: it is a fact of the data.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from scratchgpt.config import ModelConfig, TrainConfig

Function = Callable[..., Any]


def _fields(record: type[ModelConfig | TrainConfig]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(record) if field.name != "vocab_size"]


def config_options(*records: type[ModelConfig | TrainConfig]) -> Callable[[Function], Function]:
    """Give a command one option for each field; what was not typed is None."""

    def decorate(function: Function) -> Function:
        for record in reversed(records):
            for field in reversed(_fields(record)):
                name = "--" + field.name.replace("_", "-")
                declaration = f"{name}/--no-{name[2:]}" if field.type is bool else name
                option = click.option(
                    declaration, field.name, type=field.type, default=None, help=field.metadata["help"]
                )
                function = option(function)
        return function

    return decorate


def typed(record: type[ModelConfig | TrainConfig], settings: dict[str, Any]) -> dict[str, Any]:
    """Return those of a command's arguments that belong to `record` and were typed."""
    names = [field.name for field in _fields(record)]
    return {name: settings[name] for name in names if settings[name] is not None}
