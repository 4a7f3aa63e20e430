"""CUDA kernels on the CPU: unmodified `.cu` files, one fiber a thread, every access checked. See docs/emulator.md."""

from tests.cuda.emulator.build import missing
from tests.cuda.emulator.driver import Emulator, EmulatorError, Finding, Kernel, Output

__all__ = ["Emulator", "EmulatorError", "Finding", "Kernel", "Output", "missing"]
