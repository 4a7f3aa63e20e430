"""The CPU's table of sublayers: the reference's mathematics, in place, in blocks, on buffers taken once."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from scratchgpt.backend.cpu import attention, embed, head, mlp, update
from scratchgpt.backend.cpu.dropout import Masks
from scratchgpt.backend.cpu.exchange import Shapes, vocabulary
from scratchgpt.backend.team import Team
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops import adamw
from scratchgpt.ops.sublayers import Sublayer, Table

T = TypeVar("T")

BLOCK_BYTES = 2**18
"""What is done to single numbers, several times in a row, is done to so many bytes at once: they stay in the cache."""

__all__ = ["BLOCK_BYTES", "Shapes", "shapes", "table", "vocabulary"]


def shapes(C: int, size: int) -> Shapes:
    """Return the arrays that the sublayers need to share in a team of `size` lanes."""
    return head.shapes(C, size) | embed.shapes(C, size)


def table(workspace: Workspace, *, block_bytes: int = BLOCK_BYTES, team: Team | None = None) -> Table:
    """Return the sublayers that draw their buffers from this workspace and work in blocks of so many bytes.

    The lanes of a `team` divide the vocabulary among them: in gradients of tables of V rows, each fills its own part.
    """
    team = team or Team(0, 1, lambda: None, workspace.take)

    def use(function: Callable[..., T]) -> Callable[..., T]:
        return partial(function, workspace=workspace)

    def block(function: Callable[..., T]) -> Callable[..., T]:
        return partial(function, workspace=workspace, block_bytes=block_bytes)

    masks = Masks(workspace)
    return Table(
        embed=Sublayer(partial(use(embed.forward), masks=masks), partial(use(embed.backward), team=team)),
        attention=Sublayer(partial(block(attention.forward), masks=masks), block(attention.backward)),
        keys_values=attention.keys_values,
        mlp=Sublayer(partial(block(mlp.forward), masks=masks), use(mlp.backward)),
        head_loss=partial(block(head.head_loss), team=team),
        norm=adamw.norm,
        update=block(update.update),
    )
