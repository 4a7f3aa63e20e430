"""Checkpoints: immutable folders RUN/checkpoints/step-NNNNNN that appear whole or not at all.

Each holds a model and a tokenizer that other tools open as they are; beside them optimizer.safetensors and, written
last, trainer.json: what else a resumed run needs, with the sizes and hashes of all other files. `last` and `best`
beside the folders are one-line files that name one of them.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_info

from scratchgpt import __version__
from scratchgpt import tokenizer as tokenizers
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.data.dataset import Dataset, file_record
from scratchgpt.errors import CheckpointError, UsageError
from scratchgpt.model import files as model_files
from scratchgpt.model.params import Layout
from scratchgpt.ops.adamw import Moments
from scratchgpt.ops.array import Array

FORMAT = 1
TRAINER = "trainer.json"
OPTIMIZER = "optimizer.safetensors"
FILES = (*model_files.FILES, *tokenizers.FILES, OPTIMIZER)
TEMPORARY = ".unfinished-"


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
    blas_threads: int  # part of the arithmetic: another number may sum in another order


def fresh(model: ModelConfig, train: TrainConfig, dataset: Dataset) -> Snapshot:
    """Return the state of a run before its first step."""
    params = Layout(model).initial(train.seed)
    return Snapshot(
        model=model,
        train=train,
        params=params,
        moments=Moments(np.zeros_like(params), np.zeros_like(params)),
        step=0,
        best_loss=None,
        data_folder=dataset.folder.as_posix(),
        data_digest=dataset.digest(),
        blas_threads=max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1),
    )


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path) -> None:
        """Use RUN/checkpoints, which need not exist yet."""
        self.folder = run / "checkpoints"

    def save(self, snapshot: Snapshot, tokenizer: tokenizers.Tokenizer, *, is_best: bool) -> Path:
        """Write a checkpoint, move the pointers, drop what is not to be kept. Raises CheckpointError.

        Whatever goes wrong, the checkpoints that were there before stay as they were.
        """
        name = f"step-{snapshot.step:06d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self.folder) as scratch:
                written = Path(scratch) / name
                written.mkdir()
                _write(written, snapshot, tokenizer)
                if (self.folder / name).exists():  # a run that was resumed from an earlier checkpoint
                    (self.folder / name).rename(Path(scratch) / "replaced")
                written.rename(self.folder / name)
            _sync_folder(self.folder)
            self._point("last", name)
            if is_best:
                self._point("best", name)
            self._prune(snapshot.train.keep)
        except (OSError, CheckpointError) as error:
            reason = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise CheckpointError(
                f"Cannot save {self.folder / name}: {reason}. Earlier checkpoints are untouched; "
                "make room or choose another --run, then go on with --resume."
            ) from error
        return self.folder / name

    def pointed(self, pointer: str) -> Path | None:
        """Return the folder that `last` or `best` names, or None. Raises CheckpointError."""
        try:
            name = (self.folder / pointer).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"Cannot read {self.folder / pointer}: {error}.") from error
        if name not in [folder.name for folder in self.all()]:
            raise CheckpointError(
                f"{self.folder / pointer} names {name!r}, which is not there; name a checkpoint yourself."
            )
        return self.folder / name

    def all(self) -> list[Path]:
        """Return the checkpoint folders, oldest step first."""
        return sorted(
            (folder for folder in self.folder.glob("step-*") if folder.name.removeprefix("step-").isdigit()),
            key=lambda folder: int(folder.name.removeprefix("step-")),
        )

    def clean(self) -> None:
        """Remove what a killed save left unfinished."""
        for leftover in self.folder.glob(TEMPORARY + "*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _point(self, pointer: str, name: str) -> None:
        temporary = self.folder / f"{TEMPORARY}{pointer}"
        temporary.write_text(name + "\n", encoding="utf-8", newline="\n")
        _sync_file(temporary)
        temporary.replace(self.folder / pointer)

    def _prune(self, keep: int) -> None:
        kept = {self.pointed("last"), self.pointed("best"), *self.all()[-keep:]}
        for folder in self.all():
            if folder not in kept:
                with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=self.folder) as scratch:
                    folder.rename(Path(scratch) / folder.name)


def locate(path: Path) -> Path:
    """Return the checkpoint folder meant by `path`: itself, or the last one of a run. Raises UsageError."""
    if not path.is_dir():
        raise UsageError(f"There is no run or checkpoint {path}.")
    if (path / "config.json").exists():
        return path
    last = Checkpoints(path).pointed("last")
    if last is None:
        raise UsageError(f"{path} has no checkpoint.")
    return last


def newest_run(runs: Path) -> Path:
    """Return the run whose last checkpoint is the most recent. Raises UsageError if there is none."""
    pointers = [*runs.glob("*/checkpoints/last")]
    if not pointers:
        raise UsageError(f"There is no trained model in {runs}{os.sep}; run `scratchgpt train` first, or name one.")
    return max(pointers, key=lambda pointer: pointer.stat().st_mtime_ns).parent.parent


def read(folder: Path) -> Snapshot:
    """Read and verify a checkpoint, so that training can go on from it. Raises CheckpointError."""
    content = verify(folder)
    model, params = model_files.load(folder)
    layout = Layout(model)
    shapes = {f"{moment}.{leaf.name}": leaf.shape for moment in Moments._fields for leaf in layout.leaves}
    tensors = model_files.load_tensors(folder / OPTIMIZER, shapes)
    moments = Moments(np.empty_like(params), np.empty_like(params))
    for moment, flat in moments._asdict().items():
        for name, view in layout.views(flat).items():
            view[...] = tensors[f"{moment}.{name}"]
    try:
        return Snapshot(
            model=model,
            train=TrainConfig.from_mapping(content["train"]),
            params=params,
            moments=moments,
            step=int(content["step"]),
            best_loss=content["best_loss"],
            data_folder=str(content["data"]["folder"]),
            data_digest=str(content["data"]["digest"]),
            blas_threads=int(content["blas_threads"]),
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{folder / TRAINER} is damaged: {error}.") from error


def read_model(folder: Path) -> tuple[ModelConfig, Array, tokenizers.Tokenizer]:
    """Read what is needed to use a model: configuration, flat parameters (P,), tokenizer. Raises CheckpointError."""
    if (folder / TRAINER).exists():
        verify(folder, (*model_files.FILES, *tokenizers.FILES))
    config, params = model_files.load(folder)
    tokenizer = tokenizers.load(folder)
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder}: the model has {config.vocab_size} tokens, but the vocabulary beside it {tokenizer.vocab_size}."
        )
    return config, params, tokenizer


def verify(folder: Path, names: Iterable[str] = FILES) -> dict[str, Any]:
    """Check files against their recorded sizes and hashes; return trainer.json. Raises CheckpointError."""
    path = folder / TRAINER
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} is of format {content['format']}, this version reads {FORMAT}.")
        for name in names:
            if content["files"][name] != file_record(folder / name):
                raise CheckpointError(f"{folder / name} was truncated or altered; use another checkpoint.")
    except OSError as error:
        raise CheckpointError(f"Cannot read {error.filename}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    return dict(content)


def _write(folder: Path, snapshot: Snapshot, tokenizer: tokenizers.Tokenizer) -> None:
    """Write all files of a checkpoint and see that they reach the disk."""
    model_files.save(folder, snapshot.model, snapshot.params)
    tokenizers.save(tokenizer, folder)
    layout = Layout(snapshot.model)
    model_files.save_tensors(
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
        "train": dataclasses.asdict(snapshot.train),
        "data": {"folder": snapshot.data_folder, "digest": snapshot.data_digest},
        "blas_threads": snapshot.blas_threads,
        "files": {name: file_record(folder / name) for name in FILES},
    }
    (folder / TRAINER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")
    for file in folder.iterdir():
        shutil.copymode(folder / TRAINER, file)  # safetensors makes files that only their owner can read
        _sync_file(file)
    _sync_folder(folder)


def _sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk, where the system can do that."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
