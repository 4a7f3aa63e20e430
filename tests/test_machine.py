"""What is known of the machine, inside a container's limits and without them."""

import math
import os
import sys
from pathlib import Path

import pytest

from scratchgpt import machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the system's: no limits are known."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    return tmp_path


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells")
def test_memory_is_what_the_system_and_the_container_leave(cgroup: Path) -> None:
    of_system = machine.available_memory()
    assert 1e6 < of_system < math.inf
    for limit, expected in (("max", 1e6), ("5000000", 2e6)):
        (cgroup / "memory.max").write_text(limit + "\n", encoding="utf-8")
        (cgroup / "memory.current").write_text("3000000\n", encoding="utf-8")
        assert machine.available_memory() >= expected
    assert machine.available_memory() == 2e6


def test_cores_are_those_that_the_container_leaves(cgroup: Path) -> None:
    of_system = machine.usable_cores()
    assert 1 <= of_system <= (os.cpu_count() or 1)
    for quota, expected in (("max 100000", of_system), ("50000 100000", 1), ("100000000 100000", of_system)):
        (cgroup / "cpu.max").write_text(quota + "\n", encoding="utf-8")
        assert machine.usable_cores() == expected


def test_a_processor_has_a_name() -> None:
    assert machine.processor_name().strip()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
def test_resident_memory_follows_what_is_used() -> None:
    before = machine.resident_memory()
    ballast = bytearray(b"x" * 50_000_000)
    after = machine.resident_memory()
    assert before is not None
    assert after is not None
    assert 40e6 < after - before < 120e6
    assert len(ballast) == 50_000_000


def test_resident_memory_where_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> int:
        raise FileNotFoundError

    monkeypatch.setattr(machine, "_statm", missing)
    assert machine.resident_memory() is None


@pytest.mark.parametrize(
    ("cache", "home", "expected"),
    [
        ("/x", "/home/a", "/x/scratchgpt"),
        ("", "/home/a", "/home/a/.cache/scratchgpt"),
        (None, "/home/a", "/home/a/.cache/scratchgpt"),
        ("rel", "/home/a", "/home/a/.cache/scratchgpt"),
        ("./rel", "/home/a", "/home/a/.cache/scratchgpt"),
        ("~/rel", "/home/a", "/home/a/.cache/scratchgpt"),
        ("rel", "home", None),
        ("/x", "", "/x/scratchgpt"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other places")
def test_a_relative_cache_folder_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, cache: str | None, home: str, expected: str | None
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    if cache is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", home)
    assert machine.cache_folder() == (expected and Path(expected))
