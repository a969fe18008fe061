"""The invariants in real processes on a real API server; more and longer runs by `python -m tests.simulation.real`."""

from __future__ import annotations

import pytest

from tests.simulation.real.world import INSTANT, run, two_leaders


def test_two_leaders_of_one_term_are_found() -> None:
    acts = [(1.0, "a", 1, "x"), (2.0, "b", 1, "y")]
    assert "both act in term 1" in two_leaders(acts, [])
    assert not two_leaders([(1.0, "a", 1, "x"), (2.0, "b", 2, "y")], [])


def test_a_leader_that_acts_after_the_next_one_is_found() -> None:
    acts = [(1.0, "a", 1, "x"), (2.0, "b", 2, "y"), (3.0, "a", 1, "z")]
    assert "after somebody acted in term 2" in two_leaders(acts, [])
    assert two_leaders(acts, [("a", 3.0 - 2 * INSTANT), ("b", 2.9)]), "only its own standstill, and only just before"
    assert not two_leaders(acts, [("a", 3.0 - INSTANT / 2)])


@pytest.mark.server
@pytest.mark.timeout(400)
async def test_real_replicas_keep_the_invariants_under_faults() -> None:
    summary = await run(7, seconds=20.0)
    assert summary.acts > 0
    assert summary.strikes > 0
