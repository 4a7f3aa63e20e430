"""How thoroughly Hypothesis searches, a cache folder of the tests' own, and a table of what kernels were found to err.

Hypothesis searches briefly and reproducibly, unless asked for more: `pytest --hypothesis-profile=explore` draws many
new examples at each run.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.cuda.checks import DTYPES, errors

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what programs under test find out away from what they found out for the user."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setitem(os.environ, variable, str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a process that runs a part of the tests hand over the errors it has measured."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["errors"] = [[*key, list(map(float, found))] for key, found in errors.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take them over."""
    for file, dtype, found in getattr(node, "workeroutput", {}).get("errors", []):
        errors.setdefault((file, dtype), []).extend(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how far the kernels are from the float64 reference: the largest error, and of how many arrays."""
    if not errors:
        return
    terminalreporter.section("largest error of each kernel's arrays, in parts of their largest number")
    for file in sorted({file for file, _ in errors}):
        found = [(dtype, errors.get((file, dtype), [])) for dtype in DTYPES]
        cells = "   ".join(f"{dtype} {max(those):7.1e} of {len(those):3}" for dtype, those in found if those)
        terminalreporter.write_line(f"{file:14} {cells}")
