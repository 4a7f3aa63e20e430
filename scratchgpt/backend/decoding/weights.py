"""The weights of a model as a step multiplies with them."""

import math
from typing import NamedTuple

import numpy as np

from scratchgpt.ops.array import Array
from scratchgpt.ops.table import Block, Params

TILE = 64
"""Tokens whose logits a CPU computes at once for several texts. OpenBLAS takes the head's matrix as it lies only if the
product is small; else it copies it first, to read it in another order, and takes twice as long (V = 50,257)."""


class Projection(NamedTuple):
    """A norm and the linear map behind it: norm(x) W + b = x̂ · gain W + offset."""

    gain: Array  # (C,): times √C, by which the norm has divided (norms.py)
    weight: Array  # (C, N)
    offset: Array | None  # (N,): what the norm's bias and the map's come to


class Output(NamedTuple):
    """The linear map at the end of a branch."""

    weight: Array  # (K, C)
    bias: Array | None  # (C,)


class Layer(NamedTuple):
    """A layer's four linear maps. No matrix is copied."""

    qkv: Projection
    proj: Output
    fc: Projection
    out: Output

    @classmethod
    def of(cls, block: Block[Array]) -> "Layer":
        """Join norms and linear maps."""
        attention, mlp = block
        return cls(
            projection(attention.gain, attention.bias, attention.qkv_weight, attention.qkv_bias),
            Output(attention.proj_weight, attention.proj_bias),
            projection(mlp.gain, mlp.bias, mlp.fc_weight, mlp.fc_bias),
            Output(mlp.out_weight, mlp.out_bias),
        )

    def for_one_row(self) -> "Layer":
        """Return the layer with copies of the last matrices that lie by outputs (cache.md)."""
        proj, out = (Output(_by_outputs(output.weight), output.bias) for output in (self.proj, self.out))
        return self._replace(proj=proj, out=out)


class Weights:
    """All layers and the head."""

    def __init__(self, params: Params) -> None:
        """Refer to these parameters."""
        self.embed, head = params.embed, params.head
        self.layers = [Layer.of(block) for block in params.blocks]
        self.head = projection(head.gain, head.bias, head.weight.T, head.logit_bias)
        self._layers_for_one_row: list[Layer] = []

    def layers_for(self, n_rows: int) -> list[Layer]:
        """Return the layers for products with this number of rows."""
        if n_rows > 1 or not isinstance(self.head.weight, np.ndarray):
            return self.layers
        self._layers_for_one_row = self._layers_for_one_row or [layer.for_one_row() for layer in self.layers]
        return self._layers_for_one_row

    def head_parts(self, logits: Array) -> list[tuple[Array, Array]]:
        """Cut the head into parts (..., C, N), each with its part (..., B, N) of the logits (B, V).

        For several texts on a CPU these are products of TILE tokens, and the rest.
        """
        weight, B = self.head.weight.T, len(logits)
        V, C = weight.shape
        if B == 1 or not isinstance(weight, np.ndarray):
            return [(self.head.weight, logits)]
        n, rest = V // TILE, V // TILE * TILE
        tiles = weight[:rest].reshape(n, TILE, C).swapaxes(1, 2), logits[:, :rest].reshape(B, n, TILE).swapaxes(0, 1)
        return [tiles, (weight[rest:].T, logits[:, rest:])]


def projection(gain: Array, norm_bias: Array | None, weight: Array, bias: Array | None) -> Projection:
    """Return a norm and a linear map as one. The matrix is not copied."""
    offset = None if norm_bias is None else norm_bias @ weight
    if bias is not None:
        offset = bias if offset is None else offset + bias
    return Projection(gain * math.sqrt(len(gain)), weight, offset)


def _by_outputs(weight: Array) -> Array:
    """Return the matrix (K, N) as a copy that lies the other way: all K numbers of an output, then of the next."""
    return np.ascontiguousarray(weight.T).T
