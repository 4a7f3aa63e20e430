"""What a file or folder holds, as a dictionary that JSON can hold: for people to read and programs to use.

Nothing is believed: what cannot be read becomes a sentence among the problems, and the rest is told all the same.
"""

import contextlib
import dataclasses
import math
import operator
import os
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scratchgpt import tokenizer as tokenizers
from scratchgpt.config import TrainConfig
from scratchgpt.data.dataset import META, read_meta, recorded_digest, token_dtype
from scratchgpt.data.shards import PARTS, ShardReader, shard_paths
from scratchgpt.errors import CheckpointError, DataError, ScratchGPTError, UsageError
from scratchgpt.files import read_json
from scratchgpt.inspection.labels import label
from scratchgpt.inspection.parts import parameters
from scratchgpt.inspection.statistics import statistics
from scratchgpt.model import folder as model_folder
from scratchgpt.model import tensors
from scratchgpt.model.tensors import Tensor
from scratchgpt.training import checkpoint, runs
from scratchgpt.training.checkpoint import OPTIMIZER, TRAINER
from scratchgpt.training.locate import followed
from scratchgpt.training.origin import find_data
from scratchgpt.training.store import Checkpoints

Report = dict[str, Any]
Progress = Callable[[int, int], None]
"""Is told how many tensors' numbers were looked at, and how many there are."""

SUMMARISED = ("preset", "step", "steps", "best_loss", "seconds", "device", "when")
"""What a run's own files say of it, even where no checkpoint does."""

N_EXAMPLES = 12
"""Tokens shown of a vocabulary."""
BEGINNING = 60
"""Tokens shown of prepared data."""
CHUNK = 2**20
"""Ids of a token file looked at together."""

LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
"""How PyTorch's files of before 2020 begin; those of today are zip archives."""


SIZES = (
    *("model_type", "vocab_size", "n_positions", "max_position_embeddings", "n_layer", "num_hidden_layers"),
    *("n_head", "num_attention_heads", "n_embd", "hidden_size", "activation_function", "hidden_act"),
)
"""What is told of a configuration that this program cannot use."""


def describe(path: Path, *, with_tensors: bool = False, progress: Progress = lambda _, __: None) -> Report:
    """Return what is at `path`. Raises UsageError, DataError and CheckpointError if that is nothing known."""
    if not path.exists():
        raise UsageError(f"There is no file or folder {path}.")
    named, path = path, followed(path)
    report: Report = {"path": named.as_posix(), "kind": "", "bytes": _bytes(path), "problems": []}
    found = _of_folder(path, report) if path.is_dir() else _of_file(path, report)
    if with_tensors:
        report["tensors"] = list(_told(found, progress))
    return report


def _of_folder(path: Path, report: Report) -> list[Tensor]:
    """Add what a folder holds; return its tensors. Raises UsageError, DataError and CheckpointError."""
    if (path / "config.json").exists() or any(path.glob("*.safetensors")):
        return _of_model(path, report)
    if any(path.glob("*.bin")) and any(shard_paths(path, part) for part in PARTS):
        return _of_data(path, report)
    if runs.is_run(path):
        return _of_run(path, report)
    if (path / "tokenizer.json").exists() or any((path / name).exists() for name in ("encoder.json", "vocab.json")):
        report["kind"] = "tokenizer"
        _try(report, "tokenizer", lambda: _tokenizer(tokenizers.load(path)))
        return []
    model_folder.refuse_pickles(path)
    raise UsageError(f"{path} is no run, checkpoint, model, prepared data or tokenizer; name a folder that is.")


