"""The GPU's table of sublayers: our own CUDA kernels, and cuBLAS for the products of matrices."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from scratchgpt.backend.gpu import sublayers
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.gpu.ways import attention_of, is_fused
from scratchgpt.ops.sublayers import Sublayer, Table

__all__ = ["attention_of", "is_fused", "table"]

T = TypeVar("T")


def table(device: Device) -> Table:
    """Return the sublayers that compute on this device, in the type of the matrices that they are given."""

    def use(function: Callable[..., T]) -> Callable[..., T]:
        return partial(function, device=device)

    return Table(
        embed=Sublayer(use(sublayers.embed_forward), use(sublayers.embed_backward)),
        attention=Sublayer(use(sublayers.attention_forward), use(sublayers.attention_backward)),
        keys_values=use(sublayers.keys_values),
        mlp=Sublayer(use(sublayers.mlp_forward), use(sublayers.mlp_backward)),
        head_loss=use(sublayers.head_loss),
        norm=use(sublayers.norm),
        update=use(sublayers.update),
    )
