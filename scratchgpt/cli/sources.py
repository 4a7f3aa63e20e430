"""Tables of the sources that `prepare` has found."""

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from scratchgpt.cli.console import table_terminal
from scratchgpt.wording import shown


def show_sources(meta: dict[str, Any]) -> None:
    """Print what `prepare` found in each source, what it kept and dropped, and a mixture's ratio."""
    parts = meta["parts"]
    _print_table(
        ("source", "documents", "characters", "tokens", "characters per token", "kept", "dropped"),
        [
            (
                part["name"],
                f"{part['documents']:,}",
                f"{part['characters']:,}",
                f"{part['tokens']:,}",
                f"{part['characters'] / part['tokens']:.2f}",
                f"{part['kept_tokens']:,}",
                f"{part['tokens'] - part['kept_tokens']:,}",
            )
            for part in parts
        ],
    )
    if n_dropped := sum(part["dropped_characters"] for part in parts):
        print(f"Left out as Project Gutenberg's: {n_dropped:,} characters.")  # noqa: T201 - this module is what prints
    weights = [source["weight"] for source in meta["asked"]["sources"]]
    if None not in weights:
        _show_mixture(parts[: len(weights)], weights)


def _show_mixture(parts: Sequence[dict[str, Any]], weights: Sequence[float]) -> None:
    """Print the ratio that was asked for and the one that there is."""
    kept = sum(part["kept_tokens"] for part in parts)
    _print_table(
        ("mixture", "asked", "taken", "tokens available", "tokens taken", "tokens dropped"),
        [
            (
                part["name"],
                f"{weight / sum(weights):.2%}",
                f"{part['kept_tokens'] / kept:.2%}",
                f"{part['tokens']:,}",
                f"{part['kept_tokens']:,}",
                f"{part['tokens'] - part['kept_tokens']:,}",
            )
            for part, weight in zip(parts, weights, strict=True)
        ],
    )
    if not math.isclose(sum(weights), 100):
        print(f"The weights sum to {sum(weights):g}, not 100: each is taken as its part of that.")  # noqa: T201


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print names and numbers; where the terminal is too narrow, numbers go on in the next line."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title == titles[0] else "right", overflow="fold")
    for name, *numbers in rows:
        table.add_row(Text(shown(name)), *numbers)
    table_terminal().print(table)
