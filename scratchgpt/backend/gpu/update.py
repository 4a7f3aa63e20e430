"""The update of the parameters on a GPU."""

import math

from scratchgpt.backend.gpu import adamw
from scratchgpt.backend.gpu.device import Device
from scratchgpt.ops.adamw import Hyperparameters, Moments, clip_scale
from scratchgpt.ops.array import Array


def norm(grads: Array, *, device: Device) -> float:
    """√Σ g². grads (P,)."""
    return math.sqrt(float(adamw.sum_of_squares(device, grads)))


def update(
    params: Array,
    grads: Array,
    moments: Moments,
    hyperparameters: Hyperparameters,
    *,
    n_decayed: int,
    norm: float,
    clip: float,
    update_number: int,
    loss_scale: float = 1.0,
    rounded: Array | None = None,
    device: Device,
) -> None:
    """Do what the reference does; `rounded` (n_decayed,) becomes a copy of the decayed parameters in float16."""
    if not norm < math.inf:
        grads.fill(0)
        return
    adamw.update(
        device,
        params,
        grads,
        moments,
        hyperparameters,
        n_decayed=n_decayed,
        scale=clip_scale(norm, clip) / loss_scale,
        update_number=update_number,
        rounded=rounded,
    )
