"""Parameters: one flat array, seen through views that carry GPT-2's names.

Gradients and the optimiser's slots are flat arrays of the same layout. So a rule updates a range, a checkpoint is one
pass, and what weight decay touches is a range: matrices come first, vectors after them. The tables of V rows come first
of all, so that workers share one gradient of these and have the rest each to themselves.

A tree of leaves says each parameter once: its name, its shape, its initial values and its place.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.chance import Place, philox
from scratchgpt.config import ModelConfig
from scratchgpt.errors import UsageError, did_you_mean
from scratchgpt.ops.array import Array
from scratchgpt.ops.table import AttentionParams, Block, EmbedParams, Grads, HeadParams, MLPParams, Params, Tree, Wanted

MOST_PARAMETERS = 2**40

TOKEN_TABLE, POSITION_TABLE = "transformer.wte.weight", "transformer.wpe.weight"
LAYERS = "transformer.h"
HEAD, HEAD_BIAS = "lm_head.weight", "lm_head.bias"

TOKEN_TABLES = (TOKEN_TABLE, HEAD)

SPLIT_ABOVE = 2048
"""With more tokens than this, lanes divide the vocabulary among them instead of each having a gradient of all of it."""


STD = 0.02
"""Deviation of the initial matrices."""


class Leaf(NamedTuple):
    """One parameter array."""

    name: str  # as in GPT-2's files
    shape: tuple[int, ...]
    std: float  # of its initial values around `mean`
    mean: float = 0.0

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Layout:
    """Which parameters a model has, and where each lies on the flat array."""

    def __init__(self, config: ModelConfig) -> None:
        """Lay out the parameters of `config`. Raises UsageError if they are more than any machine could hold."""
        self.config = config
        self._tree = _leaf_tree(config)
        leaves = list(dict.fromkeys(_leaves(self._tree)))  # a tied head is one with the table
        tables = [leaf for leaf in leaves if leaf.name in TOKEN_TABLES]
        matrices = [leaf for leaf in leaves if len(leaf.shape) > 1 and leaf not in tables]
        vectors = [leaf for leaf in leaves if len(leaf.shape) == 1]
        # A GPU reads vectors in packs of 16 bytes. Vectors whose size is no multiple of C come last, so that all others
        # begin at multiples of C.
        vectors.sort(key=lambda leaf: leaf.size % config.n_embd > 0)
        self.leaves = tables + matrices + vectors
        self.n_decayed = sum(leaf.size for leaf in tables + matrices)
        self.size = sum(leaf.size for leaf in self.leaves)
        if self.size > MOST_PARAMETERS:
            raise UsageError(f"A model of {self.size:,} parameters is too large; make n_embd or n_layer smaller.")
        self.n_tables = len(tables) if config.vocab_size > SPLIT_ABOVE else 0  # that lanes split
        self.n_split = self.n_tables * config.vocab_size * config.n_embd  # parameters in these

    def views(self, *flat: Array) -> dict[str, Array]:
        """Return a view of `flat` (P,) for each leaf, by name; `flat` may come in several parts."""
        views: dict[str, Array] = {}
        parts = list(flat)
        for leaf in self.leaves:
            if not parts[0].size:
                parts.pop(0)
            views[leaf.name] = parts[0][: leaf.size].reshape(leaf.shape)
            parts[0] = parts[0][leaf.size :]
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
            stop = start + leaf.size
            those = ranges[leaf.name in frozen]
            if those and those[-1].stop == start:
                start = those.pop().start
            those.append(slice(start, stop))
            start = stop
        return ranges[False], ranges[True]

    def tree(self, *flat: Array) -> Params:
        """Return the views of `flat` (P,) as the tree that the sublayers take; `flat` may come in several parts."""
        views = self.views(*flat)
        return _mapped(self._tree, lambda leaf: views[leaf.name])

    def wanted(self, *flat: Array, freeze: Iterable[str] = ()) -> Grads:
        """Return the views of gradients `flat` (P,) as `tree` does, without those that are frozen."""
        frozen, views = self.named(freeze), self.views(*flat)
        return _mapped(self._tree, lambda leaf: None if leaf.name in frozen else views[leaf.name])

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


def _leaf_tree(config: ModelConfig) -> Tree[Any]:
    """Return the tree that has a Leaf in the place of each parameter, and None where there is none.

    The pairs that `norm` and `linear` return stand in the order of the records' fields (ops/table.py).
    """
    V, T, C, K = config.vocab_size, config.block_size, config.n_embd, config.inner_size
    residual_std = STD / math.sqrt(2 * config.n_layer)

    def bias(name: str, n: int) -> Leaf | None:
        return Leaf(f"{name}.bias", (n,), 0) if config.bias else None

    def norm(name: str) -> tuple[Any, Any]:
        return Leaf(f"{name}.weight", (C,), 0, mean=1), bias(name, C)

    def linear(name: str, n_in: int, n_out: int, std: float) -> tuple[Any, Any]:
        return Leaf(f"{name}.weight", (n_in, n_out), std), bias(name, n_out)

    def block(name: str) -> Block[Any]:
        qkv = linear(f"{name}.attn.c_attn", C, config.qkv_size, STD)
        proj = linear(f"{name}.attn.c_proj", C, C, residual_std)
        fc, out = linear(f"{name}.mlp.c_fc", C, K, STD), linear(f"{name}.mlp.c_proj", K, C, residual_std)
        return Block(
            AttentionParams(*norm(f"{name}.ln_1"), *qkv, *proj),
            MLPParams(*norm(f"{name}.ln_2"), *fc, *out),
        )

    token_table = Leaf(TOKEN_TABLE, (V, C), STD)
    head = token_table if config.tie_word_embeddings else Leaf(HEAD, (V, C), STD)
    head_bias: Any = Leaf(HEAD_BIAS, (V,), 0) if config.head_bias else None
    return Tree(
        EmbedParams(token_table, Leaf(POSITION_TABLE, (T, C), STD)),
        tuple(block(f"{LAYERS}.{layer}") for layer in range(config.n_layer)),
        HeadParams(*norm("transformer.ln_f"), head, head_bias),
    )


def _leaves(node: Any) -> Iterator[Leaf]:
    """Yield the leaves of a tree, from input to output."""
    if isinstance(node, Leaf):
        yield node
    elif node is not None:
        for child in node:
            yield from _leaves(child)


def _mapped(node: Any, view: Callable[[Leaf], Wanted]) -> Any:
    """Return a tree with a view in the place of each leaf."""
    if node is None or isinstance(node, Leaf):
        return node and view(node)
    children = [_mapped(child, view) for child in node]
    return type(node)(*children) if hasattr(node, "_fields") else tuple(children)
