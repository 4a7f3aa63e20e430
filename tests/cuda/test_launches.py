"""Whether a GPU would take what real models launch: grids, blocks, shared memory, numbers that fit into their types."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scratchgpt.backend.gpu.device import Size
from scratchgpt.backend.gpu.memory import MOST_BLOCKS, most_sequences
from scratchgpt.backend.precision import PRECISIONS
from scratchgpt.config import ModelConfig
from scratchgpt.model.gpt import GPT
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from tests.backends import emulated
from tests.cuda import costs

MOST = (2**31 - 1, MOST_BLOCKS, MOST_BLOCKS)
INT = 2**31 - 1
MOST_THREADS = 256
"""Of a block: the largest of the kernels' `__launch_bounds__`, which the emulator does not know."""


class Checking(costs.Counting):
    """A device that refuses what a GPU or cuBLAS would."""

    largest = 0
    """Of the grids, along their second and third axis."""

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
        """Check a launch, and note it."""
        blocks, threads = (size if isinstance(size, tuple) else (size,) for size in (grid, block))
        assert all(0 < size <= most for size, most in zip(blocks, MOST, strict=False)), f"{kernel}: grid {grid}"
        assert math.prod(threads) <= MOST_THREADS, kernel
        assert shared_bytes <= 48 * 1024, kernel
        assert all(abs(value) <= INT for value in arguments if isinstance(value, int)), kernel
        self.largest = max(self.largest, *blocks[1:], 0)
        super().launch(kernel, dtype, n, grid, block, *arguments, shared_bytes=shared_bytes)

    def matmul(self, a: Array, b: Array, out: Array, *, add: bool = False, factor: float = 1.0) -> None:
        """Check a product, and note it."""
        assert out.shape == (*a.shape[:-1], b.shape[-1])
        assert a.shape[-1] == b.shape[-2]
        assert max(*a.shape, *b.shape) <= INT
        super().matmul(a, b, out, add=add, factor=factor)


def launch(config: ModelConfig, B: int, precision: str, *, tensor_cores: bool = True) -> Checking:
    """Launch a step of B sequences."""
    device = Checking(PRECISIONS[precision], tensor_cores=tensor_cores)
    params, first, second = (costs.hollow((Layout(config).size,), np.float32) for _ in range(3))
    model = GPT(config, emulated(device, precision), params)
    costs.step(model, {"first": first, "second": second}, B)
    return device


@pytest.mark.parametrize("tensor_cores", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("dropout", [0, 0.1])
@pytest.mark.parametrize(("preset", "B"), [("gpt2", 512), ("gpt2-xl", 64), ("gpt-nano", 30_000)])
def test_real_models(preset: str, B: int, dropout: float, precision: str, tensor_cores: bool) -> None:  # noqa: FBT001
    config, _ = costs.used(preset)
    launch(ModelConfig(**vars(config) | {"dropout": dropout}), B, precision, tensor_cores=tensor_cores)


@pytest.mark.parametrize("block_size", [1, 64, 65, 8192])
def test_as_many_sequences_as_a_grid_holds(block_size: int) -> None:
    config = ModelConfig(vocab_size=11, block_size=block_size, n_layer=1, n_head=1, n_embd=16)
    most = most_sequences(config)
    assert launch(config, most, "fp32").largest > 0.98 * MOST_BLOCKS
    with pytest.raises(AssertionError, match="grid"):
        launch(config, most + 128, "fp32")


@pytest.mark.parametrize("block_size", [6136, 8192, 49_090, 49_121])
def test_as_many_rows_as_there_is_shared_memory_for(block_size: int) -> None:
    """A block of the softmax has fewer rows where their random bytes are many: at last 1, of 49,121 with alignment."""
    config = ModelConfig(vocab_size=11, block_size=block_size, n_layer=1, n_head=2, n_embd=16, dropout=0.1)
    launch(config, 1, "fp32")


def test_at_least_one_sequence() -> None:
    """However long it is: then a grid, not this number, is the limit."""
    assert most_sequences(ModelConfig(vocab_size=11, block_size=2**23, n_layer=1, n_head=1, n_embd=16)) == 1
