"""What a training step asks of a GPU, counted from its very launches: no kernel runs, and arrays take no memory.

Counting goes through the code that trains. So it cannot tell of another step than the one that is made.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu import kernels, products, ways
from scratchgpt.backend.gpu.device import Size
from scratchgpt.backend.precision import FP32, PRECISIONS, Precision
from scratchgpt.cli.bench import CHARACTERS, MOST_TOKENS, WORD_PIECES
from scratchgpt.config import ModelConfig, load_preset
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops.adamw import Moments
from scratchgpt.ops.array import Array
from tests.backends import emulated
from tests.cuda.emulator.build import without_comments
from tests.engine import steps

FUSED_PRODUCTS = {"forward": 2, "keys": 4, "queries": 3, "delta": 0}
"""How many products of T × T × D a kernel of flash attention makes for each head, by the end of its name."""


class Cost(NamedTuple):
    """Of a launch, or of a product by cuBLAS."""

    name: str  # a kernel's in C++, or product<type>
    sizes: str
    bytes: int  # of its arrays: each read once, written once
    flops: int  # in products of matrices alone: all else is bound by memory
    dtype: np.dtype[Any]  # of what is multiplied

    @property
    def is_product(self) -> bool:
        """Is it cuBLAS's?"""
        return self.name.startswith("product")


# ------------------------------------------------------------------------------------------------- arrays


