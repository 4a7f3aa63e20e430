"""Checkpoints: immutable folders RUN/checkpoints/step-NNNNNN that appear whole or not at all.

Each holds a model and a tokenizer that other tools open as they are; beside them optimizer.safetensors and, written
last, trainer.json: what else a resumed run needs, with the sizes and hashes of all other files and its own. `last` and
`best` beside the folders are one-line files that name one of them. What all that guarantees: docs/checkpoints.md.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scratchgpt import __version__
from scratchgpt import tokenizer as tokenizers
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.data.dataset import Dataset
from scratchgpt.engine.loss_scale import LARGEST, SMALLEST, LossScale
from scratchgpt.engine.plan import MOST_LANES, Plan, default_plan, require_memory
from scratchgpt.errors import CheckpointError, DataError, UsageError
from scratchgpt.files import (
    TEMPORARY,
    copy_mode,
    file_record,
    read_json,
    sync_file,
    sync_folder,
    write_json,
    written_whole,
)
from scratchgpt.model import files as model_files
from scratchgpt.model import tensors
from scratchgpt.model.params import Layout
from scratchgpt.ops.adamw import Moments
from scratchgpt.ops.array import Array
from scratchgpt.training import backoff
from scratchgpt.training.backoff import Backoff
from scratchgpt.training.formats import FORMAT, upgraded

TRAINER = "trainer.json"
OPTIMIZER = "optimizer.safetensors"
FILES = (*model_files.FILES, *tokenizers.FILES, OPTIMIZER)


class Snapshot(NamedTuple):
    """All that a run is at one moment; the arrays are NumPy's."""

    model: ModelConfig
    train: TrainConfig
    params: Array  # (P,)
    moments: Moments  # of (P,)
    step: int  # updates made
    best_loss: float | None  # lowest on the validation windows so far
    data_folder: str
    data_digest: str
    plan: Plan  # part of the arithmetic: another one sums in another order
    loss_scale: LossScale = LossScale()  # in half precision, for the next step
    best_step: int | None = None  # when the loss was lowest
    n_worse: int = 0  # evaluations since then
    last_evaluation: int | None = None  # the step of the last one
    backoff: Backoff = Backoff()
    ends: tuple[int, ...] = ()  # ids that end a text; they change no training

    @property
    def is_finished(self) -> bool:
        """Whether all steps are made, or the validation loss has not become better for too long."""
        return self.step >= self.train.steps or self.is_stale

    @property
    def is_stale(self) -> bool:
        """Whether `patience` evaluations have come to nothing better."""
        return 0 < self.train.patience <= self.n_worse


def fresh(
    model: ModelConfig,
    train: TrainConfig,
    dataset: Dataset,
    plan: Plan | None = None,
    *,
    params: Array | None = None,
    ends: tuple[int, ...] = (),
) -> Snapshot:
    """Return the state of a run before its first step.

    The plan is the default one and the parameters (P,) are drawn, unless they are given. The ids that end a text are
    those of the data; if these have none, `ends`. Raises MemoryError, and DataError.
    """
    plan = plan or default_plan(model, train)
    require_memory(model, plan)
    params = Layout(model).initial(train.seed) if params is None else params
    return Snapshot(
        model=model,
        train=train,
        params=params,
        moments=Moments(np.zeros_like(params), np.zeros_like(params)),
        step=0,
        best_loss=None,
        data_folder=dataset.folder.as_posix(),
        data_digest=dataset.digest,
        plan=plan,
        ends=dataset.ends() or ends,
    )


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path) -> None:
        """Use RUN/checkpoints, which need not exist yet."""
        self.folder = run / "checkpoints"

    def save(self, snapshot: Snapshot, tokenizer: tokenizers.Tokenizer) -> Path:
        """Write a checkpoint, let `last` name it, and `best` if it is that; drop what is not to be kept.

        Raises CheckpointError. Whatever goes wrong, the checkpoints that were there before stay as they were.
        """
        path = self.folder / f"step-{snapshot.step:06d}"
        if not np.isfinite(snapshot.params).all():
            raise CheckpointError(
                f"Cannot save {path}: the weights are not finite any more; go back to an earlier one."
            )
        if path.exists():
            raise CheckpointError(
                f"Cannot save {path}: another run has left it there; choose another folder for this one."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self.folder) as scratch:
                written = Path(scratch) / path.name
                written.mkdir()
                _write(written, snapshot, tokenizer, _from_run(Path(snapshot.data_folder), self.folder.parent))
                written.rename(path)
            sync_folder(self.folder)
            self._point("last", path)
            if snapshot.best_step == snapshot.step:
                self._point("best", path)
        except OSError as error:
            raise CheckpointError(
                f"Cannot save {path}: {error.strerror or str(error).rstrip('.')}. Earlier checkpoints are untouched.",
                advice="Make room, then go on with --resume.",
                page="Make room, then press Continue from checkpoint.",
            ) from error
        self._thin_out(snapshot.train)
        return path

    def _thin_out(self, train: TrainConfig) -> None:
        """Remove the checkpoints that are not to be kept."""
        folders = self.all()
        kept = {*folders[-train.keep :], self.pointed("last"), self.pointed("best")}
        for folder in folders:
            is_milestone = train.keep_every > 0 and step_of(folder) % train.keep_every == 0
            if folder not in kept and not is_milestone:
                self._remove(folder)

    def mark_best(self, step: int) -> None:
        """Let `best` name the checkpoint of this step. Raises CheckpointError."""
        try:
            self._point("best", self.folder / f"step-{step:06d}")
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
        self._point("last", folder)
        best = next((path for path in self.all() if step_of(path) == best_step), None)
        if best:
            self._point("best", best)
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

    def _point(self, pointer: str, folder: Path) -> None:
        with written_whole(self.folder / pointer, force=True) as temporary:
            temporary.write_text(folder.name + "\n", encoding="utf-8", newline="\n")

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


