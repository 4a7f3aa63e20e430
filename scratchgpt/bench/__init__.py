"""The benchmark: whole training steps of our model and of the same model in other frameworks, on one machine in turn.

Each contender is a process of its own (`worker`) that builds the model, and then makes and times steps when `measure`
asks for them. All start from the same weights and see the same tokens, and nothing is timed before their losses agree.
Contenders alternate in short turns, and rounds in which the machine was busy do not count (`rounds`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.model import cost
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array

OURS = "ours"
LIMIT = "matrix product"


class Source(NamedTuple):
    """Where a contender comes from."""

    package: str  # that must be installed
    module: str  # of this package
    function: str  # makes a Contender from a Workload


SOURCES = {
    OURS: Source("numpy", "ours", "build"),
    LIMIT: Source("numpy", "ours", "build_product"),
    "torch": Source("torch", "torch_peer", "build"),
    "torch-compile": Source("torch", "torch_peer", "build_compiled"),
    "torch-bf16": Source("torch", "torch_peer", "build_bf16"),
    "jax": Source("jax", "jax_peer", "build"),
}
PEERS = ("torch", "torch-compile", "torch-bf16", "jax")


def parsed(name: str) -> tuple[str, str]:
    """Split a contender's name, such as `torch` or `ours@FOLDER`, into its source and its folder, "" without one."""
    source, _, folder = name.partition("@")
    return source, folder


def settings_of(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, for `from_mapping`.

    Another version of scratchgpt reads them too, if it knows these fields.
    """
    return {
        field.name: settings_of(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(record)
        if (value := getattr(record, field.name)) != field.default
    }


class Contender(NamedTuple):
    """A model in training, or something else to time."""

    step: Callable[[Array, Array], float]  # tokens, targets (B, T) -> the loss; returns when all work is done
    about: dict[str, Any]  # what the report says of it
    profile: dict[str, float] | None = None  # seconds spent in each part, for whoever reads it to clear
    device_bytes: Callable[[], int | None] = lambda: None  # the most memory held on a GPU, if it computes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What every contender is to compute."""

    model: ModelConfig
    batch_size: int
    seed: int = 1337
    device: str = "cpu"  # or gpu:N
    precision: str = "fp32"
    lanes: int = 0  # of ours; 0: as many as suit
    profile: bool = False

    @classmethod
    def from_mapping(cls, settings: dict[str, Any]) -> Self:
        """Build from the result of `settings_of`."""
        return cls(**settings | {"model": ModelConfig.from_mapping(settings["model"])})

    def initial(self) -> dict[str, Array]:
        """Draw the initial parameters by GPT-2's names, linear maps (in, out)."""
        layout = Layout(self.model)
        return layout.views(layout.initial(self.seed))

    def batch(self, step: int) -> tuple[Array, Array]:
        """Draw tokens and targets (B, T) of one step."""
        shape = (2, self.batch_size, self.model.block_size)
        tokens, targets = np.random.default_rng([self.seed, step]).integers(self.model.vocab_size, size=shape)
        return tokens, targets

    @property
    def recipe(self) -> TrainConfig:
        """How every contender updates: our defaults, at a constant learning rate."""
        return TrainConfig(steps=1, batch_size=self.batch_size, learning_rate=1e-3)

    @property
    def flops(self) -> int:
        """The multiplications and additions in the matrix products of a step.

        A contender that leaves out what the causal mask hides may beat the limit that follows from this number.
        """
        return cost.training_flops(self.model, self.batch_size * self.model.block_size)
