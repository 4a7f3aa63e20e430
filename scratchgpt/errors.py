"""What can go wrong, told in one sentence that says what failed, where, and what to do."""

import difflib
from collections.abc import Iterable

LONGEST_COMPARED = 100
"""Characters of a name that may be a misspelt one."""


class ScratchGPTError(Exception):
    """Something failed; the message is a sentence for the person at the keyboard."""

    exit_code = 1

    def __init__(self, fact: str = "", *, advice: str = "", page: str | None = None) -> None:
        """Say what failed, and what to do: `advice` names options, `page` the fields and buttons of `scratchgpt web`.

        Without `page`, the advice is for both.
        """
        super().__init__(f"{fact} {advice}".strip())
        self.fact = fact
        self.page = f"{fact} {advice if page is None else page}".strip()


class MemoryShortageError(MemoryError):
    """There is less memory than a run takes."""

    def __init__(self, fact: str = "", *, advice: str = "", page: str = "") -> None:
        """Say what ScratchGPTError says."""
        super().__init__(f"{fact} {advice}".strip())
        self.fact = fact
        self.page = f"{fact} {page}".strip()


class UsageError(ScratchGPTError):
    """What was asked for cannot be meant: an unknown name, a size that does not fit, a forbidden combination."""

    exit_code = 2


class NoGPUError(UsageError):
    """There is no GPU, or the package that uses it is missing."""


class DataError(ScratchGPTError):
    """A text, a prepared data folder or a vocabulary is unusable."""


class CheckpointError(ScratchGPTError):
    """A checkpoint cannot be written, read or trusted."""


class TrainingError(ScratchGPTError):
    """The run cannot go on."""


class LaneError(TrainingError):
    """A lane has ended in the middle of a run."""


class BenchmarkError(ScratchGPTError):
    """A contender of a benchmark failed, or computes something else."""


def reason(error: Exception) -> str:
    """Return what an error says; for one of the system, what failed and which file, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def fact_of(error: Exception) -> str:
    """Return what has failed, without the advice, which is another one in a terminal than on the page."""
    return str(getattr(error, "fact", "")) or reason(error)


def for_page(error: Exception) -> str:
    """Return what an error says to a person at the page, which has fields and buttons in the place of options."""
    return str(getattr(error, "page", "")) or reason(error)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return `` (did you mean 'x'?)`` for the known name nearest to `name`, or nothing if none is near.

    `cutoff` is how much of both must be the same, from 0 to 1. Of those names, one that begins with `name` is the
    nearest. A name longer than LONGEST_COMPARED gets no suggestion, because comparing it is slow.
    """
    near = difflib.get_close_matches(name, list(known), cutoff=cutoff) if len(name) <= LONGEST_COMPARED else []
    near.sort(key=lambda each: not each.startswith(name))
    return f" (did you mean {near[0]!r}?)" if near else ""
