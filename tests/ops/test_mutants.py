"""The checks notice every small mistake that could be made in the mathematics. See `mutants`."""

import pytest

from tests.ops import mutants


@pytest.mark.parametrize("module", mutants.CHECKS)
def test_without_a_mistake_the_checks_pass(module: str) -> None:
    code = compile(mutants.parse(module), module, "exec")
    assert mutants.first_failure(module, code) is None


@pytest.mark.slow
@pytest.mark.parametrize("module", mutants.CHECKS)
def test_every_mutant_is_killed_or_explained(module: str) -> None:
    result = mutants.run(module)
    print(mutants.HEADER, result, sep="\n")
    assert result.total > 0
    assert not result.unexplained
    assert not result.stale


def test_every_explanation_is_of_a_module_under_test() -> None:
    assert {change.where.rpartition(".")[0] for change in mutants.EXPLAINED} <= set(mutants.CHECKS)
