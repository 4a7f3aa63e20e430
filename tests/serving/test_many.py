"""A short run of `scripts/serve_test`: nothing lost, wrong or kept among mixed requests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "serve_test"


@pytest.mark.slow
def test_many_clients_of_all_kinds() -> None:
    command = [sys.executable, str(SCRIPT), "--requests", "400", "--rounds", "1", "--tokens", "200"]
    result = subprocess.run(
        command, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, capture_output=True, encoding="utf-8", check=False
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
