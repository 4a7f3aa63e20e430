"""The data that a checkpoint was trained on: where they are now, and whether they are still the same."""

import os
from pathlib import Path

from scratchgpt.data.dataset import Dataset
from scratchgpt.errors import CheckpointError, DataError, UsageError
from scratchgpt.training.checkpoint import TRAINER, verify


def open_data(folder: Path) -> Dataset:
    """Open the data that a checkpoint was trained on.

    Raises as `find_data` does, and DataError if other data are there now.
    """
    place, digest = find_data(folder)
    dataset = Dataset.open(place)
    require_same_data(dataset, folder, digest)
    return dataset


def find_data(folder: Path) -> tuple[Path, str]:
    """Return where the data of a checkpoint are, relative to the run or else as they were named, and their digest.

    Raises UsageError if they are in neither place or the model is from elsewhere, and CheckpointError.
    """
    if not (folder / TRAINER).exists():
        raise UsageError(
            f"{folder} does not say what it was trained on.",
            advice="Name prepared data with --data.",
            page="It cannot be evaluated here.",
        )
    try:
        record = verify(folder, ())["data"]
        named, from_run, digest = Path(record["folder"]), record.get("from_run", record["folder"]), record["digest"]
        moved = Path(os.path.normpath(folder.resolve().parent.parent / from_run))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / TRAINER} is damaged: it names no data.") from error
    places = [named] if moved.resolve() == named.resolve() or "from_run" not in record else [_from_here(moved), named]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise UsageError(
            f"The data of {folder} are not in {' or '.join(map(str, places))}.",
            advice="Name them with --data.",
            page="Put them back, or start a new run.",
        )
    return found, digest


def require_same_data(dataset: Dataset, model: Path, digest: str) -> None:
    """Raise DataError if prepared data are not those, by their digest, that a model was trained on."""
    if dataset.digest != digest:
        raise DataError(
            f"{dataset.folder} is not the data that {model} was trained on.",
            advice="Prepare that text again, or name data with --data.",
            page="Prepare that text again under the same name, or start a new run.",
        )


def _from_here(path: Path) -> Path:
    """Return the path from the working folder, where that is possible."""
    try:
        return Path(os.path.relpath(path))
    except ValueError:
        return path
