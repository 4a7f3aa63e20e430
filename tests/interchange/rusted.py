"""What nanogpt-rusted writes, and what it computes from it: a second implementation, head by head as it does it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from scratchgpt.ops.array import Array

SIZES = {"num_attention_heads": 3, "num_hidden_layers": 2, "block_size": 9, "hidden_size": 12}
CHARACTERS = "tzseß a\nq"
"""In no order, as its ids are."""


def write_vocabulary(path: Path, characters: str = CHARACTERS) -> None:
    """Write vocab.json."""
    content = {
        "vocab_size": len(characters),
        "itos": {str(index): character for index, character in enumerate(characters)},
        "stoi": {character: index for index, character in enumerate(characters)},
    }
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_data(folder: Path, train: npt.ArrayLike, val: npt.ArrayLike, characters: str = CHARACTERS) -> None:
    """Write train.bin, val.bin and vocab.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, ids in (("train", train), ("val", val)):
        (folder / f"{part}.bin").write_bytes(np.asarray(ids).astype(">u4").tobytes())
    write_vocabulary(folder / "vocab.json", characters)


def write_model(stem: Path, vocab_size: int = len(CHARACTERS), **changes: Any) -> dict[str, Array]:
    """Write a model's files; return its tensors."""
    config = SIZES | {"vocab_size": vocab_size, "dropout": 0.1, "learning_rate": 0.001} | changes
    C, H, T = config["hidden_size"], config["num_attention_heads"], config["block_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (vocab_size, C),
        "position_embedding.weight": (T, C),
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
        "linear_output.weight": (vocab_size, C),
        "linear_output.bias": (vocab_size,),
    }
    for layer in range(config["num_hidden_layers"]):
        block = f"block_{layer}"
        shapes |= {f"{block}.{norm}.{kind}": (C,) for norm in ("ln1", "ln2") for kind in ("weight", "bias")}
        for head in range(H):
            for name in ("head_key", "head_query", "head_value"):
                shapes[f"{block}.Multiattn Heads.Multihead_{head}.{name}.weight"] = (C // H, C)
        shapes |= {
            f"{block}.Multiattn Heads.residual_projection.weight": (C, C),
            f"{block}.Multiattn Heads.residual_projection.bias": (C,),
            f"{block}.ffwd.ffwd_linear.weight": (4 * C, C),
            f"{block}.ffwd.ffwd_linear.bias": (4 * C,),
            f"{block}.ffwd.ffwd_projection.weight": (C, 4 * C),
            f"{block}.ffwd.ffwd_projection.bias": (C,),
        }
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(scale=0.5, size=shape).astype(np.float32) for name, shape in shapes.items()}
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, stem.with_name(f"{stem.name}.safetensors"))
    stem.with_name(f"{stem.name}.config.json").write_text(json.dumps(config), encoding="utf-8")
    log = [{"step": 0, "loss": 4.2, "duration_ms": 80, "validation_loss": 4.3}]
    stem.with_name(f"{stem.name}.training_log.json").write_text(json.dumps(log), encoding="utf-8")
    return tensors


def logits(tensors: dict[str, Array], ids: list[int]) -> Array:
    """Return the logits (T, V) of its ids (T,), in float64."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def head(x: Array, name: str) -> Array:
        k, q, v = (linear(x, f"{name}.head_{part}") for part in ("key", "query", "value"))
        scores = q @ k.T / np.sqrt(k.shape[1])
        scores[np.triu_indices(len(x), 1)] = -np.inf
        exps = np.exp(scores - scores.max(axis=1, keepdims=True))
        return exps / exps.sum(axis=1, keepdims=True) @ v

    x = weights["token_embedding.weight"][ids] + weights["position_embedding.weight"][: len(ids)]
    for layer in range(SIZES["num_hidden_layers"]):
        block = f"block_{layer}"
        many = f"{block}.Multiattn Heads"
        normed = norm(x, f"{block}.ln1")
        heads = [head(normed, f"{many}.Multihead_{number}") for number in range(SIZES["num_attention_heads"])]
        x = linear(np.concatenate(heads, axis=1), f"{many}.residual_projection") + x
        hidden = np.maximum(linear(norm(x, f"{block}.ln2"), f"{block}.ffwd.ffwd_linear"), 0)
        x = linear(hidden, f"{block}.ffwd.ffwd_projection") + x
    return linear(norm(x, "ln_f"), "linear_output")
