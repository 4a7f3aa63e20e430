"""`scratchgpt info`: what is in a file or folder."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scratchgpt.wording import duration, shown

if TYPE_CHECKING:  # imported when the command runs
    from rich.console import Console

NARROW, WIDE = 60, 100
"""Columns below which a table does without what matters least, and from which a tensor is one line."""

NAMES = {"seconds": "trained for", "when": "last written", "steps": "of steps", "scratchgpt": "version"}
"""What people read where the JSON has a shorter name."""


@click.command("info", short_help="Tell what is in a file or folder.")
@click.argument("path", required=False, metavar="[PATH]", type=click.Path(path_type=Path))
@click.option("--tensors", "with_tensors", is_flag=True, help="Look at each tensor: its shape and its numbers.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
def command(*, path: Path | None, with_tensors: bool, is_json: bool) -> None:
    """Tell what is in PATH, by default the newest run in runs/.

    PATH is a run, a checkpoint, a folder of Hugging Face's, prepared data, or a .safetensors, tokenizer.json or .bin
    file. Nothing that it holds is run, and what is damaged is named.
    """
    from scratchgpt.cli.progress import stages
    from scratchgpt.inspection.describe import describe
    from scratchgpt.training.places import newest_run

    path = path or newest_run()
    with stages("tensors" if with_tensors else path.name) as show:
        report = describe(path, with_tensors=with_tensors, progress=lambda n, total: show("Reading", n, total))
    if is_json:
        click.echo(json.dumps(report))
    else:
        _show(report)


def _show(report: Mapping[str, Any]) -> None:
    """Print a report for people."""
    from rich.text import Text

    from scratchgpt.cli.console import table_terminal

    console = table_terminal()
    title = Text.assemble((_plain(report["path"]), "bold"), f": {_article(report['kind'])}, {_size(report['bytes'])}")
    console.print(title)
    sections: dict[str, Callable[[Console, Any], None]] = {
        "architecture": _architecture,
        "parameters": _parameters,
        "tokenizer": _tokenizer,
        "training": _training,
        "data": _data,
        "tensors": _tensors,
    }
    for name, show in sections.items():
        if name in report:
            console.print(Text(f"\n{name}", style="bold"))
            show(console, report[name])
    for problem in report["problems"]:
        console.print(Text.assemble("\n", ("Problem: ", "yellow"), _plain(problem)))


def _architecture(console: "Console", part: Mapping[str, Any]) -> None:
    _pairs(console, part.items())


def _parameters(console: "Console", part: Mapping[str, Any]) -> None:
    """Print a table of parts: in one layer, in all, and their share."""
    rows: list[Sequence[str]] = []
    for row in part["parts"]:
        n_layers = row["layers"]
        each = f"{row['count'] // n_layers:,}" if n_layers else ""
        rows.append((row["part"], each, f"{row['count']:,}", f"{row['share']:.1%}"))
    if part["tied_head"] and all(row[0] != "head" for row in rows):
        rows.append(("head", "", "tied", ""))
    rows.append(("all", "", f"{part['total']:,}", ""))
    n_layers = max((row["layers"] for row in part["parts"]), default=0)
    columns = ("", "each layer", f"all {n_layers} layers" if n_layers else "count", "share")
    shown = [0, 2, 3] if console.width < NARROW else [0, 1, 2, 3]
    _table(console, [columns[at] for at in shown], [[row[at] for at in shown] for row in rows])


def _tokenizer(console: "Console", part: Mapping[str, Any]) -> None:
    examples = "  ".join(f"{example['id']} {example['text']}" for example in part["examples"])
    special = "  ".join(f"{index} {name}" for name, index in part["special"].items())
    rows = [("kind", part["kind"]), ("tokens", part["size"]), ("special", special or "none"), ("such as", examples)]
    _pairs(console, rows)


def _training(console: "Console", part: Mapping[str, Any]) -> None:
    """Print how far a run is, and of its recipe what is not the default."""
    told = {name: value for name, value in part.items() if value is not None}
    if "seconds" in told:
        told["seconds"] = duration(told["seconds"])
    if "recipe" in told:
        told["recipe"] = ", ".join(f"{name} {_value(value)}" for name, value in part["recipe"].items())
    _pairs(console, ((NAMES.get(name, name), value) for name, value in told.items()))


def _data(console: "Console", part: Mapping[str, Any]) -> None:
    """Print the parts of prepared data, or what a bare token file holds."""
    for name, there in part.get("parts", {}).items():
        files = f" in {there['files']} files" if there["files"] > 1 else ""
        _pairs(console, [(name, f"{there['tokens']:,} tokens{files}"), ("begins", _quoted(there["begins"]))])
    rest = ((name, value) for name, value in part.items() if name not in {"parts", "sources"})
    _pairs(console, ((name, _quoted(value) if name == "begins" else value) for name, value in rest))
    if "sources" in part:
        columns = ("source", "documents", "characters", "tokens")
        rows = [(row["name"], *(f"{row[column]:,}" for column in columns[1:])) for row in part["sources"]]
        _table(console, columns, rows)


def _tensors(console: "Console", part: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each tensor, or two where there is little room."""
    numbers = ("mean", "std", "min", "max")
    rows = []
    for tensor in part:
        shape = (" x ".join(map(str, tensor["shape"])) or "one number", tensor["dtype"])
        found = ["" if tensor.get(name) is None else f"{tensor[name]:.4g}" for name in numbers]
        odd = ", ".join(
            f"{tensor[name]:,} {what}"
            for name, what in (("n_nan", "NaN"), ("n_infinite", "infinite"))
            if tensor.get(name)
        )
        rows.append((tensor["name"], *shape, *found, odd))
    if console.width >= WIDE:
        has_odd = any(odd for *_, odd in rows)
        columns = ("tensor", "shape", "type", *numbers, *(["not finite"] if has_odd else []))
        _table(console, columns, [row[: len(columns)] for row in rows])
        return
    for name, shape, kind, *found, odd in rows:
        told = ", ".join(f"{name} {value}" for name, value in zip(numbers, found, strict=True) if value)
        console.print(_plain(name))
        console.print(f"  {', '.join(filter(None, (shape, kind, told, odd)))}")


def _pairs(console: "Console", pairs: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, what is long over several lines."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=12)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(f"  {name.replace('_', ' ')}"), Text(_value(value)))
    console.print(grid)


def _table(console: "Console", columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of names and numbers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(
            column and f"  {column}" if not number else column, justify="right" if number else "left", overflow="fold"
        )
    for name, *numbers in rows:
        table.add_row(Text(f"  {_plain(name)}"), *map(Text, numbers))
    console.print(table)


def _value(value: Any) -> str:
    """Return a value as people write it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(map(_value, value)) or "none"
        case _:
            return _plain(str(value))


def _plain(text: str) -> str:
    """Return a text that does nothing to a terminal, in ASCII where that is all it shows."""
    from scratchgpt.cli.console import has_unicode

    return shown(text) if has_unicode() else shown(text).encode("ascii", "backslashreplace").decode("ascii")


def _quoted(text: str) -> str:
    """Return a text on one line."""
    return json.dumps(text, ensure_ascii=False)


def _article(kind: str) -> str:
    return kind if kind == "prepared data" else f"a {kind}"


def _size(n_bytes: int) -> str:
    """Return a size with a unit, three digits."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
