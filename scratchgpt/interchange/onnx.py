"""A model as one ONNX file: a graph from token ids (B, T) to logits (B, T, V), for any B and any T that fits.

https://onnx.ai/onnx/operators/
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from scratchgpt import __version__
from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError
from scratchgpt.model.formats.base import GPT2_CHOICES, require_known
from scratchgpt.model.params import HEAD_BIAS, Layout
from scratchgpt.ops.array import Array

OPSET, IR_VERSION = 20, 9
"""The first operators with GELU, and the version of the format that came with them."""

KNOWN = GPT2_CHOICES
"""The choices that `graph` can build."""

LARGEST = 2**31 - 2**20
"""Bytes of weights in a file that may have 2 GB."""


def write(path: Path, config: ModelConfig, params: Array, ends: Sequence[int] = ()) -> None:
    """Write a model with flat parameters (P,) float32, with the ids that end its texts as eos_token_id.

    Raises UsageError and OSError.
    """
    require_known(config, KNOWN, "The ONNX export")
    if params.nbytes > LARGEST:
        raise UsageError(
            f"An ONNX file can have 2 GB, and this model's weights alone are {params.nbytes / 1e9:.1f} GB; "
            "use --gguf instead."
        )
    model = graph(config, params)
    if ends:
        helper.set_model_props(model, {"eos_token_id": ",".join(map(str, ends))})
    path.write_bytes(model.SerializeToString())


class _Graph:
    """Nodes and weights; what a node computes is called by its name."""

    def __init__(self, weights: dict[str, Array], epsilon: float) -> None:
        """Begin with named weights, and the epsilon of the norms."""
        self._epsilon = epsilon
        self.nodes: list[NodeProto] = []
        self.weights = dict(weights)

    def op(self, kind: str, *inputs: str | Array, **attributes: Any) -> str:
        """Add a node; return its output's name. Inputs are names, or constants."""
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def _constant(self, value: Array) -> str:
        name = f"constant_{len(self.weights)}"
        self.weights[name] = value
        return name

    def norm(self, x: str, name: str) -> str:
        """Layer normalisation."""
        return self.op("LayerNormalization", x, f"{name}.weight", *self._bias(name), epsilon=self._epsilon)

    def linear(self, x: str, name: str) -> str:
        """x W + b."""
        y = self.op("MatMul", x, f"{name}.weight")
        return self.op("Add", y, *bias) if (bias := self._bias(name)) else y

    def _bias(self, name: str) -> list[str]:
        return [bias] if (bias := f"{name}.bias") in self.weights else []

    def attention(self, x: str, name: str, mask: str, config: ModelConfig) -> str:
        """Causal attention and its projections: (B, T, C) -> (B, T, C)."""
        H, D = config.n_head, config.head_size
        qkv = self.op("Reshape", self.linear(x, f"{name}.c_attn"), np.array([0, 0, 3, H, D]))
        qkv = self.op("Transpose", qkv, perm=(2, 0, 3, 1, 4))  # (3, B, H, T, D)
        q, k, v = (self.op("Gather", qkv, np.array(part)) for part in range(3))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=(0, 1, 3, 2)))
        scores = self.op("Mul", scores, np.array(1 / math.sqrt(D), np.float32))
        weights = self.op("Softmax", self.op("Add", scores, mask))
        heads = self.op("Transpose", self.op("MatMul", weights, v), perm=(0, 2, 1, 3))
        return self.linear(self.op("Reshape", heads, np.array([0, 0, H * D])), f"{name}.c_proj")

    def mlp(self, x: str, name: str, activation: str) -> str:
        """Two linear maps with the activation between them."""
        hidden = self.linear(x, f"{name}.c_fc")
        active = self.op("Relu", hidden) if activation == "relu" else self.op("Gelu", hidden, approximate="tanh")
        return self.linear(active, f"{name}.c_proj")


def graph(config: ModelConfig, params: Array) -> ModelProto:
    """Return a model with flat parameters (P,) float32: input `input_ids`, int64, output `logits`."""
    g = _Graph(Layout(config).views(params), config.norm_epsilon)
    length = g.op("Shape", "input_ids", start=1, end=2)  # (1,): T
    positions = g.op("Range", np.array(0), g.op("Squeeze", length), np.array(1))
    x = g.op(
        "Add",
        g.op("Gather", "transformer.wte.weight", "input_ids"),
        g.op("Gather", "transformer.wpe.weight", positions),
    )
    square = g.op("Expand", np.array(-math.inf, np.float32), g.op("Concat", length, length, axis=0))
    mask = g.op("Trilu", square, np.array(1), upper=1)  # -inf above the diagonal, 0 elsewhere
    for layer in range(config.n_layer):
        name = f"transformer.h.{layer}"
        x = g.op("Add", x, g.attention(g.norm(x, f"{name}.ln_1"), f"{name}.attn", mask, config))
        x = g.op("Add", x, g.mlp(g.norm(x, f"{name}.ln_2"), f"{name}.mlp", config.activation))
    head = "transformer.wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    logits = g.op("MatMul", g.norm(x, "transformer.ln_f"), g.op("Transpose", head))
    if config.head_bias:
        logits = g.op("Add", logits, HEAD_BIAS)
    g.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    model = helper.make_model(
        helper.make_graph(
            g.nodes,
            "gpt",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", config.vocab_size])],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="scratchgpt",
        producer_version=__version__,
    )
    for name, weight in g.weights.items():  # not all at once, for each is copied twice
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model
