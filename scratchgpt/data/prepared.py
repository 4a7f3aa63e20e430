"""A folder of prepared data: which files it has, whether it holds just what is asked for, and how it appears."""

from pathlib import Path
from typing import Any, NamedTuple

from scratchgpt import tokenizer as tokenizers
from scratchgpt.data.dataset import META, read_meta
from scratchgpt.data.shards import PARTS, shard_paths
from scratchgpt.errors import DataError
from scratchgpt.files import file_record


class Prepared(NamedTuple):
    """What `prepare` made, or found made already."""

    folder: Path
    meta: dict[str, Any]
    is_new: bool
    was_interrupted: bool


def token_files(folder: Path) -> list[Path]:
    """Return the files in a folder that `prepare` writes, but for meta.json. Raises DataError."""
    tokens = [path for part in PARTS for path in shard_paths(folder, part)]
    return [*tokens, *(folder / name for name in tokenizers.FILES if (folder / name).exists())]


def publish(written: Path, folder: Path) -> None:
    """Move what was written to where it is asked for. Raises OSError."""
    if not folder.exists():
        written.rename(folder)
        return
    for path in token_files(folder):
        if not (written / path.name).exists():
            path.unlink()
    for path in (*token_files(written), written / META):  # meta.json last: it vouches for the others
        path.replace(folder / path.name)


def is_prepared(folder: Path, asked: dict[str, Any]) -> bool:
    """Tell whether `folder` already holds just this. Raises DataError if it holds something else."""
    ours = token_files(folder)
    if (folder / META).exists():
        found = read_meta(folder)
        if found.get("asked") == asked and {path.name: file_record(path) for path in ours} == found["files"]:
            return True
        ours.append(folder / META)
    if ours:
        names = ", ".join(path.name for path in ours)
        raise DataError(
            f"{folder} already holds {names} from something else.",
            advice="Use --force to replace it, or --out for another place.",
            page="Choose another name.",
        )
    return False
