"""Figures and verdicts of the bench."""

from __future__ import annotations

import pytest

from tests.bench.figures import paired, series, short
from tests.bench.verdict import GOALS, Goal, rows, table


def test_medians_spread_and_percentiles() -> None:
    found = series("ms", [5.0, 1.0, 3.0])
    assert found.median == 3.0
    assert str(found) == "3.00 ms (1.00-5.00)"
    many = series("ms", [float(n) for n in range(1, 101)])
    assert [many.percentile(share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert series("ms", [7.0]).percentile(0.99) == 7.0


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="nothing"):
        series("ms", [])


def test_rounds_are_compared_with_each_other() -> None:
    """A slow minute that hits both contestants of a round must not change their ratio."""
    ratio = paired(series("MB/s", [300.0, 30.0, 330.0]), series("MB/s", [200.0, 20.0, 200.0]))
    assert ratio.values == pytest.approx((1.5, 1.5, 1.65))
    with pytest.raises(ValueError):
        paired(series("s", [1.0]), series("s", [1.0, 2.0]))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (92.54, "92.5"), (1234.5, "1234")]
)
def test_three_digits(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("at_least", "value", "verdict"),
    [
        (True, 1.5, "met"),
        (True, 2.0, "met"),
        (True, 1.0, "SHORT by 50%"),
        (False, 1.5, "met"),
        (False, 1.8, "SHORT by 20%"),
    ],
)
def test_a_goal_that_is_not_reached_is_told(at_least: bool, value: float, verdict: str) -> None:
    goal = Goal("a", "A", 1.5, "x", at_least=at_least)
    (row,) = rows({"a": series("x", [value])}, [goal])
    assert row.verdict == verdict


def test_the_table_has_every_goal_also_those_not_run() -> None:
    lines = table(rows({"hit.p99": series("ms", [4.0])})).splitlines()
    assert len(lines) == 2 + len(GOALS)
    assert len({len(line) for line in lines}) == 1
    assert sum("| not run" in line for line in lines) == len(GOALS) - 1
    assert "| 4.00 ms (4.00-4.00) | met" in next(line for line in lines if "p99" in line and "archive" in line)
