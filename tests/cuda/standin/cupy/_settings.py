"""What tests decide about the stand-in by environment variables, and what they can count. Nothing here is CuPy's."""

import atexit
import json
import os
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path


def number(name: str, default: int) -> int:
    """Return an environment variable's value, a whole number."""
    return int(os.environ.get(name, default))


def has_driver() -> bool:
    """STANDIN_DRIVER=0: there is CuPy, but no driver."""
    return bool(number("STANDIN_DRIVER", 1))


def driver_major() -> int:
    """STANDIN_DRIVER=11: the CUDA that the driver is made for; 12 unless told."""
    setting = number("STANDIN_DRIVER", 1)
    return 12 if setting == 1 else setting


def has_toolkit() -> bool:
    """STANDIN_TOOLKIT=0: CUDA's compiler and cuBLAS are not installed."""
    return bool(number("STANDIN_TOOLKIT", 1))


def require_headers() -> None:
    """STANDIN_HEADERS=0: CUDA's headers are not installed, and nothing compiles."""
    if not number("STANDIN_HEADERS", 1):
        raise RuntimeError(
            "Failed to find CUDA headers. Please install CUDA toolkit headers (e.g., pip install cupy-cuda12x[ctk]) or "
            "specify CUDA_PATH environment variable."
        )


def n_devices() -> int:
    """STANDIN_DEVICES: how many GPUs there are, one unless told."""
    return number("STANDIN_DEVICES", 1)


def device_bytes() -> int:
    """STANDIN_MEMORY: the memory of each GPU, in bytes, 8 GiB unless told."""
    return number("STANDIN_MEMORY", 8 * 2**30)


def capability() -> str:
    """STANDIN_CAPABILITY: what each GPU can do, "90" unless told."""
    return str(number("STANDIN_CAPABILITY", 90))


def checked() -> bool:
    """STANDIN_CHECKED=1: the emulator checks every access of every kernel, which is slow."""
    return bool(number("STANDIN_CHECKED", 0))


def seed() -> int:
    """STANDIN_SEED: draws the order of a kernel's threads."""
    return number("STANDIN_SEED", 0)


@dataclass
class Counters:
    """What was done since the last `reset`."""

    launches: int = 0  # of our kernels
    products: int = 0  # by cuBLAS
    synchronisations: int = 0  # how often the host waited for the device
    bytes_to_device: int = 0
    bytes_to_host: int = 0
    peak_bytes: int = 0  # in use at once, on all devices together

    def reset(self) -> None:
        """Start again."""
        for field in fields(self):
            setattr(self, field.name, 0)


counters = Counters()


def report() -> None:
    """STANDIN_REPORT: the file that the counters are written to when the process ends."""
    if path := os.environ.get("STANDIN_REPORT"):
        Path(path).write_text(json.dumps(asdict(counters)), encoding="utf-8")


atexit.register(report)
here = threading.local()
"""A thread's current device and stream, as CUDA has them."""
