"""The tests of the backends notice every loop that ends too early. See `mutants`."""

import pytest

from tests.backend import mutants
from tests.cuda.checks import needs_emulator


@needs_emulator
@pytest.mark.parametrize("module", mutants.TESTS)
def test_every_mutant_is_killed_or_explained(module: str) -> None:
    assert mutants.first_failure(module, mutants.unchanged(module)) is None
    result = mutants.run(module)
    print(mutants.HEADER, result, sep="\n")
    assert result.total > 0
    assert not result.unexplained
    assert not result.stale


def test_every_explanation_is_of_a_module_under_test() -> None:
    assert {change.where.rpartition(".")[0] for change in mutants.EXPLAINED} <= set(mutants.TESTS)
