"""With SCRATCHGPT_CUDA=real in the environment, tests of kernels run on a GPU instead of the emulator, unchanged."""

from pathlib import Path

import pytest

from tests.cuda import device
from tests.cuda.checks import DTYPES, IS_REAL, errors
from tests.cuda.real import Real

HERE = Path(__file__).parent

if IS_REAL:  # before any test imports it
    device.Emulated = Real  # type: ignore[misc]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how far the kernels are from the float64 reference: the largest error, and of how many arrays."""
    if not errors:
        return
    terminalreporter.section("largest error of each kernel's arrays, in parts of their largest number")
    for file in sorted({file for file, _ in errors}):
        found = [(dtype, errors.get((file, dtype), [])) for dtype in DTYPES]
        cells = "   ".join(f"{dtype} {max(those):7.1e} of {len(those):3}" for dtype, those in found if those)
        terminalreporter.write_line(f"{file:14} {cells}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a GPU, skip what is about the emulator, the compiler or the stand-in."""
    skip = pytest.mark.skip(reason="it launches no kernel through a device: it needs no GPU")
    for item in items if IS_REAL else ():
        module = getattr(item, "module", None)
        if HERE in item.path.parents and not hasattr(module, "Emulated") and not item.get_closest_marker("gpu"):
            item.add_marker(skip)