def locate(path: Path | None = None) -> Path:
    """Return the folder of the model meant by `path`, by default by the newest run in runs/.

    It is a checkpoint or a folder of `transformers`, then it is meant itself; a run, then its last checkpoint; or
    RUN/checkpoints/best, then what that names. Raises UsageError, and CheckpointError for a pickle.
    """
    path = followed(newest_run(Path("runs")) if path is None else path)
    if path.is_file():
        model_files.refuse_pickles(path)
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
        model_files.refuse_pickles(path)
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


def newest_run(runs: Path) -> Path:
    """Return the run whose last checkpoint is the most recent. Raises UsageError if there is none."""
    pointers = [*runs.glob("*/checkpoints/last")]
    if not pointers:
        raise UsageError(
            f"There is no trained model in {runs}{os.sep}.",
            advice="Run `scratchgpt train` first, or name one.",
            page="Train one first.",
        )
    return max(pointers, key=lambda pointer: pointer.stat().st_mtime_ns).parent.parent


def read(folder: Path) -> Snapshot:
    """Read and verify a checkpoint, so that training can go on from it. Raises CheckpointError."""
    content = verify(folder)
    model, params = model_files.load(folder)
    layout = Layout(model)
    shapes = {f"{moment}.{leaf.name}": leaf.shape for moment in Moments._fields for leaf in layout.leaves}
    found = tensors.load(folder / OPTIMIZER)
    model_files.require(folder / OPTIMIZER, found, shapes)
    moments = Moments(
        *(
            np.concatenate([found[f"{moment}.{leaf.name}"].numbers().reshape(-1) for leaf in layout.leaves])
            for moment in Moments._fields
        )
    )
    try:
        best_loss = content["best_loss"]
        return Snapshot(
            model=model,
            train=TrainConfig.from_mapping(content["train"]),
            params=params,
            moments=moments,
            step=_whole_number(content["step"], 0, 2**31),
            best_loss=None if best_loss is None else float(best_loss),
            ends=model_files.end_tokens(folder, model.vocab_size),
            best_step=_step_or_none(content["best_step"]),
            n_worse=_whole_number(content["n_worse"], 0, 2**31),
            last_evaluation=_step_or_none(content["last_evaluation"]),
            backoff=Backoff(
                factor=_number(content["backoff"]["factor"], backoff.SMALLEST, 1.0),
                n_made=_whole_number(content["backoff"]["n_made"], 0, backoff.RECOVERY - 1),
                n_skipped=_whole_number(content["backoff"]["n_skipped"], 0, backoff.MOST_SKIPPED - 1),
            ),
            data_folder=str(content["data"]["folder"]),
            data_digest=str(content["data"]["digest"]),
            plan=Plan(
                lanes=_whole_number(content["plan"]["lanes"], 1, MOST_LANES),
                micro_batch=_whole_number(content["plan"]["micro_batch"], 1, 2**31),
                block_bytes=_whole_number(content["plan"]["block_bytes"], 2**10, 2**31),
                device=str(content["plan"]["device"]),
                precision=str(content["plan"]["precision"]),
            ),
            loss_scale=LossScale(
                value=_number(content["loss_scale"]["value"], SMALLEST, LARGEST),
                n_good=_whole_number(content["loss_scale"]["n_good"], 0, 2**31),
            ),
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{folder / TRAINER} is damaged: {error}.") from error


def _whole_number(value: Any, smallest: int, largest: int) -> int:
    if type(value) is not int or not smallest <= value <= largest:
        raise ValueError(f"{value!r} is no whole number from {smallest} to {largest}")
    return value


def _step_or_none(value: Any) -> int | None:
    return None if value is None else _whole_number(value, 0, 2**31)


def _number(value: Any, smallest: float, largest: float) -> float:
    if type(value) is not float or not smallest <= value <= largest:
        raise ValueError(f"{value!r} is no number from {smallest:g} to {largest:g}")
    return value


def read_model(folder: Path) -> tuple[ModelConfig, Array, tokenizers.Tokenizer]:
    """Read a model to go on from: configuration, flat parameters (P,), tokenizer. Raises CheckpointError, DataError."""
    config, parts, tokenizer = open_model(folder)
    return config, np.concatenate(parts), tokenizer


def open_model(folder: Path) -> tuple[ModelConfig, list[Array], tokenizers.Tokenizer]:
    """Read a model to use: configuration, flat parameters (P,) in parts, tokenizer. Raises as `read_model` does.

    The parts may lie in the file, which must not change. Where the model has more rows than its vocabulary has tokens,
    the ids of the others are unused.
    """
    if (folder / TRAINER).exists():
        verify(folder, (*model_files.FILES, *tokenizers.FILES))
    config, parts = model_files.load_parts(folder)
    tokenizer = tokenizers.load(folder)
    if not tokenizers.fits(tokenizer, config.vocab_size):
        raise CheckpointError(
            f"{folder}: the model has {config.vocab_size:,} tokens, but its vocabulary has {tokenizer.vocab_size:,}; "
            "put the model's own vocabulary there."
        )
    return config, parts, tokenizer.padded(config.vocab_size)


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


def _from_run(data: Path, run: Path) -> str:
    """Return the path of data from a run's folder, so that both can be moved together; absolute on another drive."""
    place = data.resolve()
    try:
        return Path(os.path.relpath(place, run.resolve())).as_posix()
    except ValueError:
        return place.as_posix()


def _from_here(path: Path) -> Path:
    """Return the path from the working folder, where that is possible."""
    try:
        return Path(os.path.relpath(path))
    except ValueError:
        return path


def verify(folder: Path, names: Iterable[str] = FILES) -> dict[str, Any]:
    """Check files against their recorded sizes and hashes; return trainer.json, of today's format.

    Raises CheckpointError.
    """
    path = folder / TRAINER
    content = read_json(path, CheckpointError)
    version = content.get("format")
    if type(version) is int and version > FORMAT:
        raise CheckpointError(
            f"{path} is of format {version}, written by scratchgpt {content.get('scratchgpt')}; this version, "
            f"{__version__}, reads formats up to {FORMAT}: update scratchgpt."
        )
    if type(version) is not int or version < 1 or not isinstance(content.get("files"), dict):
        raise CheckpointError(f"{path} is damaged: it is of no format that there has been.")
    if version >= 4 and content.get("sha256") != own_digest(content):
        raise CheckpointError(f"{path} was altered; use another checkpoint.")
    for name in names:
        try:
            record = file_record(folder / name)
        except OSError as error:
            raise CheckpointError(f"Cannot read {folder / name}: {error.strerror}.") from error
        if content["files"].get(name) != record:
            raise CheckpointError(f"{folder / name} was truncated or altered; use another checkpoint.")
    best = Checkpoints(folder.resolve().parent.parent).pointed("best")
    try:
        return upgraded(content, step_of(best) if best else None)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def own_digest(content: dict[str, Any]) -> str:
    """Return a hash of what trainer.json says beside this hash itself."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode("ascii")).hexdigest()


def _write(folder: Path, snapshot: Snapshot, tokenizer: tokenizers.Tokenizer, data_from_run: str) -> None:
    """Write all files of a checkpoint and see that they reach the disk."""
    model_files.save(folder, snapshot.model, snapshot.params, snapshot.ends)
    tokenizers.save(tokenizer, folder, snapshot.ends)
    layout = Layout(snapshot.model)
    tensors.save(
        folder / OPTIMIZER,
        {
            f"{moment}.{name}": view
            for moment, flat in snapshot.moments._asdict().items()
            for name, view in layout.views(flat).items()
        },
    )
    content = {
        "format": FORMAT,
        "scratchgpt": __version__,
        "step": snapshot.step,
        "best_loss": snapshot.best_loss,
        "best_step": snapshot.best_step,
        "n_worse": snapshot.n_worse,
        "last_evaluation": snapshot.last_evaluation,
        "train": dataclasses.asdict(snapshot.train),
        "data": {"folder": snapshot.data_folder, "from_run": data_from_run, "digest": snapshot.data_digest},
        "plan": snapshot.plan._asdict(),
        "loss_scale": snapshot.loss_scale._asdict(),
        "backoff": snapshot.backoff._asdict(),
        "files": {name: file_record(folder / name) for name in FILES},
    }
    write_json(folder / TRAINER, content | {"sha256": own_digest(content)})
    for file in folder.iterdir():
        copy_mode(file, like=folder / TRAINER)  # safetensors makes files that only their owner can read
        sync_file(file)
    sync_folder(folder)
