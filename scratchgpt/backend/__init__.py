"""Devices: `select` gives the array module of one, and its tables of sublayers."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scratchgpt.backend import cpu
from scratchgpt.backend.precision import FP32, PRECISIONS, Precision
from scratchgpt.backend.team import Team
from scratchgpt.backend.workspace import Workspace
from scratchgpt.config import ModelConfig
from scratchgpt.errors import NoGPUError, UsageError, did_you_mean
from scratchgpt.ops import adamw, sublayers
from scratchgpt.ops.array import Array
from scratchgpt.ops.optimizer import RULES, Rule
from scratchgpt.ops.table import Table

if TYPE_CHECKING:
    from scratchgpt.backend.gpu.device import Device


class Backend(NamedTuple):
    """A device, ready to compute."""

    name: str  # cpu, or gpu:N
    xp: ModuleType  # numpy, or a module with its interface
    table: Callable[[ModelConfig], Table]  # of an architecture
    norm: Callable[[Array], float]  # the Euclidean norm of all gradients (P,)
    rules: Mapping[str, Rule]  # of optimisers, by name
    to_numpy: Callable[[Array], Array]
    precision: Precision = FP32
    attention: Callable[[ModelConfig], str] | None = None  # tells how a model's is computed, where there are ways
    use: Callable[[], object] = lambda: None
    """Choose the device in another thread than `select` was called in: CUDA has a current device for each thread."""

    def to_device(self, values: Array) -> Any:
        """Return a large array on the device, itself if it is there.

        `asarray` would take it through pinned memory of its size, and CuPy keeps that to the end.
        """
        if isinstance(values, self.xp.ndarray):
            return values
        moved = self.xp.empty(values.shape, values.dtype)
        moved.set(values)
        return moved


def reference(xp: ModuleType = np, to_numpy: Callable[[Array], Array] = np.asarray) -> Backend:
    """Return the reference, made of the small ops, on the arrays of a module."""
    return Backend("cpu", xp, sublayers.table, adamw.norm, RULES, to_numpy)


def resolve(device: str, *, tell: Callable[[str], None] | None = None) -> str:
    """Return `cpu` or `gpu:N` for `auto`, `cpu`, `gpu` or `gpu:N`. Raises UsageError, which says what is missing.

    `auto` is the first GPU that can be used, or else the CPU. `tell` receives the reason if a GPU is there but cannot
    be used. Compiling a kernel takes memory of the GPU, so only `auto` tries it here; `select` tries it for the others.
    """
    if device == "cpu":
        return "cpu"
    if device == "auto":
        try:
            name = resolve("gpu:0")
            select(name)
        except UsageError as error:
            if tell and not isinstance(error, NoGPUError):
                tell(str(error))
            return "cpu"
        return name
    match = re.fullmatch("gpu(?::([0-9]{1,3}))?", device)
    if not match:
        raise UsageError(f"There is no device {device!r}; choose auto, cpu, gpu or gpu:N.")
    number = int(match[1] or 0)
    try:
        from scratchgpt.backend.gpu import cuda  # noqa: PLC0415 - CuPy is needed for a GPU only
    except ImportError as error:
        raise NoGPUError(
            f"A GPU needs CuPy, which cannot be imported ({error}).",
            advice="Install it: pip install 'scratchgpt[gpu]', or use --device cpu.",
            page="Choose the device cpu.",
        ) from error
    except OSError as error:  # it makes a folder for its kernels when it is imported
        raise UsageError(
            f"CuPy cannot be imported ({error}).",
            advice="If it is a folder for kernels that cannot be written, set CUPY_CACHE_DIR to one that can, or use "
            "--device cpu.",
            page="Choose the device cpu.",
        ) from error
    cuda.require(number)
    return f"gpu:{number}"


def require_precision(device: str, precision: str) -> None:
    """Raise UsageError if `cpu` or `gpu:N` does not compute in this precision."""
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise UsageError(f"There is no precision {precision!r}{hint}; choose {', '.join(PRECISIONS)}.")
    if device == "cpu" and precision != "fp32":
        raise UsageError(
            f"A CPU computes in fp32, not in {precision}.", advice="Leave out --precision.", page="Choose fp32."
        )


def free_memory(device: str) -> int:
    """Return how many bytes are free on `gpu:N`."""
    from scratchgpt.backend.gpu import cuda  # noqa: PLC0415

    return cuda.free_memory(int(device.removeprefix("gpu:")))


def has_fused_attention(device: str, precision: str, model: ModelConfig) -> bool:
    """Return whether `gpu:N` computes a model's attention without an array of T × T numbers."""
    from scratchgpt.backend import gpu  # noqa: PLC0415
    from scratchgpt.backend.gpu.cuda import Cuda  # noqa: PLC0415

    chosen = PRECISIONS[precision]
    return gpu.is_fused(Cuda(int(device.removeprefix("gpu:")), chosen), chosen, model)


def pool_bytes() -> int:
    """Return how many bytes CuPy holds on the GPU in use."""
    from scratchgpt.backend.gpu import cuda  # noqa: PLC0415

    return cuda.pool_bytes()


def select(
    device: str, *, block_bytes: int = cpu.BLOCK_BYTES, team: Team | None = None, precision: str = "fp32"
) -> Backend:
    """Return the backend for `auto`, `cpu`, `gpu` or `gpu:N`. Raises UsageError if it is not to be had.

    On a CPU, `block_bytes` of numbers are worked on at once, and a `team` is one of lanes that divide the vocabulary.
    On a GPU, `precision` is one of PRECISIONS.
    """
    name = resolve(device)
    require_precision(name, precision)
    if name == "cpu":
        workspace = Workspace()
        return Backend(
            "cpu",
            np,
            partial(cpu.table, workspace=workspace, block_bytes=block_bytes, team=team),
            adamw.norm,
            cpu.rules(workspace, block_bytes=block_bytes),
            np.asarray,
        )
    from scratchgpt.backend import gpu  # noqa: PLC0415
    from scratchgpt.backend.gpu.cuda import Cuda  # noqa: PLC0415

    chosen = PRECISIONS[precision]
    cuda = Cuda(int(name.removeprefix("gpu:")), chosen)
    attention = partial(gpu.attention_of, cuda, chosen)
    return on_gpu(cuda, name, cuda.xp.asnumpy, chosen)._replace(attention=attention, use=cuda.use)


def on_gpu(device: "Device", name: str, to_numpy: Callable[[Array], Array], precision: Precision) -> Backend:
    """Return the backend that launches our kernels on a device."""
    from scratchgpt.backend import gpu  # noqa: PLC0415
    from scratchgpt.backend.gpu import adamw  # noqa: PLC0415

    return Backend(
        name,
        device.xp,
        partial(gpu.table, device=device),
        partial(adamw.norm, device=device),
        gpu.rules(device),
        to_numpy,
        precision,
    )
