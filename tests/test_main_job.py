"""The main job on real text: Shakespeare fetched, prepared, learnt for a while, and written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import scratchgpt

ROOT = Path(__file__).parent.parent
STEPS = 600


@pytest.mark.slow
def test_it_learns_shakespeare(tmp_path: Path) -> None:
    get = subprocess.run(
        [sys.executable, ROOT / "scripts" / "get_shakes"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if get.returncode:
        pytest.skip(f"no text to be had: {get.stderr}")
    text = (tmp_path / "data" / "shakes.txt").read_text(encoding="utf-8")
    assert "First Citizen:\nBefore we proceed any further, hear me speak.\n" in text

    for command in (
        ("prepare", "data/shakes.txt", "--char"),
        ("train", "--steps", str(STEPS), "--eval-every", "200"),
        ("generate", "--tokens", "300"),
    ):
        result = scratchgpt(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr

    log = (tmp_path / "runs" / "shakes-shakespeare-cpu-1" / "log.jsonl").read_text(encoding="utf-8")
    rows = [row for line in log.splitlines() if "event" not in (row := json.loads(line))]
    losses = [row["val_loss"] for row in rows if "val_loss" in row and not row["val_whole"]]
    print(f"validation losses: {losses}; the whole validation part: {rows[-1]}")
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert rows[-1]["val_whole"]
    assert rows[-1]["val_targets"] >= 100_000
    assert 1.6 <= rows[-1]["val_loss"] <= 2.2  # a model this small that does better has seen the answers
    assert len(set(result.stdout) & set("etaoinshrdlu")) == 12
