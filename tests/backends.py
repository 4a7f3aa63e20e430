"""Backends as tests need them: with poisoned buffers, or on an emulated GPU."""

import dataclasses
from functools import partial

import numpy as np

from scratchgpt.backend import Backend, cpu, on_gpu
from scratchgpt.backend.cpu.update import update
from scratchgpt.backend.gpu.device import Device
from scratchgpt.backend.workspace import Workspace
from scratchgpt.ops import adamw


def on_cpu(workspace: Workspace | None = None, *, block_bytes: int = cpu.BLOCK_BYTES) -> Backend:
    """Return the CPU's backend on a workspace, by default one whose buffers are NaN when they are taken."""
    workspace = workspace or Workspace(poison=True)
    return Backend(
        "cpu",
        np,
        partial(cpu.table, workspace=workspace, block_bytes=block_bytes),
        adamw.norm,
        partial(update, workspace=workspace, block_bytes=block_bytes),
        np.asarray,
    )


def emulated(device: Device, precision: str = "fp32") -> Backend:
    """Return the GPU's backend on an emulator."""
    return on_gpu(device, "gpu:0", np.asarray, precision)


def by_sublayers(backend: Backend) -> Backend:
    """Return a backend whose tables have no fast decoding."""
    return backend._replace(table=lambda config: dataclasses.replace(backend.table(config), decoding=None))
