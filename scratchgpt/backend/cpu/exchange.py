"""Rows that all lanes of a team work on, because each of them owns a part of the vocabulary.

The gradient of a table of 50,257 rows is larger than all that a lane computes it from. One copy a lane, and a sum over
the copies, would cost more than to show each other the rows of the residual stream and let every lane fill its own
part of one table. At the same memory, that is 4% of a step of gpt-nano.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.team import Team
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops.array import Array

ROWS = 512
"""Rows in a chunk, of all lanes together."""

Shapes = dict[str, tuple[npt.DTypeLike, tuple[int, ...]]]


class Chunk(NamedTuple):
    """Rows of all lanes, the first lane's first."""

    rows: Array  # (n, C): a copy
    ids: Array  # (n,): the token that belongs to each row
    own: slice  # which of them are this lane's
    source: slice  # where these are among the rows that it gave


def shared_shapes(name: str, C: int, size: int) -> Shapes:
    """Return the arrays that `exchange` shares under this name: there are two of each, used in turn."""
    r = rows_of_a_lane(size)
    return {
        f"{name} rows": (np.float32, (2, size, r, C)),
        f"{name} ids": (np.int64, (2, size, r)),
        f"{name} counts": (np.int64, (2, size, 2)),
    }


def rows_of_a_lane(size: int) -> int:
    """Return how many rows each of `size` lanes gives to a chunk."""
    return max(1, ROWS // size)


def vocabulary(V: int, team: Team) -> slice:
    """Return the part of V tokens that a lane owns."""
    return slice(V * team.rank // team.size, V * (team.rank + 1) // team.size)


def exchange(name: str, rows: Array, ids: Array, team: Team, workspace: Workspace) -> Iterator[Chunk]:
    """Yield the rows (N, C) and ids (N,) of all lanes, whose N may differ, chunk by chunk.

    A lane may write what the next chunk but one needs when the others have read this one: they have by the barrier in
    between. From one call to the next under the same name there must be another barrier.
    """
    N, C = rows.shape
    r = rows_of_a_lane(team.size)
    all_rows = team.shared(f"{name} rows", (2, team.size, r, C), rows.dtype)
    all_ids = team.shared(f"{name} ids", (2, team.size, r), np.int64)
    all_counts = team.shared(f"{name} counts", (2, team.size, 2), np.int64)
    turn, start, is_last = 0, 0, False
    while not is_last:
        source = slice(start, min(start + r, N))
        n_own = source.stop - source.start
        all_rows[turn, team.rank, :n_own] = rows[source]
        all_ids[turn, team.rank, :n_own] = ids[source]
        all_counts[turn, team.rank] = n_own, N - source.stop
        team.barrier()
        counts, left = all_counts[turn].T
        is_last = not left.any()
        stops = np.cumsum(counts)
        chunk_rows = workspace.take("chunk rows", (int(stops[-1]), C), rows.dtype)
        chunk_ids = workspace.take("chunk ids", (int(stops[-1]),), np.int64)
        for lane, (count, stop) in enumerate(zip(counts, stops, strict=True)):
            chunk_rows[stop - count : stop] = all_rows[turn, lane, :count]
            chunk_ids[stop - count : stop] = all_ids[turn, lane, :count]
        stop = int(stops[team.rank])
        if stops[-1]:
            yield Chunk(chunk_rows, chunk_ids, slice(stop - n_own, stop), source)
        turn, start = 1 - turn, source.stop
