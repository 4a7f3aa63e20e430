"""How the parameters of a model divide among its parts, by the names of its tensors."""

import re
from typing import Any

from scratchgpt.model.tensors import Tensor

LAYER = re.compile(r"(?:^|\.)(?:h|layers?|blocks?)\.(\d+)\.")

BUFFER = re.compile(r"\.attn\.(?:masked_)?bias$")
"""Old files of GPT-2 hold causal masks, which are no parameters."""

IN_A_LAYER = {"norms": r"\.(?:ln_\d|\w*norm)\.", "attention": "attn|attention", "MLP": "mlp|ffn|feed_forward"}

OUTSIDE = {
    "token embedding": "wte|embed_tokens|tok_emb|word_embeddings",
    "position embedding": "wpe|pos_emb|position_embeddings",
    "final norm": "ln_f|norm",
    "head": "head",
}

ORDER = ("token embedding", "position embedding", "attention", "MLP", "norms", "final norm", "head", "other")


def parameters(found: list[Tensor], architecture: dict[str, Any]) -> dict[str, Any]:
    """Return how many parameters there are, and in which parts of the model."""
    counts: dict[str, int] = {}
    layers: dict[str, set[str]] = {}
    for tensor in found:
        is_zero = architecture.get("bias") is False and tensor.name.endswith(".bias")
        if BUFFER.search(tensor.name) or is_zero:
            continue
        layer = LAYER.search(tensor.name)
        part = _part(tensor.name, is_in_layer=layer is not None)
        counts[part] = counts.get(part, 0) + tensor.size
        if layer:
            layers.setdefault(part, set()).add(layer[1])
    total = sum(counts.values())
    parts = [
        {
            "part": part,
            "layers": len(layers.get(part, ())),
            "count": counts[part],
            "share": counts[part] / max(total, 1),
        }
        for part in ORDER
        if part in counts
    ]
    return {"total": total, "tied_head": bool(architecture.get("tie_word_embeddings")), "parts": parts}


def _part(name: str, *, is_in_layer: bool) -> str:
    """Return to which part of a model a tensor belongs, by its name."""
    known = IN_A_LAYER if is_in_layer else OUTSIDE
    return next((part for part, pattern in known.items() if re.search(pattern, name)), "other")
