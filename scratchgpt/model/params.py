"""Parameters: one flat array, seen through views that carry GPT-2's names.

Gradients and the optimizer's moments are flat arrays of the same layout. So one loop updates everything, a
checkpoint is one pass, and what weight decay touches is a range: matrices come first, vectors after them. The tables
of V rows come first of all, so that lanes can share one gradient of these and have the rest each to themselves.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.chance import Place, philox
from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError, did_you_mean
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import AttentionParams, Block, EmbedParams, Grads, HeadParams, MLPParams, Params, Tree

MOST_PARAMETERS = 2**40

TOKEN_TABLES = ("transformer.wte.weight", "lm_head.weight")

HEAD_BIAS = "lm_head.bias"

SPLIT_ABOVE = 2048
"""With more tokens than this, lanes divide the vocabulary among them instead of each having a gradient of all of it."""


class Leaf(NamedTuple):
    """One parameter array."""

    name: str  # as in GPT-2's files
    shape: tuple[int, ...]
    std: float  # of its initial values around `mean`
    mean: float = 0.0


class Layout:
    """Which parameters a model has, and where each lies on the flat array."""

    def __init__(self, config: ModelConfig) -> None:
        """Lay out the parameters of `config`. Raises UsageError if they are more than any machine could hold."""
        self.config = config
        leaves = _leaves(config)
        tables = [leaf for leaf in leaves if leaf.name in TOKEN_TABLES]
        matrices = [leaf for leaf in leaves if len(leaf.shape) > 1 and leaf not in tables]
        vectors = [leaf for leaf in leaves if len(leaf.shape) == 1]
        self.leaves = tables + matrices + vectors
        self.n_decayed = sum(math.prod(leaf.shape) for leaf in tables + matrices)
        self.size = sum(math.prod(leaf.shape) for leaf in self.leaves)
        if self.size > MOST_PARAMETERS:
            raise UsageError(f"A model of {self.size:,} parameters is too large; make n_embd or n_layer smaller.")
        self.n_tables = len(tables) if config.vocab_size > SPLIT_ABOVE else 0  # that lanes split
        self.n_split = self.n_tables * config.vocab_size * config.n_embd  # parameters in these

    def views(self, *flat: Array) -> dict[str, Array]:
        """Return a view of `flat` (P,) for each leaf, by name; `flat` may come in several parts."""
        views: dict[str, Array] = {}
        parts = list(flat)
        for leaf in self.leaves:
            size = math.prod(leaf.shape)
            if not parts[0].size:
                parts.pop(0)
            views[leaf.name] = parts[0][:size].reshape(leaf.shape)
            parts[0] = parts[0][size:]
        return views

    def named(self, freeze: Iterable[str]) -> set[str]:
        """Return the names that fit a pattern.

        Raises UsageError if a pattern fits nothing, or all names fit one.
        """
        names = [leaf.name for leaf in self.leaves]
        frozen = set()
        for pattern in freeze:
            fitting = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
            if not fitting:
                raise UsageError(f"No tensor is named {pattern!r}{did_you_mean(pattern, names)}; nothing to freeze.")
            frozen.update(fitting)
        if len(frozen) == len(names):
            raise UsageError("All tensors are frozen, so that there is nothing to train.")
        return frozen

    def divide(self, freeze: Iterable[str]) -> tuple[list[slice], list[slice]]:
        """Return the ranges of the flat array that are trained, and those that are frozen. Raises as `named` does."""
        frozen = self.named(freeze)
        ranges: dict[bool, list[slice]] = {False: [], True: []}
        start = 0
        for leaf in self.leaves:
            stop = start + math.prod(leaf.shape)
            those = ranges[leaf.name in frozen]
            if those and those[-1].stop == start:
                start = those.pop().start
            those.append(slice(start, stop))
            start = stop
        return ranges[False], ranges[True]

    def tree(self, *flat: Array) -> Params:
        """Return the views of `flat` (P,) as the tree that the sublayers take; `flat` may come in several parts."""
        return self._tree(self.views(*flat))

    def wanted(self, *flat: Array, freeze: Iterable[str] = ()) -> Grads:
        """Return the views of gradients `flat` (P,) as `tree` does, without those that are frozen."""
        frozen = self.named(freeze)
        return self._tree({name: None if name in frozen else view for name, view in self.views(*flat).items()})

    def _tree(self, views: Mapping[str, Any]) -> Any:
        token_table = views["transformer.wte.weight"]
        return Tree(
            embed=EmbedParams(token_table, views["transformer.wpe.weight"]),
            blocks=tuple(_block(views, f"transformer.h.{layer}") for layer in range(self.config.n_layer)),
            head=HeadParams(
                gain=views["transformer.ln_f.weight"],
                bias=views.get("transformer.ln_f.bias"),
                weight=views.get("lm_head.weight", token_table),
                logit_bias=views.get(HEAD_BIAS),
            ),
        )

    def initial(self, seed: int, dtype: npt.DTypeLike = np.float32) -> Array:
        """Draw the initial parameters (P,), a NumPy array, as GPT-2 does.

        Normal with deviation 0.02, projections into the residual stream with 0.02 / √(2L), gains 1, biases 0.
        Radford et al.: Language Models are Unsupervised Multitask Learners, 2019.
        """
        flat = np.empty(self.size, dtype)
        generator = np.random.Generator(philox(Place.INITIALISATION, seed=seed))
        views = self.views(flat)
        for leaf in self.leaves:
            views[leaf.name][...] = (
                leaf.mean + leaf.std * generator.standard_normal(leaf.shape) if leaf.std else leaf.mean
            )
        return flat


def cropped(config: ModelConfig, params: Array, block_size: int) -> Array:
    """Return a model's flat parameters (P,) with its first `block_size` positions only. Raises UsageError."""
    layout, views = Layout(dataclasses.replace(config, block_size=block_size)), Layout(config).views(params)
    flat = np.empty(layout.size, params.dtype)
    for name, view in layout.views(flat).items():
        view[...] = views[name][: len(view)]
    return flat


