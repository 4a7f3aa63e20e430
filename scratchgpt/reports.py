"""What a command reports to the program that has started it: lines of JSON on standard error."""

import json
import os
from typing import Any

VARIABLE, FORMAT = "SCRATCHGPT_PROGRESS", "json"
"""The environment variable by which a program asks a command for reports, and its value."""


def are_asked_for() -> bool:
    """Whether the program that has started this one asks for reports."""
    return os.environ.get(VARIABLE) == FORMAT


def progress(stage: str, done: int, total: int) -> str:
    """Return the line that reports how far a stage is."""
    return json.dumps({"stage": stage, "done": done, "total": total})


def failure(error: str, page: str) -> str:
    """Return the line that reports a failure: its sentence for a terminal, and the one for the page."""
    return json.dumps({"error": error, "page": page})


def reported(line: str) -> dict[str, Any]:
    """Return what a line of a command's standard error reports; nothing if the line is for people."""
    try:
        report = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    is_report = isinstance(report, dict) and ("page" in report or {"stage", "done", "total"} <= report.keys())
    return report if is_report else {}
