"""cupy.cuda.runtime: which devices there are."""

from typing import Any

from .. import _settings

__all__ = [
    "CUDA_R_16F",
    "CUDA_R_32F",
    "CUDA_R_64F",
    "CUDARuntimeError",
    "driverGetVersion",
    "getDevice",
    "getDeviceCount",
    "getDeviceProperties",
    "memGetInfo",
    "runtimeGetVersion",
]

CUDA_R_32F, CUDA_R_64F, CUDA_R_16F = 0, 1, 2

NAMES = {
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
}


class CUDARuntimeError(RuntimeError):
    """What CUDA answers when something is not there."""

    def __init__(self, status: int) -> None:
        """Take the message from the status."""
        super().__init__(NAMES[status])
        self.status = status


def getDeviceCount() -> int:
    """Return the number of devices. Raises CUDARuntimeError if there is no driver, or no device."""
    if not _settings.has_driver():
        raise CUDARuntimeError(35)
    if not _settings.n_devices():
        raise CUDARuntimeError(100)
    return _settings.n_devices()


def checked_device(number: int) -> int:
    """Return the number of a device. Raises CUDARuntimeError if there is none of that number."""
    if not 0 <= number < getDeviceCount():
        raise CUDARuntimeError(101)
    return number


def getDevice() -> int:
    """Return the current device of this thread."""
    return checked_device(getattr(_settings.here, "device", 0))


def getDeviceProperties(device: int) -> dict[str, Any]:
    """Return a few of what CUDA knows of a device."""
    checked_device(device)
    major, minor = divmod(int(_settings.capability()), 10)
    return {
        "name": b"Stand-in for a GPU",
        "totalGlobalMem": _settings.device_bytes(),
        "multiProcessorCount": 1,
        "major": major,
        "minor": minor,
        "sharedMemPerBlockOptin": 227 * 1024,
    }


def memGetInfo() -> tuple[int, int]:
    """Return the bytes of the current device: those that are free, and all."""
    from .memory import pool  # noqa: PLC0415 (memory needs this module)

    total = _settings.device_bytes()
    return total - pool.total_bytes(), total


def runtimeGetVersion() -> int:
    """Return the version of CUDA that CuPy was built with."""
    return 12090


def driverGetVersion() -> int:
    """Return the version of CUDA that the driver is made for; 0 if there is no driver."""
    return 1000 * _settings.driver_major() + 90 if _settings.has_driver() else 0


def is_available() -> bool:
    """Return whether there is a device."""
    return _settings.has_driver() and _settings.n_devices() > 0
