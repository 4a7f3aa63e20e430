"""The ways to compute attention, and which of them is taken."""

from types import ModuleType

import numpy as np
import numpy.typing as npt

from scratchgpt.backend.gpu import products
from scratchgpt.backend.gpu.device import Device
from scratchgpt.config import ModelConfig

NAMES = {products: "by products of matrices"}


def way(device: Device, dtype: npt.DTypeLike, D: int) -> ModuleType:  # noqa: ARG001 - to be used
    """Return the module that computes attention of a type for heads of size D."""
    return products


def attention_of(device: Device, precision: str, config: ModelConfig) -> str:
    """Tell which way the attention of a model is computed."""
    dtype = np.float16 if precision == "fp16" else np.float32
    return NAMES[way(device, dtype, config.n_embd // config.n_head)]