def _has_zipped_pickle(path: Path) -> bool:
    """Return whether a file is an archive as PyTorch writes it, by its list of contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError):  # no archive, or one of a kind that nobody can read
        return False


def _of_file(path: Path, report: Report) -> list[Tensor]:
    """Add what a file holds; return its tensors. Raises UsageError, DataError and CheckpointError."""
    with path.open("rb") as file:
        beginning = file.read(16)
    model_folder.refuse_pickles(path)
    if beginning.startswith(LEGACY) or _has_zipped_pickle(path):
        raise CheckpointError(model_folder.about_pickle(path))
    match path.suffix.lower():
        case ".safetensors":
            report["kind"] = "safetensors file"
            found = [*tensors.load(path).values()]
            report["parameters"] = parameters(found, {})
            return found
        case ".json" if path.name == "config.json":
            report["kind"] = "configuration"
            report["architecture"] = _architecture(path, report)
        case ".json":
            report["kind"] = "tokenizer"
            report["tokenizer"] = _tokenizer(tokenizers.read(path))
        case ".bin":
            report["kind"] = "token file"
            report["data"] = _token_file(path, report)
        case _:
            raise UsageError(
                f"{path} is nothing that is known here: name a run, a checkpoint, a folder of Hugging Face's, prepared "
                "data, or a .safetensors, tokenizer.json or .bin file."
            )
    return []


def _of_run(run: Path, report: Report) -> list[Tensor]:
    """Add what a run is, and what its last checkpoint holds."""
    summary = runs.summary(run)
    last = Checkpoints(run).pointed("last")
    found = _of_model(last, report) if last else []
    report["kind"] = "run"
    report["problems"] += [problem for problem in summary.problems if problem not in report["problems"]]
    checkpoints = Checkpoints(run)
    best = checkpoints.pointed("best")
    known: Report = {name: getattr(summary, name) for name in SUMMARISED}
    known["checkpoints"] = [folder.name for folder in checkpoints.all()]
    known |= {"last": last and last.name, "best": best and best.name}
    told = {name: value for name, value in known.items() if value not in (None, [])}
    report["training"] = report.get("training", {}) | told
    return found


def _of_model(folder: Path, report: Report) -> list[Tensor]:
    """Add what a checkpoint or another program's folder holds; return its tensors."""
    report["kind"] = "checkpoint" if (folder / TRAINER).exists() else "model folder"
    content: Report = {}
    if (folder / "config.json").exists():
        content = _try(report, "architecture", lambda: _architecture(folder / "config.json", report)) or {}
    found: list[Tensor] = []
    for file in _weights(folder):
        found += (_try(report, None, partial(tensors.load, file)) or {}).values()
    index = folder / model_folder.INDEX
    if index.exists():
        _try(report, None, lambda: _compare_with_index(index, found))
    if found:
        report["parameters"] = parameters(found, content)
    else:
        report["problems"].append(f"{folder} has no weights that can be read: no .safetensors file.")
        _try(report, None, lambda: model_folder.refuse_pickles(folder))
    if content and found and not report["problems"]:
        _try(report, None, lambda: model_folder.find(folder))
    tokenizer = _try(report, None, lambda: tokenizers.load(folder))
    if tokenizer:
        report["tokenizer"] = _tokenizer(tokenizer)
        n_rows = content.get("vocab_size", tokenizer.vocab_size)
        if isinstance(n_rows, int) and not tokenizers.fits(tokenizer, n_rows):
            report["problems"].append(f"The vocabulary has {tokenizer.vocab_size} tokens, the model {n_rows}.")
    if (folder / TRAINER).exists():
        _try(report, "training", lambda: _training(folder))
        _try(report, None, lambda: checkpoint.verify(folder))
        _try(report, None, lambda: _compare_with_data(folder))
    return found


def _of_data(folder: Path, report: Report) -> list[Tensor]:
    """Add what prepared data hold."""
    report["kind"] = "prepared data"
    tokenizer = _try(report, None, lambda: tokenizers.load(folder))
    if tokenizer:
        report["tokenizer"] = _tokenizer(tokenizer)
        _try(report, "data", lambda: _data(folder, tokenizer, report))
    return []


def _try(report: Report, part: str | None, read: Callable[[], Any]) -> Any:
    """Read a part of a report; what goes wrong becomes a problem, and None is returned."""
    try:
        value = read()
    except ScratchGPTError as error:
        report["problems"].append(str(error))
        return None
    except OSError as error:
        report["problems"].append(f"Cannot read {error.filename}: {error.strerror}.")
        return None
    if part:
        report[part] = value
    return value


def _bytes(path: Path) -> int:
    """Return the size of a file, or of all in a folder, where a training may be writing and removing them."""
    files = [path] if path.is_file() else [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    n_bytes = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            n_bytes += file.stat().st_size
    return n_bytes


def _weights(folder: Path) -> list[Path]:
    """Return the files of a model's weights."""
    found = sorted(path for path in folder.glob("*.safetensors") if path.name != OPTIMIZER)
    return [path for path in found if path.name.startswith("model")] or found


def _compare_with_index(path: Path, found: list[Tensor]) -> None:
    """Raise CheckpointError if a model in several files lacks tensors that its index names."""
    named = read_json(path, CheckpointError).get("weight_map")
    if not isinstance(named, dict):
        raise CheckpointError(f"{path} is damaged: it has no weight_map.")
    if missing := sorted(named.keys() - {tensor.name for tensor in found}):
        raise CheckpointError(f"{path} names {len(missing):,} tensors that no file here has, such as {missing[0]}.")


def _compare_with_data(folder: Path) -> None:
    """Raise DataError if other data are now where those of a checkpoint were, by what is recorded of both."""
    with contextlib.suppress(UsageError, CheckpointError):  # they are not here, or that is a problem of its own
        place, digest = find_data(folder)
        if (place / META).exists() and recorded_digest(place) != digest:
            raise DataError(f"{place} is no longer the data that this was trained on.")


def _architecture(path: Path, report: Report) -> Report:
    """Return what a config.json says; that this program cannot use it is a problem. Raises CheckpointError."""
    try:
        known, config = model_folder.read_config(path)
        return {"model_type": known.model_type} | dataclasses.asdict(config) | {"n_inner": config.inner_size}
    except CheckpointError as error:
        content = read_json(path, CheckpointError)
        report["problems"].append(str(error))
        return {name: content[name] for name in SIZES if isinstance(content.get(name), int | str)}


def _tokenizer(tokenizer: tokenizers.Tokenizer) -> Report:
    """Return what a vocabulary is like."""
    kinds = {tokenizers.CharTokenizer: "characters", tokenizers.BPETokenizer: "byte-level BPE"}
    ids = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.unused)
    places = ids[np.linspace(0, len(ids) - 1, min(N_EXAMPLES, len(ids))).astype(int)].tolist()
    return {
        "kind": kinds[type(tokenizer)],
        "size": len(ids),
        "special": dict(tokenizer.special),
        "examples": [{"id": index, "text": label(tokenizer, index)} for index in places],
    }


