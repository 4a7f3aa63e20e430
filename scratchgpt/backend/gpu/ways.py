"""The ways to compute attention, and which of them is taken."""

from types import ModuleType

import numpy.typing as npt

from scratchgpt.backend.gpu import attention, products
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.precision import Precision
from scratchgpt.config import ModelConfig

NAMES = {attention: "by one kernel (flash attention)", products: "by products of matrices"}


def way(device: Device, dtype: npt.DTypeLike, D: int) -> ModuleType:
    """Return the module that computes attention of a type for heads of size D.

    Flash attention where there is a kernel for it, as it alone needs no memory that grows with T². Its float32 sums are
    exact products: where those may be rounded to TF32, cuBLAS's products run on tensor cores and are the faster way.
    """
    can_run = device.tensor_cores if attention.needs_tensor_cores(dtype) else not device.tf32
    return attention if can_run and attention.supports(dtype, D) else products


def is_fused(device: Device, precision: Precision, config: ModelConfig) -> bool:
    """Return whether the attention of a model is computed without an array of T × T numbers."""
    return _way_of(device, precision, config) is not products


def attention_of(device: Device, precision: Precision, config: ModelConfig) -> str:
    """Tell which way the attention of a model is computed."""
    return NAMES[_way_of(device, precision, config)]


def _way_of(device: Device, precision: Precision, config: ModelConfig) -> ModuleType:
    return way(device, precision.matrices, config.head_size)
