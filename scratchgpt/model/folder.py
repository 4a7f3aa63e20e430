"""A model as a folder: config.json and model.safetensors, which other tools open as they are.

The format (model/formats) defines their contents. Folders that other programs have written open here, too: see
docs/folders.md.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scratchgpt.config import ModelConfig
from scratchgpt.errors import CheckpointError, UsageError, did_you_mean
from scratchgpt.files import read_json, write_json
from scratchgpt.model import tensors
from scratchgpt.model.formats import FORMATS, format_for
from scratchgpt.model.formats.base import Format, Place
from scratchgpt.model.params import Layout
from scratchgpt.model.tensors import Tensor
from scratchgpt.ops.array import Array

CONFIG, WEIGHTS = FILES = ("config.json", "model.safetensors")
INDEX = "model.safetensors.index.json"
"""Names the files that hold the weights, where those are many."""

DEFAULT_TYPE = "gpt2"
"""The type of a config.json without a model_type."""

PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


class Found(NamedTuple):
    """A model in a folder, before any of its numbers is read."""

    config: ModelConfig
    places: dict[str, Place]
    tensors: dict[str, Tensor]  # by the names in `places`; copies may be missing


def save(folder: Path, config: ModelConfig, params: Array, ends: Sequence[int] = ()) -> None:
    """Write the model with flat parameters (P,), a NumPy array, into `folder`, with the ids that end its texts.

    Raises UsageError if no format can hold it, and OSError.
    """
    fitting, views = format_for(config), Layout(config).views(params)
    named = {
        name: np.zeros(place.shape, params.dtype) if place.leaf is None else views[place.leaf]
        for name, place in fitting.places(config).items()
        if not place.is_copy
    }
    write_json(folder / CONFIG, fitting.to_json(config, ends))
    tensors.save(folder / WEIGHTS, named)


def load(folder: Path) -> tuple[ModelConfig, Array]:
    """Read a model: its configuration and flat parameters (P,) float32. Raises CheckpointError."""
    config, parts = load_parts(folder)
    return config, np.concatenate(parts)


def load_parts(folder: Path) -> tuple[ModelConfig, list[Array]]:
    """Read a model for use: its configuration, and its flat parameters (P,) float32 in parts, one for each leaf.

    float32 tensors are memory-mapped, so the file must not change.
    Raises CheckpointError.
    """
    config, places, found = find(folder)
    leaves: dict[str, Array] = {}
    for name, place in places.items():
        if name not in found:
            continue
        numbers = found[name].numbers()
        if place.leaf is None:
            if numbers.any():
                raise CheckpointError(f"{folder} says that the model has no biases, but {name} is not zero.")
        elif not place.is_copy:
            leaves[place.leaf] = numbers
        elif not np.array_equal(numbers, leaves[place.leaf]):
            raise CheckpointError(
                f"{folder}: {name} is not {place.leaf}, though config.json says that they are one; if the head is its "
                "own, write tie_word_embeddings: false there."
            )
    return config, [leaves[leaf.name].reshape(-1) for leaf in Layout(config).leaves]


def find(folder: Path) -> Found:
    """Find a model's configuration and its tensors, and check their names and shapes. Raises CheckpointError."""
    known, config = read_config(folder / CONFIG)
    found, places = _tensors(folder, known), known.places(config)
    expected = {name: place.shape for name, place in places.items() if name in found or not place.is_copy}
    require(folder, found, expected)
    return Found(config, places, found)


def load_config(path: Path) -> ModelConfig:
    """Read a config.json. Raises CheckpointError."""
    _, config = read_config(path)
    return config


def read_config(path: Path) -> tuple[Format, ModelConfig]:
    """Read a config.json: in which format, and of which architecture. Raises CheckpointError."""
    content = read_json(path, CheckpointError)
    known = _format_of(path, content)
    try:
        config = known.from_json(content)
        Layout(config)  # refuses what no machine could hold
    except UsageError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    return known, config


