"""cupy.cuda.driver: the errors of launches."""

__all__ = ["CUDADriverError"]

NAMES = {1: "CUDA_ERROR_INVALID_VALUE: invalid argument", 500: "CUDA_ERROR_NOT_FOUND: named symbol not found"}


class CUDADriverError(RuntimeError):
    """A launch that CUDA refuses."""

    def __init__(self, status: int) -> None:
        """Take the message from the status."""
        super().__init__(NAMES[status])
        self.status = status