def _leaves(config: ModelConfig) -> list[Leaf]:
    """List the parameters from input to output."""
    V, T, C = config.vocab_size, config.block_size, config.n_embd
    std = 0.02
    residual_std = std / math.sqrt(2 * config.n_layer)

    def norm(name: str) -> list[Leaf]:
        return [Leaf(f"{name}.weight", (C,), 0, mean=1), Leaf(f"{name}.bias", (C,), 0)]

    def linear(name: str, n_in: int, n_out: int, std: float) -> list[Leaf]:
        return [Leaf(f"{name}.weight", (n_in, n_out), std), Leaf(f"{name}.bias", (n_out,), 0)]

    leaves = [Leaf("transformer.wte.weight", (V, C), std), Leaf("transformer.wpe.weight", (T, C), std)]
    for layer in range(config.n_layer):
        name = f"transformer.h.{layer}"
        leaves += norm(f"{name}.ln_1")
        leaves += linear(f"{name}.attn.c_attn", C, 3 * C, std)
        leaves += linear(f"{name}.attn.c_proj", C, C, residual_std)
        leaves += norm(f"{name}.ln_2")
        leaves += linear(f"{name}.mlp.c_fc", C, 4 * C, std)
        leaves += linear(f"{name}.mlp.c_proj", 4 * C, C, residual_std)
    leaves += norm("transformer.ln_f")
    if not config.tie_word_embeddings:
        leaves.append(Leaf("lm_head.weight", (V, C), std))
    if not config.bias:
        leaves = [leaf for leaf in leaves if not leaf.name.endswith(".bias")]
    return [*leaves, Leaf(HEAD_BIAS, (V,), 0)] if config.head_bias else leaves


def _block(views: Mapping[str, Any], name: str) -> Any:
    """Gather one layer's views."""
    return Block(
        AttentionParams(
            gain=views[f"{name}.ln_1.weight"],
            bias=views.get(f"{name}.ln_1.bias"),
            qkv_weight=views[f"{name}.attn.c_attn.weight"],
            qkv_bias=views.get(f"{name}.attn.c_attn.bias"),
            proj_weight=views[f"{name}.attn.c_proj.weight"],
            proj_bias=views.get(f"{name}.attn.c_proj.bias"),
        ),
        MLPParams(
            gain=views[f"{name}.ln_2.weight"],
            bias=views.get(f"{name}.ln_2.bias"),
            fc_weight=views[f"{name}.mlp.c_fc.weight"],
            fc_bias=views.get(f"{name}.mlp.c_fc.bias"),
            out_weight=views[f"{name}.mlp.c_proj.weight"],
            out_bias=views.get(f"{name}.mlp.c_proj.bias"),
        ),
    )
