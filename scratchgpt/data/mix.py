"""Sources in proportion: which there are, what each weighs, and how many tokens of each that makes.

A mixture is exact in tokens and as large as it can be: the source that has the least for its weight is taken whole,
and of the others what keeps the ratio.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scratchgpt.data.sources import TextFile, text_files
from scratchgpt.errors import DataError, UsageError

WEIGHTED = re.compile(r"([+-]?\d+(?:\.\d+)?)_(.+)")
"""A sub-folder that says its weight: 25_lovecraft."""


class Source(NamedTuple):
    """Files that belong together, and what they weigh in the mixture: None if there is none."""

    name: str
    files: list[TextFile]
    weight: float | None = None


def source_name(path: Path) -> str:
    """Return what a source is called: its file without suffixes like .txt.gz, or its folder."""
    if path.is_dir():
        return path.resolve().name
    return Path(path.name.removesuffix(".gz").removesuffix(".zst")).stem


def find_sources(paths: Sequence[Path], mix: Sequence[str] = ()) -> list[Source]:
    """Return all files as one source, or the sources of a mixture. Raises DataError and UsageError.

    It is a mixture if one folder is named whose sub-folders say their weights, or if `mix` has NAME=WEIGHT for each
    entry of the one folder, or for each of `paths`.
    """
    parts = list(paths)
    if len(parts) == 1 and parts[0].is_dir():
        visible = (path for path in parts[0].iterdir() if not path.name.startswith("."))
        parts = sorted(visible, key=lambda path: path.name)
    if mix:
        weights = _typed_weights(mix, [source_name(part) for part in parts])
        return [Source(source_name(part), text_files(part), weights[source_name(part)]) for part in parts]
    if len(paths) == 1 and any(part.is_dir() and WEIGHTED.fullmatch(part.name) for part in parts):
        return [_weighted(part) for part in parts]
    name = source_name(paths[0]) if len(paths) == 1 else "text"
    return [Source(name, [file for path in paths for file in text_files(path)])]


def _weighted(part: Path) -> Source:
    """Return the source that a sub-folder's name describes."""
    match = WEIGHTED.fullmatch(part.name)
    if not match or not part.is_dir():
        raise UsageError(
            f"{part} stands beside weighted folders but is none; name it like 25_{part.stem}.",
            advice="Or give all weights with --mix NAME=WEIGHT.",
            page="",
        )
    return Source(match[2], text_files(part), _positive(match[1], part.name))


def _typed_weights(mix: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Return the weights by name: one for each source, and no others."""
    weights: dict[str, float] = {}
    for typed in mix:
        name, equals, weight = typed.rpartition("=")
        if not equals or name in weights:
            raise UsageError(f"--mix {typed} {'names ' + name + ' twice' if equals else 'must be like NAME=WEIGHT'}.")
        weights[name] = _positive(weight, typed)
    if sorted(weights) != sorted(names):
        raise UsageError(f"--mix must weigh each source once: {', '.join(names)}; it has {', '.join(weights)}.")
    return weights


def _positive(text: str, where: str) -> float:
    """Return a weight. Raises UsageError."""
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(f"The weight of {where} must be a number above 0.")
    return weight


def amounts(available: Sequence[int], sources: Sequence[Source]) -> list[int]:
    """Return how many of the `available` tokens of each source the mixture takes. Raises DataError."""
    weights = [source.weight for source in sources]
    known = [weight for weight in weights if weight is not None]
    if len(known) < len(weights):
        return list(available)
    scale = min(n_tokens / weight for n_tokens, weight in zip(available, known, strict=True))
    taken = [min(n_tokens, round(scale * weight)) for n_tokens, weight in zip(available, known, strict=True)]
    for source, n_tokens in zip(sources, taken, strict=True):
        if not n_tokens:
            raise DataError(f"The mixture has no room for even one token of {source.name}: its ratio needs more text.")
    return taken
