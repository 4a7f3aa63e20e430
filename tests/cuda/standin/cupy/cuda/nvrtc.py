"""cupy.cuda.nvrtc: CUDA's compiler."""

from .. import _settings

__all__ = ["getVersion"]


def getVersion() -> tuple[int, int]:
    """Return the compiler's version. Raises ImportError if it is not installed."""
    if not _settings.has_toolkit():
        raise ImportError('Failure finding "libnvrtc.so.12"')
    return 12, 9
