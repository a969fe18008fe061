"""The suite catches what it is there for: each broken variant of the runtime, and not the code as it is."""

from __future__ import annotations

import re

import pytest

from tests.simulation.mutants import MUTANTS, ROWS, row
from tests.simulation.mutants.mutant import Mutant, catch


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_each_variant_is_caught_and_the_code_as_it_is_is_not(mutant: Mutant) -> None:
    caught = catch(mutant)
    print(row(mutant, caught))
    assert caught is not None, f"nothing notices that {mutant.name}"


def test_there_is_a_variant_for_each_row_of_the_table() -> None:
    rows = {int(found[1]) for mutant in MUTANTS if (found := re.match(r"(\d+):", mutant.row))}
    assert rows == set(range(1, ROWS + 1))


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
