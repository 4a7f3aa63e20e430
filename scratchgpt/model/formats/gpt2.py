"""GPT-2's format. Names, shapes and orientation of its tensors are our own."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.model.formats.base import GPT2_CHOICES, Format, Place, end_value
from scratchgpt.model.params import HEAD, TOKEN_TABLE, Layout

KNOWN = GPT2_CHOICES

HEAD_BIAS_NOTE = (
    "The head has a bias, lm_head.bias, which GPT-2's format does not know: transformers leaves it out and computes "
    "other logits."
)

DEFAULTS = {
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
"""Defaults for missing keys. The last two are ours, the others those of `transformers`."""

END = 50256

SUPPORTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
"""Settings that change the computation. Only these values are supported; they are the defaults."""

ACTIVATIONS = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "relu": "relu"}
"""Our names of activations, by those in config.json."""

MASK = re.compile(r"transformer\.h\.[0-9]+\.attn\.(masked_)?bias")
"""Causal masks in older files. They are ignored."""


def to_json(config: ModelConfig, ends: Sequence[int]) -> dict[str, Any]:
    """Return the contents of config.json, with the ids that end a text."""
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
        "eos_token_id": end_value(ends),
        "dtype": "float32",
        "bias": config.bias,  # not GPT-2's: false where the file's biases are but zeros
    }
    return content | {"head_bias": True, "note": HEAD_BIAS_NOTE} if config.head_bias else content


def from_json(content: Mapping[str, Any]) -> ModelConfig:
    """Return the architecture that a config.json describes. Raises UsageError."""
    content = {**SUPPORTED, **DEFAULTS, **content}
    for name, value in SUPPORTED.items():
        if content[name] != value:
            raise UsageError(f"{name} is {content[name]!r}, and only {value!r} can be computed.")
    activation = content["activation_function"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise UsageError(f"activation_function is {activation!r}, and only {', '.join(ACTIVATIONS)} can be computed.")
    return ModelConfig(
        vocab_size=content["vocab_size"],
        block_size=content["n_positions"],
        n_layer=content["n_layer"],
        n_head=content["n_head"],
        n_embd=content["n_embd"],
        n_inner=0 if content["n_inner"] is None else content["n_inner"],
        dropout=content["resid_pdrop"],
        bias=content["bias"],
        norm_epsilon=content["layer_norm_epsilon"],
        activation=ACTIVATIONS[activation],
        tie_word_embeddings=content["tie_word_embeddings"],
        head_bias=content["head_bias"],
    )


def name_of(theirs: str) -> str | None:
    """Return our name of a tensor, None for a mask. Files of a GPT-2 without head lack the prefix."""
    name = theirs if theirs.startswith(("transformer.", "lm_head.")) else f"transformer.{theirs}"
    return None if MASK.fullmatch(name) else name


def places(config: ModelConfig) -> dict[str, Place]:
    """Return where each tensor belongs. The format knows no model without biases: zeros stand for them."""
    ours = {leaf.name for leaf in Layout(config).leaves}
    leaves = Layout(dataclasses.replace(config, bias=True)).leaves
    found = {leaf.name: Place(leaf.name if leaf.name in ours else None, leaf.shape) for leaf in leaves}
    if config.tie_word_embeddings:
        found[HEAD] = found[TOKEN_TABLE]._replace(is_copy=True)
    return found


FORMAT = Format("gpt2", KNOWN, END, to_json, from_json, name_of, places)