class Hollow(np.ndarray[Any, Any]):
    """An array all of whose elements are one and the same."""

    def astype(self, dtype: npt.DTypeLike, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Return another one."""
        return hollow(self.shape, dtype)


def hollow(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Hollow:
    """Return an array of any size that takes the memory of one element."""
    return np.broadcast_to(np.zeros((), dtype), shape).view(Hollow)


def _address(array: Array) -> int:
    """Return what all views of a hollow array have in common, as their strides are 0."""
    address: int = array.__array_interface__["data"][0]
    return address


XP = ModuleType("numpy_without_memory")
vars(XP).update(
    vars(np) | {"asarray": np.asanyarray, "zeros_like": lambda array: hollow(array.shape, array.dtype)},
)


# ------------------------------------------------------------------------------------------------- counting


@cache
def parameters(kernel: str) -> list[tuple[str, bool]]:
    """Return the name of each of a kernel's parameters, and whether it is a pointer to what is only read."""
    text = without_comments(kernels.text(kernels.file_of(kernel)))
    found = re.search(rf"\b{kernel}\s*\(([^)]*)\)\s*{{", text)
    assert found, kernel
    parts = [part.strip() for part in re.split(r",(?![^<]*>)", found[1])]
    return [(re.findall(r"\w+", part)[-1], part.startswith("const ") and "*" in part) for part in parts]


class Counting:
    """A device that notes what it is asked for, and does nothing."""

    xp = XP

    def __init__(self, precision: Precision = FP32, *, tensor_cores: bool = True) -> None:
        """Begin with nothing."""
        self.tensor_cores, self.tf32 = tensor_cores, precision.products == "tf32"
        self.costs: list[Cost] = []
        self._made: list[Array] = []  # kept, so that no two have the same address
        self._unwritten: set[int] = set()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return an array of which it is known that nobody has written to it."""
        array = hollow(shape, dtype)
        self._made.append(array)
        self._unwritten.add(_address(array))
        return array

    def launch(
        self,
        kernel: str,
        dtype: npt.DTypeLike,
        n: int,
        grid: Size,
        block: Size,
        *arguments: Any,
        shared_bytes: int = 0,
    ) -> None:
        """Note a launch.

        What a kernel may write to, it also reads, unless nobody has written to it before: such reads the emulator
        finds. Of tables, the rows count that there are tokens for; of arrays with a range, its numbers.
        """
        del grid, block, shared_bytes
        named = list(zip(parameters(kernel), arguments, strict=True))
        given = [(name, is_const, value) for (name, is_const), value in named if isinstance(value, np.ndarray)]
        borders = {name: int(value) for (name, _), value in named if name in {"begin", "end"}}
        most = max(array.size for name, _, array in given if not name.endswith("table"))
        if borders:
            most = borders["end"] - borders["begin"]
        n_bytes = 0
        for name, is_const, array in given:
            size = min(array.size, most) if borders or name.endswith("table") else array.size
            is_new = not is_const and _address(array) in self._unwritten
            n_bytes += size * array.itemsize * (1 if is_const or is_new else 2)
            if is_new:
                self._unwritten.discard(_address(array))
        sizes = " ".join("×".join(map(str, array.shape)) for _, _, array in given[:1])
        name = kernels.instance(kernel, dtype, n)
        self.costs.append(Cost(name, sizes, n_bytes, _fused_flops(kernel, n, given), np.dtype(dtype)))

    def matmul(self, a: Array, b: Array, out: Array, *, add: bool = False, factor: float = 1.0) -> None:
        """Note a product."""
        del factor
        (*batch, M, K), N = a.shape, b.shape[-1]
        n_bytes = a.nbytes + b.nbytes + out.nbytes * (2 if add else 1)
        self._unwritten.discard(_address(out))
        sizes = f"{'×'.join(map(str, [*batch, '']))}{M}×{K}×{N}{' +' if add else ''}"
        name = f"product<{kernels.TYPES[a.dtype]}>"
        self.costs.append(Cost(name, sizes, n_bytes, 2 * out.size * K, a.dtype))


def _fused_flops(kernel: str, D: int, given: Iterable[tuple[str, bool, Array]]) -> int:
    """Return what a kernel of flash attention multiplies and adds, with what is above the diagonal left out."""
    if not kernel.startswith("attention"):
        return 0
    B, H, T = next(array.shape for name, _, array in given if name in {"lse", "delta"})
    n_products = FUSED_PRODUCTS[kernel.rpartition("_")[2]]
    return n_products * B * H * T * (T + 1) * D


# ------------------------------------------------------------------------------------------------- steps


def used(preset: str) -> tuple[ModelConfig, int]:
    """Return a preset's model, with its own dropout, and how many sequences `scratchgpt bench` gives it in a step."""
    recipe = load_preset(preset)
    vocabulary = WORD_PIECES if preset.startswith("gpt-") else CHARACTERS
    config = ModelConfig.from_mapping({"vocab_size": vocabulary} | dict(recipe.model))
    return config, min(recipe.train["batch_size"], max(1, MOST_TOKENS // config.block_size))


def step(model: GPT, slots: Mapping[str, Array], B: int) -> None:
    """Make a training step of B sequences: forward, backward, clip, AdamW."""
    tokens = np.random.default_rng(0).integers(model.config.vocab_size, size=(B, model.config.block_size))
    model.loss_and_grad(tokens, tokens, seed=1)
    steps.update_model(model, slots, steps.recipe(B))


def count(config: ModelConfig, B: int, precision: str, *, tensor_cores: bool = True) -> list[Cost]:
    """Return what each launch and product of a training step costs, in their order."""
    device = Counting(PRECISIONS[precision], tensor_cores=tensor_cores)
    params = hollow((Layout(config).size,), np.float32)
    model = GPT(config, emulated(device, precision), params)
    step(model, {name: hollow(params.shape, np.float32) for name in Moments._fields}, B)
    return device.costs


@contextmanager
def by_products() -> Iterator[None]:
    """Have attention computed by products of matrices, whatever else there is."""
    with mock.patch.object(ways, "way", return_value=products):
        yield


# ------------------------------------------------------------------------------------------------- time


class Peak(NamedTuple):
    """What a GPU can do at most, as published."""

    name: str
    bandwidth: float  # bytes a second
    flops: dict[str, float]  # a second, by precision; products' sums are in float32


PEAKS = (
    Peak("RTX 4090", 1008e9, {"fp32": 82.6e12, "tf32": 82.6e12, "fp16": 165.2e12}),
    Peak("H100 SXM", 3350e9, {"fp32": 66.9e12, "tf32": 494.7e12, "fp16": 989.4e12}),
)


def least_seconds(cost: Cost, peak: Peak, precision: str) -> float:
    """Return what a launch takes at the roofline. Our own kernels do not multiply in TF32."""
    if cost.dtype == np.float16:
        precision = "fp16"
    elif not cost.is_product:
        precision = "fp32"
    return max(cost.bytes / peak.bandwidth, cost.flops / peak.flops[precision])
