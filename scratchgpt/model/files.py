"""A model as a folder of GPT-2's format, config.json and model.safetensors, which other tools open as they are.

What others have written opens here, too: docs/folders.md says what.
"""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scratchgpt.config import ModelConfig
from scratchgpt.errors import CheckpointError, UsageError
from scratchgpt.files import read_json, write_json
from scratchgpt.model import tensors
from scratchgpt.model.params import Layout
from scratchgpt.model.tensors import Tensor
from scratchgpt.ops.array import Array

FILES = ("config.json", "model.safetensors")
INDEX = "model.safetensors.index.json"
"""Names the files that hold the weights, where those are many."""

HEAD_BIAS_NOTE = (
    "The head has a bias, lm_head.bias, which GPT-2's format does not know: transformers leaves it out and computes "
    "other logits."
)

PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
TABLE, HEAD = "transformer.wte.weight", "lm_head.weight"

DEFAULTS = {
    "model_type": "gpt2",
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "bias": True,
    "head_bias": False,
}
"""What is meant by a config.json that does not say it: by `transformers`, and the last two by us."""

GPT2_END = 50256
"""The eos_token_id that is meant by a config.json that does not say it."""

SUPPORTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
"""What changes what the same tensors compute, and the only value that we compute with, which is the default."""

SAME_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}
"""Other names of the same function."""

MASK = re.compile(r"transformer\.h\.[0-9]+\.attn\.(masked_)?bias")
"""What older files hold beside the weights: which positions see which, and what stands for those not seen."""


def save(folder: Path, config: ModelConfig, params: Array, ends: Sequence[int] = ()) -> None:
    """Write the model with flat parameters (P,), a NumPy array, into `folder`, with the ids that end its texts."""
    write_json(folder / "config.json", _to_gpt2(config, ends))
    # GPT-2's format knows no model without biases: zeros stand for them, and config.json says so.
    named = {name: np.zeros(shape, params.dtype) for name, shape in _shapes(config).items()}
    named |= Layout(config).views(params)
    tensors.save(folder / "model.safetensors", named)


def load(folder: Path) -> tuple[ModelConfig, Array]:
    """Read a model: its configuration and flat parameters (P,) float32. Raises CheckpointError."""
    config, parts = load_parts(folder)
    return config, np.concatenate(parts)


def load_parts(folder: Path) -> tuple[ModelConfig, list[Array]]:
    """Read a model for use: its configuration, and its flat parameters (P,) float32 in parts, one for each leaf.

    What the file has as float32 stays where it is, in a file that must not change, and costs neither time nor memory.
    Raises CheckpointError.
    """
    config, found = find(folder)
    head = found.pop(HEAD, None) if config.tie_word_embeddings else None
    numbers = {name: tensor.numbers() for name, tensor in found.items()}
    parts = [numbers.pop(leaf.name).reshape(-1) for leaf in Layout(config).leaves]
    for name, rest in numbers.items():
        if rest.any():
            raise CheckpointError(f"{folder} says that the model has no biases, but {name} is not zero.")
    if head is not None and not np.array_equal(head.numbers(), found[TABLE].numbers()):
        raise CheckpointError(
            f"{folder}: {HEAD} is not {TABLE}, though config.json says that they are one; if the head is its own, "
            "write tie_word_embeddings: false there."
        )
    return config, parts


def find(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return a model's configuration and its tensors, by the names that we have for them; of its numbers, none is read.

    Where the head is tied, it may be there all the same. Raises CheckpointError.
    """
    config = load_config(folder / "config.json")
    found, shapes = _find(folder), _shapes(config)
    if HEAD in found and config.tie_word_embeddings:
        shapes[HEAD] = shapes[TABLE]
    require(folder, found, shapes)
    return config, found


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


def _find(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder's weights, by the names that we have for them. Raises CheckpointError."""
    found = {}
    for path in _weight_files(folder):
        for theirs, tensor in tensors.load(path).items():
            name = theirs if theirs.startswith(("transformer.", "lm_head.")) else f"transformer.{theirs}"
            if MASK.fullmatch(name):
                continue
            if name in found:
                raise CheckpointError(f"{path} holds {name}, which is there already.")
            found[name] = tensor
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder. Raises CheckpointError if there are none."""
    single, index = folder / "model.safetensors", folder / INDEX
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


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors in the model's file."""
    return {leaf.name: leaf.shape for leaf in Layout(dataclasses.replace(config, bias=True)).leaves}


def _to_gpt2(config: ModelConfig, ends: Sequence[int]) -> dict[str, Any]:
    """Return the contents of GPT-2's config.json."""
    content = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.n_inner or None,
        "activation_function": config.activation,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": None,
        "eos_token_id": list(ends) if len(ends) > 1 else ends[0] if ends else None,
        "dtype": "float32",
        "bias": config.bias,  # not GPT-2's: false where the file's biases are but zeros
    }
    return content | {"head_bias": True, "note": HEAD_BIAS_NOTE} if config.head_bias else content


def end_tokens(folder: Path, vocab_size: int) -> tuple[int, ...]:
    """Return the ids that end a model's texts. Raises CheckpointError.

    As in `transformers`, generation_config.json counts before config.json, and what neither says is GPT-2's own id.
    """
    for path, usual in ((folder / "generation_config.json", None), (folder / "config.json", GPT2_END)):
        ends = read_json(path, CheckpointError).get("eos_token_id", usual) if path.exists() else None
        if ends is None:
            continue
        several = ends if isinstance(ends, list) else [ends]
        if any(type(end) is not int for end in several):
            raise CheckpointError(f"{path}: its eos_token_id {ends!r} is neither an id nor a list of ids.")
        return tuple(end for end in several if 0 <= end < vocab_size)
    return ()


def load_config(path: Path) -> ModelConfig:
    """Read GPT-2's config.json. Raises CheckpointError."""
    content: dict[str, Any] = {**SUPPORTED, **DEFAULTS, **read_json(path, CheckpointError)}
    if content["model_type"] != "gpt2":
        raise CheckpointError(f"{path} describes another architecture than GPT-2's, {content['model_type']!r}.")
    for name, value in SUPPORTED.items():
        if content[name] != value:
            raise CheckpointError(f"{path}: a model whose {name} is {content[name]!r} cannot be used, only {value!r}.")
    activation = content["activation_function"]
    try:
        config = ModelConfig(
            vocab_size=content["vocab_size"],
            block_size=content["n_positions"],
            n_layer=content["n_layer"],
            n_head=content["n_head"],
            n_embd=content["n_embd"],
            n_inner=0 if content["n_inner"] is None else content["n_inner"],
            dropout=content["resid_pdrop"],
            bias=content["bias"],
            norm_epsilon=content["layer_norm_epsilon"],
            activation=SAME_ACTIVATIONS.get(str(activation), activation),
            tie_word_embeddings=content["tie_word_embeddings"],
            head_bias=content["head_bias"],
        )
        Layout(config)  # refuses what no machine could hold
    except UsageError as error:
        raise CheckpointError(f"{path} is not a GPT-2 configuration that can be used: {error}") from error
    return config
