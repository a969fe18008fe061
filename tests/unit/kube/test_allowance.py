"""Allowances: rates for each key, in bounded memory."""

from __future__ import annotations

import pytest
from yoban.kube.allowance import Allowance


def test_some_at_once_and_then_one_in_a_while() -> None:
    allowance: Allowance[str] = Allowance(3, 10.0)
    for _ in range(3):
        assert allowance.wait("a", 100.0) == 0
        allowance.take("a", 100.0)
    assert allowance.wait("a", 100.0) == 10
    assert allowance.wait("a", 104.0) == 6
    assert allowance.wait("a", 110.0) == 0
    allowance.take("a", 110.0)
    assert allowance.wait("a", 110.0) == 10
    assert allowance.wait("a", 129.0) == 0


def test_what_is_owed_is_waited_for() -> None:
    allowance: Allowance[str] = Allowance(1, 10.0)
    allowance.take("a", 0.0)
    allowance.take("a", 0.0)
    assert allowance.wait("a", 0.0) == 20


def test_keys_do_not_share() -> None:
    allowance: Allowance[str] = Allowance(1, 10.0)
    allowance.take("a", 0.0)
    assert allowance.wait("b", 0.0) == 0


def test_unused_time_saves_no_more_than_the_burst() -> None:
    allowance: Allowance[str] = Allowance(2, 10.0)
    allowance.take("a", 0.0)
    for _ in range(2):
        assert allowance.wait("a", 1000.0) == 0
        allowance.take("a", 1000.0)
    assert allowance.wait("a", 1000.0) == 10


@pytest.mark.parametrize("capacity", [1, 5])
def test_memory_is_bounded(capacity: int) -> None:
    allowance: Allowance[int] = Allowance(1, 10.0, capacity=capacity)
    for key in range(100):
        allowance.take(key, 0.0)
    assert len(allowance) == capacity
    assert allowance.wait(99, 0.0) == 10
    assert allowance.wait(0, 0.0) == 0, "that of longest ago starts anew"


def test_what_is_whole_again_is_forgotten() -> None:
    allowance: Allowance[int] = Allowance(1, 10.0)
    for key in range(100):
        allowance.take(key, 0.0)
    allowance.take(0, 50.0)
    assert len(allowance) == 1
