"""Models that nanogpt-rusted has saved: STEM.safetensors and STEM.config.json.

They are GPT-2's with ReLU, an untied head that has a bias, and queries, keys and values that have none and are a matrix
for each head. https://github.com/tbogdala/nanogpt-rusted
"""

from pathlib import Path

import numpy as np

from scratchgpt.config import ModelConfig
from scratchgpt.data.rusted import Vocabulary
from scratchgpt.errors import CheckpointError, UsageError
from scratchgpt.files import read_json
from scratchgpt.model import tensors
from scratchgpt.model.folder import require
from scratchgpt.model.params import HEAD_BIAS, Layout
from scratchgpt.ops.array import Array

OF_TOKENS = {
    "token_embedding.weight": "transformer.wte.weight",
    "linear_output.weight": "lm_head.weight",
    "linear_output.bias": HEAD_BIAS,
}
"""Their names of what has a row for each token, and ours."""

OF_A_LAYER = {
    "ln1": "ln_1",
    "Multiattn Heads.residual_projection": "attn.c_proj",
    "ln2": "ln_2",
    "ffwd.ffwd_linear": "mlp.c_fc",
    "ffwd.ffwd_projection": "mlp.c_proj",
}

OLD_DROPOUT = 0.2
"""Of versions whose config.json does not say."""


def read_model(stem: Path, vocabulary: Vocabulary) -> tuple[ModelConfig, Array]:
    """Read a model: its configuration and flat parameters (P,) float32, for the ids of the vocabulary here.

    Raises CheckpointError, and UsageError if the vocabulary is another model's.
    """
    config = _read_config(stem.with_name(f"{stem.name}.config.json"))
    if config.vocab_size != len(vocabulary.theirs):
        raise UsageError(
            f"{stem} has {config.vocab_size:,} tokens, but its vocabulary {len(vocabulary.theirs):,}; "
            "name the vocab.json that it was trained with, with --vocab."
        )
    layout = Layout(config)
    params = np.zeros(layout.size, np.float32)
    places = _places(config, layout.views(params))
    path = stem.with_name(f"{stem.name}.safetensors")
    found = tensors.load(path)
    require(path, found, {name: place.shape for name, place in places.items()})
    for name, place in places.items():
        numbers = found[name].numbers()
        place[...] = numbers[vocabulary.theirs] if name in OF_TOKENS else numbers
    return config, params


def _read_config(path: Path) -> ModelConfig:
    """Read STEM.config.json. Raises CheckpointError."""
    content = read_json(path, CheckpointError)
    try:
        return ModelConfig(
            vocab_size=content["vocab_size"],
            block_size=content["block_size"],
            n_layer=content["num_hidden_layers"],
            n_head=content["num_attention_heads"],
            n_embd=content["hidden_size"],
            dropout=content.get("dropout", OLD_DROPOUT),
            activation="relu",
            tie_word_embeddings=False,
            head_bias=True,
        )
    except (KeyError, UsageError) as error:
        raise CheckpointError(f"{path} is no configuration of nanogpt-rusted: {error}.") from error


def _places(config: ModelConfig, views: dict[str, Array]) -> dict[str, Array]:
    """Return where each of their tensors belongs: views of ours, transposed, since their matrices are (out, in)."""
    C, D = config.n_embd, config.head_size
    places = {theirs: views[ours] for theirs, ours in OF_TOKENS.items()}
    places["position_embedding.weight"] = views["transformer.wpe.weight"]
    places |= {f"ln_f.{kind}": views[f"transformer.ln_f.{kind}"] for kind in ("weight", "bias")}
    for layer in range(config.n_layer):
        there, here = f"block_{layer}", f"transformer.h.{layer}"
        for theirs, ours in OF_A_LAYER.items():
            places |= {f"{there}.{theirs}.{kind}": views[f"{here}.{ours}.{kind}"].T for kind in ("weight", "bias")}
        qkv = views[f"{here}.attn.c_attn.weight"]
        for part, name in enumerate(("head_query", "head_key", "head_value")):
            for head in range(config.n_head):
                start = part * C + head * D
                place = qkv[:, start : start + D].T
                places[f"{there}.Multiattn Heads.Multihead_{head}.{name}.weight"] = place
    return places
