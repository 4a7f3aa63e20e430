"""What a process and its children use, read from /proc; where there is none, nothing is known."""

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


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


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its children have used; 0 where it is not known."""
    ticks = sum(int(ticks) for process in _tree(pid) for ticks in _stat(process)[11:13])
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else 0.0


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