def _training(folder: Path) -> Report:
    """Return how far a checkpoint is, and by what recipe. Raises CheckpointError."""
    content = checkpoint.verify(folder, ())
    try:
        train = TrainConfig.from_mapping(content["train"])
        recipe = {
            field.name: getattr(train, field.name)
            for field in dataclasses.fields(train)
            if getattr(train, field.name) not in (field.default, ())
        }
        told: Report = {"step": operator.index(content["step"]), "best_loss": _finite(content["best_loss"])}
        if content["best_step"] is not None:
            told["best_step"] = operator.index(content["best_step"])
        return {
            **told,
            "steps": recipe.pop("steps"),
            "recipe": recipe,
            "data": str(content["data"]["folder"]),
            "device": str(content["plan"]["device"]),
            "precision": str(content["plan"]["precision"]),
            "lanes": operator.index(content["plan"]["lanes"]),
            "scratchgpt": str(content["scratchgpt"]),
        }
    except (KeyError, TypeError, UsageError) as error:
        raise CheckpointError(f"{folder / TRAINER} is damaged: {error}.") from error


def _data(folder: Path, tokenizer: tokenizers.Tokenizer, report: Report) -> Report:
    """Return what the parts of prepared data are. Raises DataError."""
    dtype = token_dtype(tokenizer.vocab_size)
    parts = {}
    for part in PARTS:
        reader = ShardReader(folder, part, dtype)
        beginning = reader.read(0, BEGINNING)
        parts[part] = {"tokens": reader.size, "files": len(reader.paths), "begins": _text(tokenizer, beginning)}
    result: Report = {"dtype": dtype.name, "parts": parts}
    if (folder / META).exists():
        meta = read_meta(folder)
        for name, record in meta["files"].items():
            file = folder / name
            if not file.is_file() or not isinstance(record, dict) or record.get("bytes") != file.stat().st_size:
                report["problems"].append(f"{file} is not as `prepare` wrote it: it is gone, or its size is another.")
        try:
            counts = ("documents", "characters", "tokens")
            result["sources"] = [
                {"name": str(part["name"])} | {name: operator.index(part[name]) for name in counts}
                for part in meta["parts"]
            ]
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder / META} is damaged: {error}.") from error
    return result


def _text(tokenizer: tokenizers.Tokenizer, ids: np.ndarray[Any, Any]) -> str:
    """Return the text of ids. Raises DataError if they are not of this vocabulary."""
    try:
        return tokenizer.decode(ids)
    except UsageError as error:
        raise DataError(f"The tokens are not those of the vocabulary beside them: {error}") from error


def _token_file(path: Path, report: Report) -> Report:
    """Return what a bare token file holds, by the vocabulary beside it if there is one. Raises DataError."""
    tokenizer = None
    if (path.parent / "tokenizer.json").exists():
        tokenizer = _try(report, None, lambda: tokenizers.load(path.parent))
    dtype = token_dtype(tokenizer.vocab_size if tokenizer else 0)
    n_bytes = path.stat().st_size
    if not n_bytes or n_bytes % dtype.itemsize:
        raise DataError(f"{path} is empty or truncated: its size is no multiple of {dtype.itemsize} bytes.")
    ids = np.memmap(path, dtype, mode="r")
    largest = max(int(ids[start : start + CHUNK].max()) for start in range(0, len(ids), CHUNK))
    result = {"dtype": dtype.name, "tokens": len(ids), "largest_id": largest}
    if tokenizer and largest >= tokenizer.vocab_size:
        report["problems"].append(f"{path} holds the id {largest}, but the vocabulary has {tokenizer.vocab_size}.")
    elif tokenizer:
        result["begins"] = _text(tokenizer, ids[:BEGINNING])
    else:
        report["problems"].append("There is no tokenizer.json beside it; it is read as two bytes a token.")
    return result


def _told(found: list[Tensor], progress: Progress) -> Iterator[Report]:
    """Yield each tensor's shape and what its numbers are like."""
    total = sum(tensor.size for tensor in found)
    for tensor in found:
        numbers = statistics(tensor, lambda n: progress(n, total))
        told = {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype}
        yield told | ({} if numbers is None else {name: _finite(value) for name, value in numbers._asdict().items()})


def _finite(value: float | None) -> float | None:
    """Return a number that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None
