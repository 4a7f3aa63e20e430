"""The CPU's table of sublayers: the reference's mathematics, in place, in blocks, on buffers taken once."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from scratchgpt.backend.cpu import attention, embed, head, mlp, update
from scratchgpt.backend.cpu.exchange import Shapes, vocabulary
from scratchgpt.backend.team import Team
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops.sublayers import Sublayer, Table

T = TypeVar("T")

__all__ = ["Shapes", "shapes", "table", "vocabulary"]


def shapes(C: int, size: int) -> Shapes:
    """Return the arrays that the sublayers need to share in a team of `size` lanes."""
    return head.shapes(C, size) | embed.shapes(C, size)


def table(workspace: Workspace, team: Team | None = None) -> Table:
    """Return the sublayers that draw their buffers from this workspace.

    The lanes of a `team` divide the vocabulary among them: in gradients of tables of V rows, each fills its own part.
    """
    team = team or Team(0, 1, lambda: None, workspace.take)

    def use(function: Callable[..., T]) -> Callable[..., T]:
        return partial(function, workspace=workspace)

    return Table(
        embed=Sublayer(use(embed.forward), partial(use(embed.backward), team=team)),
        attention=Sublayer(use(attention.forward), use(attention.backward)),
        mlp=Sublayer(use(mlp.forward), use(mlp.backward)),
        head_loss=partial(use(head.head_loss), team=team),
        update=use(update.update),
    )