def _format_of(path: Path, content: Mapping[str, Any]) -> Format:
    """Return the format of a config.json. Raises CheckpointError."""
    name = content.get("model_type", DEFAULT_TYPE)
    if not isinstance(name, str) or name not in FORMATS:
        raise CheckpointError(
            f"{path} describes a model of the type {name!r}{did_you_mean(str(name), FORMATS)}; known types: "
            f"{', '.join(FORMATS)}."
        )
    return FORMATS[name]


def end_tokens(folder: Path, vocab_size: int) -> tuple[int, ...]:
    """Return the ids that end a model's texts. Raises CheckpointError.

    As in `transformers`, generation_config.json counts before config.json, and what neither says is the format's own.
    """
    for path in (folder / "generation_config.json", folder / CONFIG):
        if not path.exists():
            continue
        content = read_json(path, CheckpointError)
        usual = _format_of(path, content).end if path.name == CONFIG else None
        ends = content.get("eos_token_id", usual)
        if ends is None:
            continue
        several = ends if isinstance(ends, list) else [ends]
        if any(type(end) is not int for end in several):
            raise CheckpointError(f"{path}: its eos_token_id {ends!r} is neither an id nor a list of ids.")
        return tuple(end for end in several if 0 <= end < vocab_size)
    return ()


def require(path: Path, found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError if the tensors found at `path` are not just those of these names and shapes."""
    if found.keys() != shapes.keys():
        missing, extra = (
            ", ".join(sorted(odd)[:3]) for odd in (shapes.keys() - found.keys(), found.keys() - shapes.keys())
        )
        raise CheckpointError(
            f"{path} does not fit its config.json: missing {missing or 'nothing'}; unexpected {extra or 'nothing'}."
        )
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise CheckpointError(
                f"{found[name].path}: {found[name].name} is of the shape {found[name].shape}, not {shape}."
            )


def refuse_pickles(path: Path) -> None:
    """Raise CheckpointError if a file, or one in a folder, is by its name what `pickle` has written."""
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        if any(file.match(pattern) for pattern in PICKLES):
            raise CheckpointError(about_pickle(file))


def about_pickle(path: Path) -> str:
    """Return why a pickle is not opened, and what to do."""
    why = (
        f"{path} is a pickle: to open it would run the code in it, so it is not opened here. If you trust "
        "where it is from, convert it"
    )
    if not path.match(PICKLES[0]):
        return f"{why}: load it with the program that wrote it, and save its tensors as model.safetensors."
    return (
        f'{why}, for example with transformers: python -c "import sys; '
        "from transformers import GPT2LMHeadModel as Model; F = sys.argv[1]; "
        'Model.from_pretrained(F).save_pretrained(F, safe_serialization=True)" '
        f"{shlex.quote(path.parent.as_posix())}"  # a name may hold what a shell would obey
    )


def _tensors(folder: Path, known: Format) -> dict[str, Tensor]:
    """Return the tensors of a folder's weights, by their names in the format's places. Raises CheckpointError."""
    found = {}
    for path in _weight_files(folder):
        for theirs, tensor in tensors.load(path).items():
            name = known.name_of(theirs)
            if name is None:
                continue
            if name in found:
                raise CheckpointError(f"{path} holds {name}, which is there already.")
            found[name] = tensor
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder. Raises CheckpointError if there are none."""
    single, index = folder / WEIGHTS, folder / INDEX
    if single.exists():
        return [single]
    if not index.exists():
        refuse_pickles(folder)
        raise CheckpointError(f"{folder} has no weights, neither {single.name} nor {index.name}.")
    places = read_json(index, CheckpointError).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} is damaged: it has no weight_map.")
    for place in places.values():
        if not isinstance(place, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", place):
            raise CheckpointError(f"{index} names {place!r}, which is no safetensors file of this folder.")
    return [folder / name for name in sorted(set(places.values()))]
