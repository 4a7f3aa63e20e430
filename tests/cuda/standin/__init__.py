"""How tests come to the stand-in for CuPy: under the name `cupy`, for as long as they need it, or in a subprocess."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scratchgpt.backend import gpu

OURS = "scratchgpt.backend.gpu.cuda"
FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]


def environment(**settings: object) -> dict[str, str]:
    """Return this process's environment, with the stand-in in front of any CuPy, for a subprocess."""
    path = os.pathsep.join(filter(None, [str(FOLDER), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path} | {name: str(value) for name, value in settings.items()}


@contextmanager
def standing_in() -> Iterator[Any]:
    """Put a fresh stand-in into `sys.modules`, also for our module that imports it; then put back what was there."""

    def taken() -> dict[str, Any]:
        vars(gpu).pop("cuda", None)
        names = [name for name in sys.modules if name.partition(".")[0] == "cupy" or name == OURS]
        return {name: sys.modules.pop(name) for name in names}

    there = taken()
    sys.path.insert(0, str(FOLDER))
    try:
        cupy = importlib.import_module("cupy")
        yield cupy
    finally:
        sys.path.remove(str(FOLDER))
        taken()
        sys.modules |= there
        if OURS in there:
            vars(gpu)["cuda"] = there[OURS]
