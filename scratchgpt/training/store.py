"""The checkpoints of a run: folders RUN/checkpoints/step-NNNNNN, and `last` and `best`, files that name one of them."""

import contextlib
import re
import shutil
import tempfile
from pathlib import Path

from scratchgpt.config import TrainConfig
from scratchgpt.errors import CheckpointError
from scratchgpt.files import TEMPORARY, written_whole


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path) -> None:
        """Use RUN/checkpoints, which need not exist yet."""
        self.folder = run / "checkpoints"

    def path_of(self, step: int) -> Path:
        """Return the folder of this step's checkpoint, whether or not it is there."""
        return self.folder / f"step-{step:06d}"

    def thin_out(self, train: TrainConfig) -> None:
        """Remove the checkpoints that the recipe does not keep."""
        folders = self.all()
        kept = {*folders[-train.keep :], self.pointed("last"), self.pointed("best")}
        for folder in folders:
            is_milestone = train.keep_every > 0 and step_of(folder) % train.keep_every == 0
            if folder not in kept and not is_milestone:
                self._remove(folder)

    def point(self, pointer: str, folder: Path) -> None:
        """Let `last` or `best` name a checkpoint. Raises OSError."""
        with written_whole(self.folder / pointer, force=True) as temporary:
            temporary.write_text(folder.name + "\n", encoding="utf-8", newline="\n")

    def mark_best(self, step: int) -> None:
        """Let `best` name the checkpoint of this step. Raises CheckpointError."""
        try:
            self.point("best", self.path_of(step))
        except OSError as error:
            raise CheckpointError(f"Cannot write {self.folder / 'best'}: {error.strerror}.") from error

    def pointed(self, pointer: str) -> Path | None:
        """Return the folder that `last` or `best` names, or None if it names none."""
        try:
            name = (self.folder / pointer).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return next((folder for folder in self.all() if folder.name == name), None)

    def all(self) -> list[Path]:
        """Return the checkpoint folders, oldest step first."""
        folders = [
            path for path in self.folder.glob("step-*") if re.fullmatch("step-[0-9]+", path.name) and path.is_dir()
        ]
        return sorted(folders, key=step_of)

    def after(self, folder: Path) -> list[Path]:
        """Return the checkpoints of later steps than this one."""
        folders = self.all()
        return folders[folders.index(folder) + 1 :]

    def rewind(self, folder: Path, best_step: int | None) -> None:
        """Make this checkpoint the last one, and that of `best_step` the best, if it is there; drop later ones."""
        self.point("last", folder)
        best = next((path for path in self.all() if step_of(path) == best_step), None)
        if best:
            self.point("best", best)
        else:
            (self.folder / "best").unlink(missing_ok=True)
        for abandoned in self.after(folder):
            self._remove(abandoned)

    def clear(self) -> None:
        """Remove the run's checkpoints and what a killed save left unfinished, nothing else."""
        for pointer in ("last", "best"):
            (self.folder / pointer).unlink(missing_ok=True)
        for folder in self.all():
            self._remove(folder)
        self.clean()

    def clean(self) -> None:
        """Remove what a killed save left unfinished."""
        for leftover in self.folder.glob(TEMPORARY + "*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()

    def free_bytes(self) -> int:
        """Return how much room there is where the checkpoints are, or will be."""
        return shutil.disk_usage(next(path for path in (self.folder, *self.folder.parents) if path.exists())).free

    def _remove(self, folder: Path) -> None:
        """Delete a checkpoint, so that it is never there in part. One that is being read may stay (on Windows)."""
        with (
            contextlib.suppress(OSError),
            tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self.folder, ignore_cleanup_errors=True) as scratch,
        ):
            folder.rename(Path(scratch) / folder.name)


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint folder, by its name."""
    return int(folder.name.removeprefix("step-"))
