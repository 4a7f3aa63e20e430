"""The benchmark of generation: texts from our model and from the same folder in `transformers`, on one machine in turn.

As in the benchmark of training, each contender is a process of its own (`worker`), and nothing is timed before all have
made the same text. Everybody takes the likeliest token always. What bounds a token from below is reading the matrices:
a contender that only does so, with one product of a matrix of their size and a vector, says what the machine allows.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from scratchgpt.bench import LIMIT, OURS, Source
from scratchgpt.config import ModelConfig
from scratchgpt.model import cost

SOURCES = {
    OURS: Source("numpy", "generation.ours", "build"),
    LIMIT: Source("numpy", "generation.ours", "build_product"),
    "transformers": Source("transformers", "generation.transformers_peer", "build"),
}
PEERS = ("transformers",)
PROMPT = 16
"""Tokens before those whose time is taken."""
LONG_PROMPT = 512
"""Tokens whose time is taken together."""


class Text(NamedTuple):
    """What a contender has made."""

    seconds: list[float]  # until each of the n tokens after the one before, the first from the beginning
    tokens: list[int]  # (n,) of the first sample
    log_probabilities: list[float]  # (n,), if they were asked for


class Writer(NamedTuple):
    """A model that makes texts."""

    write: Callable[[npt.NDArray[np.int64], int, int, bool], Text]  # prompt (T,), samples, n, with log probabilities?
    about: dict[str, Any]  # what the report says of it
    device_bytes: Callable[[], int | None] = lambda: None  # the most memory held on a GPU, if it computes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What every contender is to compute."""

    folder: str  # of the model
    model: ModelConfig
    n_samples: int = 8  # at once
    seed: int = 1337  # of the prompts
    device: str = "cpu"  # or gpu:N

    @classmethod
    def from_mapping(cls, settings: dict[str, Any]) -> Self:
        """Build from the result of `settings_of`."""
        return cls(**settings | {"model": ModelConfig.from_mapping(settings["model"])})

    @property
    def path(self) -> Path:
        """The folder of the model."""
        return Path(self.folder)

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Tokens of the short prompt, tokens for which the context has room after it, and tokens of the long prompt."""
        T = self.model.block_size
        n_prompt = min(PROMPT, max(1, T // 4))
        return n_prompt, T - n_prompt, min(LONG_PROMPT, T)

    def prompt(self, n_tokens: int) -> npt.NDArray[np.int64]:
        """Draw tokens (n,)."""
        return np.random.default_rng(self.seed).integers(self.model.vocab_size, size=n_tokens)

    @property
    def n_weights(self) -> int:
        """How many numbers a token is multiplied with. Of tables that are looked up, it needs one row."""
        return cost.n_multiplied(self.model)
