from __future__ import annotations

import pytest
from yoban.domain.topology import Existing, topology


def primary(number: int, **more: bool) -> Existing:
    return Existing(number, **{"ready": True, "primary": True} | more)


def replica(number: int, **more: bool) -> Existing:
    return Existing(number, **{"ready": True} | more)


def test_a_new_database_gets_its_instances_and_a_founder():
    found = topology(3, [], 0, initialized=False)
    assert (found.create, found.founder, found.last_number) == ((1, 2, 3), 1, 3)


def test_nothing_to_do_is_nothing():
    found = topology(2, [primary(1), replica(2)], 2, initialized=True)
    assert (found.create, found.remove, found.keep, found.founder) == ((), (), (1, 2), 0)


def test_a_number_is_never_used_again():
    assert topology(2, [primary(1)], 7, initialized=True).create == (8,)
    assert topology(2, [replica(9), primary(1, lost=False)], 7, initialized=True).last_number == 9


def test_scaling_down_takes_unready_ones_first_then_the_highest_and_never_the_primary():
    three = [replica(1), replica(2, ready=False), primary(3)]
    assert topology(2, three, 3, initialized=True).remove == (2,)
    assert topology(1, three, 3, initialized=True).remove == (2, 1)
    assert topology(1, [primary(1), replica(2), replica(3)], 3, initialized=True).remove == (3, 2)


def test_a_lost_volume_is_replaced_under_a_new_number():
    found = topology(3, [primary(1), replica(2, lost=True), replica(3)], 3, initialized=True)
    assert (found.remove, found.create, found.keep, found.last_number) == ((2,), (4,), (1, 3), 4)
    assert "new number" in found.why[0]


def test_a_broken_replica_is_replaced_while_there_is_a_primary():
    found = topology(2, [primary(1), replica(2, broken=True)], 2, initialized=True)
    assert (found.remove, found.create) == ((2,), (3,))
    waits = topology(2, [replica(1), replica(2, broken=True)], 2, initialized=True)
    assert (waits.remove, waits.create) == ((), ())
    assert "primary to copy from" in waits.why[0]


def test_a_primary_that_lost_its_volume_is_not_removed():
    found = topology(2, [primary(1, lost=True), replica(2)], 2, initialized=True)
    assert (found.remove, found.create) == ((), ())
    assert "another must be made primary" in found.why[0]


def test_a_lost_volume_without_any_primary_is_replaced():
    assert topology(2, [replica(1), replica(2, lost=True)], 2, initialized=True).remove == (2,)


@pytest.mark.parametrize("existing", [[], [primary(1, lost=True)], [primary(1, lost=True), replica(2, lost=True)]])
def test_when_every_volume_is_gone_nothing_is_made(existing):
    found = topology(3, existing, 2, initialized=True)
    assert found.data_lost
    assert (found.create, found.remove, found.founder) == ((), (), 0)


def test_before_there_is_data_a_lost_volume_loses_nothing():
    found = topology(1, [Existing(1, lost=True)], 1, initialized=False)
    assert (found.create, found.remove, found.founder, found.data_lost) == ((), (), 1, False)


def test_the_founder_is_who_holds_the_lease_else_the_lowest():
    assert topology(2, [Existing(1), Existing(2)], 2, initialized=False).founder == 1
    assert topology(2, [Existing(1), Existing(2, primary=True)], 2, initialized=False).founder == 2


def test_a_smaller_wish_before_there_is_data_spares_the_holder():
    found = topology(1, [Existing(1), Existing(2), Existing(3, primary=True)], 3, initialized=False)
    assert (found.keep, found.remove, found.founder) == ((3,), (2, 1), 3)
    found = topology(2, [Existing(1), Existing(2), Existing(3, primary=True)], 3, initialized=False)
    assert (found.keep, found.remove) == ((1, 3), (2,))
    assert topology(1, [Existing(1), Existing(2)], 2, initialized=False).remove == (2,)
