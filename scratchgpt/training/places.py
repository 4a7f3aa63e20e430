"""Where the working folder has its prepared data and its runs: data/ and runs/."""

import os
from pathlib import Path

from scratchgpt.errors import UsageError


def newest_run(runs: Path) -> Path:
    """Return the run whose last checkpoint is the most recent. Raises UsageError if there is none."""
    pointers = [*runs.glob("*/checkpoints/last")]
    if not pointers:
        raise UsageError(
            f"There is no trained model in {runs}{os.sep}.",
            advice="Run `scratchgpt train` first, or name one.",
            page="Train one first.",
        )
    return max(pointers, key=lambda pointer: pointer.stat().st_mtime_ns).parent.parent
