"""cupy.cuda.compiler."""

__all__ = ["CompileException"]


class CompileException(Exception):
    """A source that does not compile."""

    def __init__(self, msg: str, source: str, name: str, options: tuple[str, ...], backend: str = "nvrtc") -> None:
        """Keep what was compiled, and how."""
        super().__init__(msg)
        self.source, self.name, self.options, self.backend = source, name, options, backend
