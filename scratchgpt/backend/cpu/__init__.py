"""The CPU's table of sublayers: the reference's mathematics, in place, in blocks, on buffers taken once."""

from functools import partial

from scratchgpt.backend.cpu import attention, embed, head, mlp, update
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops.sublayers import Sublayer, Table


def table(workspace: Workspace) -> Table:
    """Return the sublayers that draw their buffers from this workspace."""
    return Table(
        embed=Sublayer(partial(embed.forward, workspace=workspace), partial(embed.backward, workspace=workspace)),
        attention=Sublayer(
            partial(attention.forward, workspace=workspace), partial(attention.backward, workspace=workspace)
        ),
        mlp=Sublayer(partial(mlp.forward, workspace=workspace), partial(mlp.backward, workspace=workspace)),
        head_loss=partial(head.head_loss, workspace=workspace),
        update=partial(update.update, workspace=workspace),
    )
