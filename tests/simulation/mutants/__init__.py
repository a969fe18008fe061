"""The mutation check: broken variants of the runtime that the suite has to catch.

The rows are those of the table of bugs seen in other building blocks, in its order; `python -m tests.simulation mutants`
prints what caught each.
"""

from __future__ import annotations

from tests.simulation.mutants import electing, watching, working
from tests.simulation.mutants.mutant import Caught, Mutant, catch

MUTANTS: tuple[Mutant, ...] = (*watching.MUTANTS, *electing.MUTANTS, *working.MUTANTS)
ROWS = 12  # of the table; the cost of importing the other library is a measure and no bug: test_transport holds ours


def row(mutant: Mutant, caught: Caught | None) -> str:
    """One line of the table."""
    by = "NOT CAUGHT" if caught is None else caught.by if caught.seed is None else f"{caught.by}, seed {caught.seed}"
    return f"| {mutant.name} | {mutant.row} | {by} |"


def table() -> int:
    """Look for all and print the table; 1 when one is not caught."""
    missed = 0
    print("| variant | stands for | caught by |")
    print("|---|---|---|")
    for mutant in MUTANTS:
        caught = catch(mutant)
        missed += caught is None
        print(row(mutant, caught), flush=True)
    print(f"\n{len(MUTANTS) - missed} of {len(MUTANTS)} variants caught")
    return 1 if missed else 0
