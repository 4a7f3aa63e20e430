"""The CPU's table of sublayers: the reference's mathematics, in place, in blocks, on buffers taken once."""

from collections.abc import Callable
from functools import partial
from typing import Any

from scratchgpt.backend import decoding
from scratchgpt.backend.cpu import activations, embed, head
from scratchgpt.backend.cpu.adamw import by_adamw
from scratchgpt.backend.cpu.attention import Attention
from scratchgpt.backend.cpu.dropout import Masks
from scratchgpt.backend.cpu.embed import Embed
from scratchgpt.backend.cpu.exchange import Shapes, vocabulary
from scratchgpt.backend.cpu.head import Head
from scratchgpt.backend.cpu.layernorm import LayerNorm
from scratchgpt.backend.cpu.mlp import MLP
from scratchgpt.backend.cpu.norm import Norm
from scratchgpt.backend.cpu.rmsnorm import RMSNorm
from scratchgpt.backend.team import Team
from scratchgpt.backend.workspace import Workspace
from scratchgpt.config import ModelConfig
from scratchgpt.ops.optimizer import Rule
from scratchgpt.ops.sublayers import sublayers
from scratchgpt.ops.table import Table

BLOCK_BYTES = 2**18
"""Bytes on which elementwise work is done at once, several times in a row: they stay in the cache."""

NORMS: dict[str, Callable[[float], Norm[Any]]] = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
ACTIVATIONS: dict[str, activations.Activation] = {"gelu_new": activations.gelu, "relu": activations.relu}

__all__ = ["BLOCK_BYTES", "Shapes", "rules", "shapes", "table", "vocabulary"]


def shapes(C: int, size: int) -> Shapes:
    """Return the arrays that the sublayers share in a team of `size` workers."""
    return head.shapes(C, size) | embed.shapes(C, size)


def table(
    config: ModelConfig, workspace: Workspace, *, block_bytes: int = BLOCK_BYTES, team: Team | None = None
) -> Table:
    """Return the sublayers of an architecture that take their buffers from this workspace.

    The workers of a `team` divide the vocabulary among them: in gradients of tables of V rows, each fills its own part.
    """
    team = team or Team(0, 1, lambda: None, workspace.take)
    norm, masks = NORMS[config.norm](config.norm_epsilon), Masks(workspace)
    _, plain_attention, _, plain_head = sublayers(config)
    return Table.of(
        Embed(workspace, masks, team),
        Attention(plain_attention, norm, workspace, masks, block_bytes),
        MLP(norm, ACTIVATIONS[config.activation], workspace, masks, block_bytes),
        Head(plain_head, norm, workspace, block_bytes, team),
        decoding.of(config),
    )


def rules(workspace: Workspace, *, block_bytes: int = BLOCK_BYTES) -> dict[str, Rule]:
    """Return the rules of optimisers, on buffers from this workspace."""
    return {"adamw": partial(by_adamw, workspace=workspace, block_bytes=block_bytes)}
