"""A small world for tests: a text, a prepared folder, a model that trains in milliseconds, the command line."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scratchgpt import tokenizer as tokenizers
from scratchgpt.backend import select
from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.data.dataset import Dataset
from scratchgpt.data.prepare import prepare
from scratchgpt.data.shards import PARTS, SHARD, ShardWriter
from scratchgpt.tokenizer.bpe_training import train
from scratchgpt.training.snapshot import Snapshot, fresh
from scratchgpt.training.trainer import Trainer

TEXT = "the quick brown fox jumps over the lazy dog,\nand the dog sleeps on.\n\n" * 30
TINY = {"block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.2}
QUICK = {"steps": 20, "batch_size": 5, "learning_rate": 1e-2, "eval_every": 8, "eval_windows": 7, "save_every": 6}
CPU = select("cpu")
OTHERS = (
    "cupy._environment",
    "matplotlib.font_manager",
    "nicegui.client",
    "regex._main",
    "regex.regex",
    "wandb.sdk.lib.service.service_port_file",
    "wandb.sdk.lib.wb_logging",
)
"""Modules of other packages that name no encoding."""


def make_dataset(folder: Path, text: str = TEXT) -> Dataset:
    """Prepare a text in `folder` and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.txt"
    source.write_text(text, encoding="utf-8", newline="")
    prepare(source, folder / "data")
    return Dataset.open(folder / "data")


def make_tokens(
    folder: Path,
    train_ids: Sequence[int] | None,
    val_ids: Sequence[int],
    *,
    shard_sizes: Sequence[int] = (SHARD, SHARD),
) -> Dataset:
    """Write ids, or leave those that are there, and the vocabulary of <|endoftext|>, 0, and the bytes; open it all."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizers.save(train({}, 257), folder)
    for part, ids, shard_size in zip(PARTS, (train_ids, val_ids), shard_sizes, strict=True):
        if ids is not None:
            with ShardWriter(folder, part, np.dtype("<u2"), shard_size=shard_size) as writer:
                writer.append(np.array(ids))
    return Dataset.open(folder)


def make_documents(folder: Path) -> Dataset:
    """Make a data set of documents from 1 to 90 bytes long in `folder`, in shards."""
    encode = train({}, 257).encode
    ids = [token for length in range(1, 91) for token in (*encode(TEXT[length : 2 * length]).tolist(), 0)]
    return make_tokens(folder / "data", ids, ids[2000:], shard_sizes=(1000, SHARD))


def make_snapshot(dataset: Dataset, **changes: Any) -> Snapshot:
    """Return the first snapshot of a tiny run."""
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    model = TINY | {name: changes.pop(name) for name in names if name in changes}
    return fresh(
        ModelConfig.from_mapping(model | {"vocab_size": dataset.tokenizer.vocab_size}),
        TrainConfig.from_mapping(QUICK | changes),
        dataset,
    )


def make_trainer(folder: Path, **changes: Any) -> Trainer:
    """Return a trainer of a tiny run in `folder` / run."""
    dataset = make_dataset(folder)
    return Trainer(make_snapshot(dataset, **changes), dataset, folder / "run")


def scratchgpt(
    *arguments: str | Path,
    cwd: Path,
    environment: Mapping[str, str] = os.environ,
    standard_input: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the real command line in `cwd`, where reading or writing text without a named encoding is an error."""
    settings = {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONWARNDEFAULTENCODING": "1",
        "PYTHONWARNINGS": "error::EncodingWarning" + "".join(f",ignore::EncodingWarning:{module}" for module in OTHERS),
    }
    return subprocess.run(
        [sys.executable, "-m", "scratchgpt", *arguments],
        cwd=cwd,
        env={**environment, **settings},
        input=standard_input,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )


def small_run(folder: Path, name: str, **settings: int) -> None:
    """Train a run of this name in `folder`, with the data that `make_dataset` has put into its folder data."""
    sizes = {"block_size": 16, "n_layer": 1, "n_embd": 16, "batch_size": 4, "eval_every": 20, "steps": 60} | settings
    words = [word for size in sizes.items() for word in ("--set", "{}={}".format(*size))]
    done = scratchgpt("train", "--data", "data/data", "--run", f"runs/{name}", "--lanes", "1", *words, cwd=folder)
    assert not done.returncode, done.stderr
