"""Which model a path means: that of a run, of a checkpoint or of a folder of `transformers`."""

import os
from pathlib import Path

from scratchgpt.errors import UsageError
from scratchgpt.model import folder as model_folder
from scratchgpt.training.places import newest_run
from scratchgpt.training.store import Checkpoints


def locate(path: Path | None = None) -> Path:
    """Return the folder of the model meant by `path`, by default by the newest run in runs/.

    It is a checkpoint or a folder of `transformers`, then it is meant itself; a run, then its last checkpoint; or
    RUN/checkpoints/best, then what that names. Raises UsageError, and CheckpointError for a pickle.
    """
    path = followed(newest_run() if path is None else path)
    if path.is_file():
        model_folder.refuse_pickles(path)
        has_model = (path.parent / "config.json").exists()
        there = "the folder that it is in" if has_model else "a run, a checkpoint or a model's folder"
        raise UsageError(f"{path} is a file; name {there}.")
    if not path.is_dir():
        raise UsageError(f"There is no run or checkpoint {path}.")
    if (path / "config.json").exists():
        return path
    checkpoints = Checkpoints(path)
    last = checkpoints.pointed("last")
    folders = checkpoints.all()
    if folders and not (checkpoints.folder / "last").exists():  # killed between its first checkpoint and the pointer
        return folders[-1]
    if last is None:
        model_folder.refuse_pickles(path)
        there = ", ".join(map(str, folders))
        advice = (
            f"; name one of {there}" if there else " and no config.json; name a run, a checkpoint or a model's folder"
        )
        raise UsageError(f"{path} has no last checkpoint{advice}.")
    return last


def followed(path: Path) -> Path:
    """Return the checkpoint that RUN/checkpoints/last or best names; any other path means itself."""
    if path.is_file() and is_in_checkpoints(path):
        pointed = Checkpoints(_absolute(path).parent.parent).pointed(path.name)
        return path.with_name(pointed.name) if pointed else path
    return path


def is_in_checkpoints(path: Path) -> bool:
    """Whether this is in the folder `checkpoints` of a run, from wherever it is named."""
    return _absolute(path).parent.name == "checkpoints"


def _absolute(path: Path) -> Path:
    """Return a path from the root, without `..`; a link stays, since it may lead out of a run."""
    return Path(os.path.normpath(path.absolute()))
