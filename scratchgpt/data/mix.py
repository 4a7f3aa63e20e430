"""Sources in proportion: which there are, what each weighs, and how many tokens of each that makes.

A mixture is exact in tokens and as large as it can be: the source that has the least for its weight is taken whole,
and of the others what keeps the ratio.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scratchgpt.data.reading import bare_name
from scratchgpt.data.sources import TextFile, text_files
from scratchgpt.data.unpacking import is_hidden
from scratchgpt.errors import DataError, UsageError

WEIGHTED = re.compile(r"([+-]?\d+(?:\.\d+)?)_(.+)")
"""A sub-folder that says its weight: 25_lovecraft."""
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-9, 1e9
"""Within these, sums and ratios of weights are finite."""


class Source(NamedTuple):
    """Files that belong together, and what they weigh in the mixture: None if there is none."""

    name: str
    files: list[TextFile]
    weight: float | None = None


def source_name(path: Path) -> str:
    """Return what a source is called: its file without suffixes like .txt.gz, or its folder."""
    if path.is_dir():
        return path.resolve().name
    return Path(bare_name(path.name)).stem


def find_sources(paths: Sequence[Path], mix: Sequence[str] = (), *, mix_folders: bool = False) -> list[Source]:
    """Return all files as one source, or the sources of a mixture. Raises DataError and UsageError.

    It is a mixture if `mix` has NAME=WEIGHT for each entry of the one folder, or for each of `paths`; with
    `mix_folders` the sub-folders of the one folder say their weights.
    """
    if mix and mix_folders:
        raise UsageError("--mix and --mix-folders both weigh the sources; use one of them.")
    if not mix and not mix_folders:
        name = source_name(paths[0]) if len(paths) == 1 else "text"
        return [Source(name, [file for path in paths for file in text_files(path)])]
    parts = list(paths)
    if len(parts) == 1 and parts[0].is_dir():
        parts = _visible(parts[0])
    elif mix_folders:
        raise UsageError("--mix-folders needs one folder, whose sub-folders are named like 25_lovecraft.")
    if mix_folders:
        typed = [_weighted(part) for part in parts]
        names = [name for _, name in typed]
        if len(set(names)) < len(names):  # 25_poems and 75_poems
            names = [part.name for part in parts]
        weights = [_positive(weight, part.name) for (weight, _), part in zip(typed, parts, strict=True)]
    else:
        names = different_names(parts)
        by_name = _typed_weights(mix, names)
        weights = [by_name[name] for name in names]
    return [Source(name, text_files(part), weight) for name, part, weight in zip(names, parts, weights, strict=True)]


def looks_weighted(paths: Sequence[Path]) -> bool:
    """Return whether a user may have meant a mixture: one folder has a sub-folder named like 25_lovecraft."""
    parts = _visible(paths[0]) if len(paths) == 1 and paths[0].is_dir() else []
    return any(part.is_dir() and WEIGHTED.fullmatch(part.name) for part in parts)


def different_names(paths: Sequence[Path]) -> list[str]:
    """Return a different name for each path: its stem, or as many of its last parts as it takes. Raises UsageError."""
    for n_parts in range(max((len(path.parts) for path in paths), default=0) + 1):
        names = [Path(*path.parts[-n_parts:]).as_posix() if n_parts else source_name(path) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"{next(path for path in paths if paths.count(path) > 1)} is named twice; name it once.")


def _visible(folder: Path) -> list[Path]:
    """Return the visible files and folders of a folder, sorted by name."""
    return sorted((path for path in folder.iterdir() if not is_hidden(path.name)), key=lambda path: path.name)


def _weighted(part: Path) -> tuple[str, str]:
    """Return the weight and the name that a sub-folder's name holds. Raises UsageError."""
    match = WEIGHTED.fullmatch(part.name)
    if not match or not part.is_dir():
        raise UsageError(
            f"--mix-folders needs sub-folders named like 25_{part.stem}; {part} is not one.",
            advice="Rename it, or give all weights with --mix NAME=WEIGHT.",
        )
    return match[1], match[2]


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
    if not SMALLEST_WEIGHT <= weight <= LARGEST_WEIGHT:
        raise UsageError(
            f"The weight of {where} must be a number above 0, from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}."
        )
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
