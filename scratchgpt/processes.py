"""Starts processes of our own program that work for this one."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

__all__ = ["TimeoutExpired", "start"]


def start(module: str, arguments: Sequence[str | Path] = (), **options: Any) -> "subprocess.Popen[Any]":
    """Start `python -m module`. Standard input and output are pipes; `options` are those of Popen. Raises OSError.

    Its working folder is the one that this package is in, so it is found whether it is installed or not.
    """
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # Ctrl-C is for the process that started it
        cwd=Path(__file__).parent.parent,
        **options,
    )
