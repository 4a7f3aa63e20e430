"""What can be known about the machine at hand, and returning memory to it."""

import contextlib
import ctypes
import functools
import math
import os
import platform
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def available_memory() -> float:
    """Return how many bytes of memory this program can still have; infinity where that is not known."""
    available = math.inf
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        available = 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" is none
        limit, used = (int((CGROUP / f"memory.{name}").read_text(encoding="utf-8")) for name in ("max", "current"))
        available = min(available, limit - used)
    return available


def amount(n_bytes: float) -> str:
    """Return an amount of memory in the unit that suits it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.{0 if n_bytes >= 100 * size or unit == 'MB' else 1}f} {unit}"
    return f"{n_bytes / 1e3:,.0f} kB"


def return_freed_memory() -> None:
    """Give memory that is free back to the system where glibc would keep it: its heap, full of holes, grows on."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def resident_memory() -> int | None:
    """Return how many bytes of this process are in RAM; None where that is not known."""
    try:
        file = _statm()
        os.lseek(file, 0, os.SEEK_SET)
        return int(os.read(file, 64).split()[1]) * PAGE
    except OSError:
        return None


@functools.cache
def _statm() -> int:
    """Open Linux's account of this process for good: asked for once a step, opening it would take the most time."""
    return os.open("/proc/self/statm", os.O_RDONLY)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # a container's share; "max" is all
        quota, period = (int(word) for word in (CGROUP / "cpu.max").read_text(encoding="utf-8").split())
        cores = min(cores, math.ceil(quota / period))
    return max(cores, 1)


def cache_folder() -> Path | None:
    """Return where this user's programs keep what they can find out again; None for a user without a home.

    The folder need not exist. A relative path in the environment is passed over, as the XDG specification asks.
    """
    variable = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    root = Path(os.environ.get(variable, ""))
    if not root.is_absolute():
        try:
            home = Path.home()
        except RuntimeError:
            return None
        root = home / {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    return root / "scratchgpt" if root.is_absolute() else None
