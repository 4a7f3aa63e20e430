"""Files that a command writes: nothing is replaced unless told, and never by half of something."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from scratchgpt.errors import DataError, UsageError

PICTURES = (".png", ".svg", ".pdf")


def require_free(out: Path, *, force: bool) -> None:
    """Raise DataError if there is a file that would be lost."""
    if out.exists() and not force:
        raise DataError(f"{out} is there already; use --force to replace it, or name another file with -o.")


def require_picture(out: Path, *, force: bool) -> None:
    """The same for a picture. Raises UsageError too, if its name does not say of what kind it is."""
    if out.suffix.lower() not in PICTURES:
        raise UsageError(f"The picture's name must end in {', '.join(PICTURES)}, not {out.name!r}.")
    require_free(out, force=force)


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Yield where to write what then takes the place of `out`: whatever happens, one of them is there, whole."""
    temporary = out.with_name(f".{out.name}.new")
    try:
        yield temporary
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
