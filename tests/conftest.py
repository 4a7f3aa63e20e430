"""How thoroughly Hypothesis searches, and a cache folder of the tests' own.

Hypothesis searches briefly and reproducibly, unless asked for more: `pytest --hypothesis-profile=explore` draws many
new examples at each run.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

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
