"""scripts/gpu_check, with the stand-in in place of a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scratchgpt.backend.precision import PRECISIONS
from tests.cuda.checks import needs_emulator

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check"
EMULATED = "Emulated: no timing means anything."


def gpu_check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(
        command, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, capture_output=True, encoding="utf-8", check=False
    )


@needs_emulator
@pytest.mark.slow
def test_a_report(tmp_path: Path) -> None:
    page = tmp_path / "report.md"
    done = gpu_check(page, "--emulated")
    assert done.returncode == 0, done.stdout + page.read_text("utf-8")
    report = page.read_text("utf-8")
    parts = report.split("\n## ")
    assert EMULATED in parts[0]
    assert "FAILED" not in report
    assert [part.splitlines()[0] for part in parts[1:]] == [
        *("Machine", "Tests", "Sanitizer", "Kernels", "Attention", "Steps"),
    ]
    tables = [block for block in report.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 7
    assert report.count(EMULATED) >= len(tables)  # the first is marked at the top of the page
    for precision in PRECISIONS:
        assert f"### tiny, {precision}" in report
    assert "`layernorm_forward<float, 4>`" in report


@needs_emulator
@pytest.mark.slow
def test_parts_that_fail_are_told_and_stop_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_MEMORY", "4096")
    page = tmp_path / "report.md"
    done = gpu_check(page, "--emulated")
    assert done.returncode == 1
    report = page.read_text("utf-8")
    assert "| machine | done |" in report
    assert "| kernels | FAILED |" in report
    assert "Out of memory" in report


SANITIZER = """#!/bin/sh
tool=$2
while case $1 in --*) ;; *) false ;; esac; do shift 2; done
"$@"
[ $tool = memcheck ] || { echo a hazard; exit 9; }
"""
"""Runs what it is given, and finds something unless asked for memcheck."""


@needs_emulator
@pytest.mark.slow
def test_the_sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compute-sanitizer").write_text(SANITIZER, encoding="utf-8")
    (tmp_path / "compute-sanitizer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    done = gpu_check("--emulated", "--part", "sanitizer")
    assert done.returncode == 1
    assert "| memcheck | nothing found |" in done.stdout
    assert "3 passed" in done.stdout
    assert done.stdout.count("a hazard") == 3
    assert "**Failed:** racecheck, initcheck, synccheck found something." in done.stdout


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path) -> None:
    done = gpu_check(tmp_path / "report.md")
    if done.returncode == 0:
        pytest.skip("there is a GPU")
    assert "--emulated" in done.stderr
    assert not (tmp_path / "report.md").exists()
