"""The real program killed in earnest: scripts/kill_test, the short version."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "kill_test"


@pytest.mark.slow
def test_kills_lose_nothing() -> None:
    result = subprocess.run(
        [sys.executable, SCRIPT, "--kills", "6"], capture_output=True, encoding="utf-8", check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("6 kills, ")
