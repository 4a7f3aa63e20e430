"""A model as two files of GPT-2's format, config.json and model.safetensors, which other tools open as they are."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from scratchgpt.config import ModelConfig
from scratchgpt.errors import CheckpointError, UsageError
from scratchgpt.files import read_json, write_json
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from scratchgpt.ops.layernorm import EPSILON

FILES = ("config.json", "model.safetensors")

SCALING = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
"""What other programs' config.json may say that changes what the same tensors compute."""


def save(folder: Path, config: ModelConfig, params: Array) -> None:
    """Write the model with flat parameters (P,), a NumPy array, into `folder`."""
    write_json(folder / "config.json", _to_gpt2(config))
    # GPT-2's format knows no model without biases: zeros stand for them, and config.json says so.
    with_biases = Layout(_replace(config, bias=True))
    tensors = {leaf.name: np.zeros(leaf.shape, params.dtype) for leaf in with_biases.leaves}
    tensors |= Layout(config).views(params)
    save_tensors(folder / "model.safetensors", tensors)


def load(folder: Path) -> tuple[ModelConfig, Array]:
    """Read a model: its configuration and flat parameters (P,) float32. Raises CheckpointError."""
    config = load_config(folder / "config.json")
    layout = Layout(config)
    with_biases = Layout(_replace(config, bias=True))
    tensors = load_tensors(folder / "model.safetensors", {leaf.name: leaf.shape for leaf in with_biases.leaves})
    params = np.empty(layout.size, np.float32)
    views = layout.views(params)
    for name, tensor in tensors.items():
        if name in views:
            views[name][...] = tensor
        elif tensor.any():
            raise CheckpointError(f"{folder} says that the model has no biases, but {name} is not zero.")
    return config, params


def save_tensors(path: Path, tensors: dict[str, Array]) -> None:
    """Write named NumPy arrays as one safetensors file. Raises OSError."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})  # transformers refuses files without a format
    except SafetensorError as error:  # which says what the system said
        raise OSError(str(error)) from error


def load_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Read a safetensors file that must hold just these float32 arrays, all finite. Raises CheckpointError."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            if names != shapes.keys():
                missing, extra = (", ".join(sorted(odd)[:3]) for odd in (shapes.keys() - names, names - shapes.keys()))
                raise CheckpointError(
                    f"{path} does not fit its config.json: "
                    f"missing {missing or 'nothing'}; unexpected {extra or 'nothing'}."
                )
            for name, shape in shapes.items():
                found = file.get_slice(name)
                if tuple(found.get_shape()) != shape or found.get_dtype() != "F32":
                    raise CheckpointError(
                        f"{path}: {name} is {found.get_dtype()} {tuple(found.get_shape())}, not F32 {shape}."
                    )
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite.")
    return tensors


def _replace(config: ModelConfig, **changes: Any) -> ModelConfig:
    """Return the configuration with some fields changed."""
    return ModelConfig(**(vars(config) | changes))


def _to_gpt2(config: ModelConfig) -> dict[str, Any]:
    """Return the contents of GPT-2's config.json."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": None,
        "activation_function": config.activation,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": EPSILON,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        "bias": config.bias,  # not GPT-2's: false where the file's biases are but zeros
    }


def load_config(path: Path) -> ModelConfig:
    """Read GPT-2's config.json. Raises CheckpointError."""
    content = read_json(path, CheckpointError)
    try:
        if content["model_type"] != "gpt2" or content["layer_norm_epsilon"] != EPSILON:
            raise CheckpointError(f"{path} describes another architecture than GPT-2's.")
        for name, value in SCALING.items():
            if content.get(name, value) != value:
                raise CheckpointError(f"{path}: a model whose {name} is {content[name]!r} cannot be used.")
        return ModelConfig(
            vocab_size=content["vocab_size"],
            block_size=content["n_positions"],
            n_layer=content["n_layer"],
            n_head=content["n_head"],
            n_embd=content["n_embd"],
            dropout=content["resid_pdrop"],
            bias=content.get("bias", True),
            activation=content["activation_function"],
            tie_word_embeddings=content["tie_word_embeddings"],
        )
    except (KeyError, UsageError) as error:
        raise CheckpointError(f"{path} is not a GPT-2 configuration that scratchgpt can read: {error}.") from error
