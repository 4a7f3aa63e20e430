"""Memory and processor time of a process and its descendants, and the machine's load, read from Linux's /proc."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0
"""Ticks a second, in which /proc counts processor time."""


class Load(NamedTuple):
    """Seconds of the cores that this process may use; differences of two readings have a meaning."""

    foreign: float  # neither idle nor used by this process and its descendants
    total: float


def memory_mb(pid: int) -> float:
    """Return the memory of a process and its children, in MB; 0 where it is not known.

    Private and shared memory count as in PSS, each page once however many of them map it. Pages of files (mostly
    programs and libraries) count in full, once, though other programs may map them too.
    """
    own_kb, files_kb = 0, 0
    for process in _tree(pid):
        try:
            rollup = _fields(PROC / str(process) / "smaps_rollup")
            own_kb += rollup["Pss_Anon"] + rollup["Pss_Shmem"]
            files_kb = max(files_kb, _fields(PROC / str(process) / "status")["RssFile"])
        except (OSError, KeyError):  # it has ended, or the kernel is older or another
            continue
    return (own_kb + files_kb) * 1024 / 1e6


def load() -> Load | None:
    """Return the machine's load; None where the system does not report it."""
    try:
        lines = (PROC / "stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    # Idle and iowait are exact, while busy times are sampled at the clock's ticks.
    idle = [(int(row[4]) + int(row[5])) / TICKS for row in map(str.split, lines) if row[0] in cores]
    total = len(idle) * time.monotonic()
    return Load(total - sum(idle) - cpu_seconds(os.getpid()), total) if any(idle) else None


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its descendants, ended ones included; 0 where it is not known."""
    return sum(map(_cpu_seconds, _tree(pid)), 0.0)


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its ended children."""
    ticks = [int(ticks) for ticks in _stat(pid)[11:15]]  # its own in user and system mode, then its ended children's
    with contextlib.suppress(OSError):
        # The clock that clock_getcpuclockid(3) gives for a process counts nanoseconds; a tick is 10 ms.
        return time.clock_gettime(~pid << 3 | 2) + sum(ticks[2:]) / TICKS
    return sum(ticks) / TICKS


def _tree(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*"):
        stat = _stat(int(path.name))
        if stat:
            children.setdefault(int(stat[1]), []).append(int(path.name))
    found = [pid] if children else []
    while found:
        process = found.pop()
        found += children.get(process, [])
        yield process


def _stat(pid: int) -> list[str]:
    """Return what follows the name in a process's stat: state, parent, ...; nothing if it has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _fields(path: Path) -> dict[str, int]:
    """Return the sizes in kB of a file of lines such as "Pss:  12 kB"."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}
