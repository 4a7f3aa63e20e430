"""Whether a GPU would take what real models launch: grids, blocks, memory shared, numbers that fit into their types.

Nothing is computed and no memory is needed: an array here is one number under many indices.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from scratchgpt.backend import gpu
from scratchgpt.backend.gpu import kernels, sublayers
from scratchgpt.backend.gpu.device import Size
from scratchgpt.backend.gpu.memory import MOST_BLOCKS, most_sequences
from scratchgpt.config import ModelConfig, load_preset
from scratchgpt.model.params import Layout
from scratchgpt.ops.adamw import Hyperparameters, Moments
from scratchgpt.ops.array import Array
from scratchgpt.ops.sublayers import Context

MOST = (2**31 - 1, MOST_BLOCKS, MOST_BLOCKS)
INT = 2**31 - 1


def array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    return np.broadcast_to(np.zeros((), dtype), shape)


class Checking:
    """A device that looks at launches and makes none of them."""

    xp: Any = SimpleNamespace(
        argsort=lambda tokens, kind: array(tokens.shape, np.int64),  # noqa: ARG005
        zeros_like=lambda x: array(x.shape, x.dtype),
        concatenate=lambda arrays: array((sum(map(len, arrays)),), arrays[0].dtype),
    )

    def __init__(self, *, tf32: bool = False, tensor_cores: bool = True) -> None:
        """Have what decides about the way that attention takes."""
        self.tf32, self.tensor_cores = tf32, tensor_cores
        self.largest = [0, 0, 0]  # of the grids, by axis

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return zeros."""
        return array(shape, dtype)

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
        """Fail where CUDA would refuse, or a whole number is no int."""
        kernels.instance(kernel, dtype, n)
        sizes = grid if isinstance(grid, tuple) else (grid,)
        for axis, (size, most) in enumerate(zip(sizes, MOST, strict=False)):
            assert 0 < size <= most, f"{kernel}: grid {grid}"
            self.largest[axis] = max(self.largest[axis], size)
        assert 0 < math.prod(block if isinstance(block, tuple) else (block,)) <= 1024, kernel
        assert shared_bytes <= 48 * 1024, kernel
        assert all(-INT <= value <= INT for value in arguments if isinstance(value, int)), kernel

    def matmul(self, a: Array, b: Array, out: Array, *, add: bool = False, factor: float = 1.0) -> None:  # noqa: ARG002
        """Fail where shapes do not fit together, or sizes are no int."""
        assert (*a.shape[:-1], b.shape[-1]) == out.shape
        assert a.shape[-1] == b.shape[-2]
        assert max(*a.shape, *b.shape) <= INT


def step(config: ModelConfig, B: int, dtype: npt.DTypeLike, device: Checking) -> None:
    """Launch all that a step launches."""
    layout, table, T = Layout(config), gpu.table(device), config.block_size
    flat = array((layout.size,), np.float32)
    params = layout.tree(array((layout.n_decayed,), dtype), flat[layout.n_decayed :])
    grads, tokens = layout.tree(flat), array((B, T), np.int64)
    context = Context(
        n_head=config.n_head,
        activation=config.activation,
        dropout=config.dropout,
        sequences=range(B),
        n_targets=B * T,
    )
    x, embed_saved = table.embed.forward(tokens, params.embed, context)
    block, grad = params.blocks[0], grads.blocks[0]
    attention_saved = table.attention.forward(x, block.attention, context)
    mlp_saved = table.mlp.forward(x, block.mlp, context)
    _, dx = table.head_loss(x, tokens, params.head, grads.head, context)
    table.mlp.backward(dx, mlp_saved, block.mlp, grad.mlp, context)
    table.attention.backward(dx, attention_saved, block.attention, grad.attention, context)
    table.embed.backward(dx, embed_saved, grads.embed)
    table.norm(flat)
    rounded = array((layout.n_decayed,), dtype) if dtype == np.float16 else None
    sublayers.update(
        flat,
        flat,
        Moments(flat, flat),
        Hyperparameters(1e-3),
        n_decayed=layout.n_decayed,
        norm=1.0,
        clip=1.0,
        update_number=1,
        rounded=rounded,
        device=device,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dropout", [0, 0.1])
@pytest.mark.parametrize(("preset", "B"), [("gpt2", 512), ("gpt2-xl", 512), ("gpt-nano", 70_000)])
@pytest.mark.parametrize("is_fused", [True, False])
def test_real_models(preset: str, B: int, dropout: float, dtype: npt.DTypeLike, is_fused: bool) -> None:  # noqa: FBT001
    config = ModelConfig.from_mapping(
        {"vocab_size": 50257, "block_size": 64} | load_preset(preset).model | {"dropout": dropout}
    )
    step(config, min(B, most_sequences(config)), dtype, Checking(tf32=not is_fused, tensor_cores=is_fused))


@pytest.mark.parametrize("block_size", [1, 64, 65, 8192])
def test_as_many_sequences_as_a_grid_holds(block_size: int) -> None:
    config = ModelConfig(vocab_size=11, block_size=block_size, n_layer=1, n_head=1, n_embd=16)
    most, device = most_sequences(config), Checking()
    step(config, most, np.float32, device)
    assert max(device.largest[1:]) > 0.98 * MOST_BLOCKS
    with pytest.raises(AssertionError, match="grid"):
        step(config, most + 128, np.float32, Checking())
