"""cupy.cuda.device."""

from typing import Self

from .. import _settings
from . import runtime

__all__ = ["Device", "get_cublas_handle", "get_device_id"]


class Device:
    """A GPU. The current one is a matter of each thread."""

    def __init__(self, device: "int | Device | None" = None) -> None:
        """Name a device, or the current one. Whether it is there shows when it is used."""
        self.id = runtime.getDevice() if device is None else int(device)
        self._left: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None  # type: ignore[assignment] # as CuPy's: it defines comparisons alone

    def __enter__(self) -> Self:
        self._left.append(runtime.getDevice())
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        _settings.here.device = self._left.pop()

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def use(self) -> None:
        """Make this the current device."""
        _settings.here.device = runtime.checked_device(self.id)

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        runtime.checked_device(self.id)
        _settings.counters.synchronisations += 1

    @property
    def compute_capability(self) -> str:
        """Two digits."""
        runtime.checked_device(self.id)
        return _settings.capability()

    @property
    def mem_info(self) -> tuple[int, int]:
        """Bytes that are free, and all."""
        with self:
            return runtime.memGetInfo()

    @property
    def cublas_handle(self) -> int:
        """What cuBLAS is called with."""
        return HANDLES + runtime.checked_device(self.id)


HANDLES = 0xB1A5000


def get_cublas_handle() -> int:
    """Return the current device's handle."""
    return Device().cublas_handle


def get_device_id() -> int:
    """Return the current device's number."""
    return runtime.getDevice()
