"""With SCRATCHGPT_CUDA=real in the environment, tests of kernels run on a GPU instead of the emulator, unchanged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cuda import device
from tests.cuda.checks import IS_REAL
from tests.cuda.real import Real
from tests.cuda.standin import standing_in

HERE = Path(__file__).parent

if IS_REAL:  # before any test imports it
    device.Emulated = Real  # type: ignore[misc]


@pytest.fixture(scope="module")
def cupy() -> Iterator[Any]:
    """The stand-in."""
    with standing_in() as module:
        yield module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a GPU, skip what is about the emulator, the compiler or the stand-in."""
    skip = pytest.mark.skip(reason="it launches no kernel through a device: it needs no GPU")
    for item in items if IS_REAL else ():
        module = getattr(item, "module", None)
        if HERE in item.path.parents and not hasattr(module, "Emulated") and not item.get_closest_marker("gpu"):
            item.add_marker(skip)
