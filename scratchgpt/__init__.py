"""scratchgpt: a GPT with no framework under it.

The command line is the usual way in. From Python::

    from pathlib import Path
    import scratchgpt as sg

    sg.prepare(Path("data/shakes.txt"), Path("data/shakes"))
    dataset = sg.Dataset.open(Path("data/shakes"))
    recipe = sg.load_preset("shakespeare-cpu")
    model = sg.ModelConfig(**(recipe.model | {"vocab_size": dataset.tokenizer.vocab_size}))
    snapshot = sg.fresh(model, sg.TrainConfig(**recipe.train), dataset)
    for event in sg.Trainer(snapshot, dataset, Path("runs/mine")).events():
        print(event)

The public names are loaded when first used, so that the command line starts quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scratchgpt.backend import select as select
    from scratchgpt.config import ModelConfig as ModelConfig
    from scratchgpt.config import TrainConfig as TrainConfig
    from scratchgpt.config import load_preset as load_preset
    from scratchgpt.data.dataset import Dataset as Dataset
    from scratchgpt.data.prepare import prepare as prepare
    from scratchgpt.errors import ScratchGPTError as ScratchGPTError
    from scratchgpt.generation.sampler import Sampling as Sampling
    from scratchgpt.generation.sampler import generate as generate
    from scratchgpt.model.gpt import GPT as GPT
    from scratchgpt.tokenizer.bpe import BPETokenizer as BPETokenizer
    from scratchgpt.tokenizer.char import CharTokenizer as CharTokenizer
    from scratchgpt.training.checkpoint import read as read
    from scratchgpt.training.checkpoint import read_model as read_model
    from scratchgpt.training.snapshot import fresh as fresh
    from scratchgpt.training.trainer import Trainer as Trainer

_HOMES = {
    "BPETokenizer": "tokenizer.bpe",
    "CharTokenizer": "tokenizer.char",
    "Dataset": "data.dataset",
    "GPT": "model.gpt",
    "ModelConfig": "config",
    "Sampling": "generation.sampler",
    "ScratchGPTError": "errors",
    "TrainConfig": "config",
    "Trainer": "training.trainer",
    "fresh": "training.snapshot",
    "generate": "generation.sampler",
    "load_preset": "config",
    "prepare": "data.prepare",
    "read": "training.checkpoint",
    "read_model": "training.checkpoint",
    "select": "backend",
}


def __getattr__(name: str) -> Any:
    """Load a public name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'scratchgpt' has no attribute {name!r}")
    return getattr(importlib.import_module(f"scratchgpt.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return ["__version__", *_HOMES]
