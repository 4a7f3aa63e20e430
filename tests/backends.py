"""Backends as tests need them: with poisoned buffers, or on an emulated GPU."""

import dataclasses
from functools import partial

import numpy as np

from scratchgpt.backend import Backend, cpu, on_gpu
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.precision import PRECISIONS, Precision
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops import adamw

KNOWN = PRECISIONS | {"fp64": Precision("fp64", "float64", "float64", tolerance=1e-9, sums="float64")}
"""The precisions, and one that only tests compute in."""


def on_cpu(workspace: Workspace | None = None, *, block_bytes: int = cpu.BLOCK_BYTES) -> Backend:
    """Return the CPU's backend on a workspace, by default one whose buffers are NaN when they are taken."""
    workspace = workspace or Workspace(poison=True)
    return Backend(
        "cpu",
        np,
        partial(cpu.table, workspace=workspace, block_bytes=block_bytes),
        adamw.norm,
        cpu.rules(workspace, block_bytes=block_bytes),
        np.asarray,
    )


def emulated(device: Device, precision: str = "fp32") -> Backend:
    """Return the GPU's backend on an emulator."""
    return on_gpu(device, "gpu:0", np.asarray, KNOWN[precision])


def by_sublayers(backend: Backend) -> Backend:
    """Return a backend whose tables have no fast decoding."""
    return backend._replace(table=lambda config: dataclasses.replace(backend.table(config), decoding=None))
