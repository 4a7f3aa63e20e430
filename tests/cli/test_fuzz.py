"""Three hundred cases that no one wrote by hand: each ends in order. `scripts/fuzz_cli` runs others."""

from pathlib import Path
from typing import Any

import pytest

fuzz: Any = pytest.importorskip("tests.cli.fuzz", reason="needs fork, signals and terminals")

SEED = 1
AT_ONCE, N_GROUPS = 20, 15


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    fuzz.make_world(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("group", range(N_GROUPS))
def test_every_call_ends_in_order(group: int, world: Path, tmp_path: Path) -> None:
    """Run AT_ONCE cases; a failure shows the number that `scripts/fuzz_cli --case` takes."""
    found = []
    for number in range(group * AT_ONCE, (group + 1) * AT_ONCE):
        folder = tmp_path / str(number)
        folder.mkdir()
        case, _, complaints = fuzz.try_case(SEED, number, world, folder)
        found += [(number, case.arguments, complaint) for complaint in complaints]
    assert not found
