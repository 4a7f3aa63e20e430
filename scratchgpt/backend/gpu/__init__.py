"""The GPU's table of sublayers: our own CUDA kernels, and cuBLAS for the products of matrices."""

from collections.abc import Callable
from functools import partial
from typing import Any

from scratchgpt.backend import decoding
from scratchgpt.backend.gpu.adamw import by_adamw
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.norm import Norm
from scratchgpt.backend.gpu.rownorm import RowNorm
from scratchgpt.backend.gpu.sublayers import MLP, Attention, Embed, Head
from scratchgpt.backend.gpu.ways import attention_of, is_fused
from scratchgpt.config import ModelConfig
from scratchgpt.ops.optimizer import Rule
from scratchgpt.ops.sublayers import sublayers
from scratchgpt.ops.table import Table

NORMS: dict[str, Callable[[float], Norm[Any]]] = {name: partial(RowNorm, name) for name in ("layernorm", "rmsnorm")}

__all__ = ["attention_of", "is_fused", "rules", "table"]


def table(config: ModelConfig, device: Device) -> Table:
    """Return the sublayers of an architecture on this device. They compute in the type of the matrices."""
    norm = NORMS[config.norm](config.norm_epsilon)
    _, plain_attention, _, plain_head = sublayers(config)
    return Table.of(
        Embed(device),
        Attention(device, plain_attention, norm, config.head_size),
        MLP(device, norm, config.activation),
        Head(device, plain_head, norm),
        decoding.of(config),
    )


def rules(device: Device) -> dict[str, Rule]:
    """Return the rules of optimisers on this device."""
    return {"adamw": partial(by_adamw, device=device)}
