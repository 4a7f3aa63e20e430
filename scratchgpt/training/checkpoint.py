"""Checkpoints: immutable folders RUN/checkpoints/step-NNNNNN that appear whole or not at all.

Each holds a model and a tokenizer that other tools open as they are; beside them optimizer.safetensors and, written
last, trainer.json: what else a resumed run needs, with the sizes and hashes of all other files and its own. What all
that guarantees: docs/checkpoints.md.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from scratchgpt import __version__
from scratchgpt import tokenizer as tokenizers
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.engine.loss_scale import LARGEST, SMALLEST, LossScale
from scratchgpt.engine.plan import MOST_LANES, Plan
from scratchgpt.errors import CheckpointError, UsageError
from scratchgpt.files import TEMPORARY, copy_mode, file_record, read_json, sync_file, sync_folder, write_json
from scratchgpt.model import folder as model_folder
from scratchgpt.model import tensors
from scratchgpt.model.groups import slot_names
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from scratchgpt.training import backoff
from scratchgpt.training.backoff import Backoff
from scratchgpt.training.formats import FORMAT, upgraded
from scratchgpt.training.snapshot import Snapshot
from scratchgpt.training.store import Checkpoints, step_of

TRAINER = "trainer.json"
OPTIMIZER = "optimizer.safetensors"
FILES = (*model_folder.FILES, *tokenizers.FILES, OPTIMIZER)


def save(checkpoints: Checkpoints, snapshot: Snapshot, tokenizer: tokenizers.Tokenizer) -> Path:
    """Write a checkpoint, let `last` name it, and `best` if it is that; drop what is not to be kept.

    Raises CheckpointError. Whatever goes wrong, the checkpoints that were there before stay as they were.
    """
    path = checkpoints.path_of(snapshot.step)
    if not np.isfinite(snapshot.params).all():
        raise CheckpointError(f"Cannot save {path}: the weights are not finite any more; go back to an earlier one.")
    if path.exists():
        raise CheckpointError(f"Cannot save {path}: another run has left it there; choose another folder for this one.")
    try:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=checkpoints.folder) as scratch:
            written = Path(scratch) / path.name
            written.mkdir()
            _write(written, snapshot, tokenizer, _from_run(Path(snapshot.data_folder), checkpoints.folder.parent))
            written.rename(path)
        sync_folder(checkpoints.folder)
        checkpoints.point("last", path)
        if snapshot.best_step == snapshot.step:
            checkpoints.point("best", path)
    except OSError as error:
        raise CheckpointError(
            f"Cannot save {path}: {error.strerror or str(error).rstrip('.')}. Earlier checkpoints are untouched.",
            advice="Make room, then go on with --resume.",
            page="Make room, then press Continue from checkpoint.",
        ) from error
    checkpoints.thin_out(snapshot.train)
    return path


def read(folder: Path) -> Snapshot:
    """Read and verify a checkpoint, so that training can go on from it. Raises CheckpointError."""
    content = verify(folder)
    model, params = model_folder.load(folder)
    try:
        train, best_loss = TrainConfig.from_mapping(content["train"]), content["best_loss"]
        return Snapshot(
            model=model,
            train=train,
            params=params,
            slots=_read_slots(folder / OPTIMIZER, Layout(model), train),
            step=_whole_number(content["step"], 0, 2**31),
            best_loss=None if best_loss is None else float(best_loss),
            ends=model_folder.end_tokens(folder, model.vocab_size),
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


def _read_slots(path: Path, layout: Layout, train: TrainConfig) -> dict[str, Array]:
    """Return what the optimiser's rules keep, (P,) each. Raises CheckpointError."""
    names = slot_names(layout, train)
    found = tensors.load(path)
    shapes = {f"{name}.{leaf.name}": leaf.shape for name in names for leaf in layout.leaves}
    model_folder.require(path, found, shapes)
    return {
        name: np.concatenate([found[f"{name}.{leaf.name}"].numbers().reshape(-1) for leaf in layout.leaves])
        for name in names
    }


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
        verify(folder, (*model_folder.FILES, *tokenizers.FILES))
    config, parts = model_folder.load_parts(folder)
    tokenizer = tokenizers.load(folder)
    if not tokenizers.fits(tokenizer, config.vocab_size):
        raise CheckpointError(
            f"{folder}: the model has {config.vocab_size:,} tokens, but its vocabulary has {tokenizer.vocab_size:,}; "
            "put the model's own vocabulary there."
        )
    return config, parts, tokenizer.padded(config.vocab_size)


def _from_run(data: Path, run: Path) -> str:
    """Return the path of data from a run's folder, so that both can be moved together; absolute on another drive."""
    place = data.resolve()
    try:
        return Path(os.path.relpath(place, run.resolve())).as_posix()
    except ValueError:
        return place.as_posix()


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
    model_folder.save(folder, snapshot.model, snapshot.params, snapshot.ends)
    tokenizers.save(tokenizer, folder, snapshot.ends)
    layout = Layout(snapshot.model)
    tensors.save(
        folder / OPTIMIZER,
        {f"{slot}.{name}": view for slot, flat in snapshot.slots.items() for name, view in layout.views(flat).items()},
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
