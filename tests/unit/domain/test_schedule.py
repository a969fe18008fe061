from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from yoban.domain.schedule import SPREAD, Attempts, Cadence, Ended, check, due, next_slot, previous_slot, spread
from yoban.errors import InvalidInput

NIGHTLY = Cadence("0 2 * * *")
DAILY = Cadence(maximum_age=timedelta(hours=24))
HOUR = timedelta(hours=1)


def day(number: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2026, 3, number, hour, minute, tzinfo=UTC)


KNOWN = Attempts(since=day(1), newest_begin=day(5, 2))


def test_the_first_backup_is_due_at_once_for_the_moment_the_policy_began():
    answer = due(NIGHTLY, Attempts(since=day(5, 1)), day(5, 1))
    assert (answer.now, answer.slot, answer.overdue) == (True, day(5, 1), day(5, 1))
    assert due(NIGHTLY, Attempts(since=day(5, 1)), day(9)).slot == answer.slot


def test_a_schedule_that_is_satisfied_tells_when_to_look_again():
    answer = due(NIGHTLY, KNOWN, day(5, 12))
    assert (answer.now, answer.overdue, answer.look_again) == (False, None, day(6, 2))


def test_the_slot_itself_is_due():
    assert due(NIGHTLY, KNOWN, day(6, 2)).now
    assert not due(NIGHTLY, KNOWN, day(6, 1, 59)).now


def test_missed_nights_are_made_up_for_once():
    answer = due(NIGHTLY, KNOWN, day(9, 14))
    assert (answer.now, answer.slot, answer.attempt) == (True, day(9, 2), 1)
    assert not due(NIGHTLY, replace(KNOWN, newest_begin=day(9, 14)), day(9, 15)).now


def test_one_that_is_under_way_is_not_asked_for_again():
    answer = due(NIGHTLY, replace(KNOWN, running=True), day(6, 2))
    assert not answer.now and answer.overdue == day(6, 2) and "under way" in answer.why


def test_a_schedule_does_not_reach_back_before_the_policy():
    attempts = Attempts(since=day(5, 12), newest_begin=day(4))
    assert not due(NIGHTLY, attempts, day(5, 13)).now


def test_a_backup_is_started_early_enough_not_to_get_too_old():
    quick = due(DAILY, KNOWN, day(6, 1, 59))
    assert not quick.now and quick.look_again == day(6, 2)
    slow = replace(KNOWN, newest_took=timedelta(hours=4))
    answer = due(DAILY, slow, day(5, 21))
    assert answer.now and answer.slot == day(5, 21) and answer.overdue is None
    assert due(DAILY, slow, day(6, 3)).overdue == day(6, 2)
    endless = replace(KNOWN, newest_took=timedelta(days=9))
    assert due(DAILY, endless, day(5, 13)).look_again == day(5, 14)


def test_schedule_and_age_hold_together():
    both = Cadence("0 2 * * 0", maximum_age=timedelta(hours=24))
    attempts = replace(KNOWN, newest_begin=day(1, 2))
    assert due(both, attempts, day(2, 2)).slot == day(2, 2)
    attempts = replace(KNOWN, newest_begin=day(7, 20))
    answer = due(both, attempts, day(8, 3))
    assert (answer.now, answer.slot, answer.overdue) == (True, day(8, 2), day(8, 2))
    assert due(both, attempts, day(8, 1)).look_again == day(8, 2)


def test_a_failed_one_is_repeated_with_growing_pauses():
    failed = replace(KNOWN, ended={day(6, 2): Ended(1, day(6, 3))})
    waits = due(NIGHTLY, failed, day(6, 3, 4))
    assert not waits.now and waits.overdue == day(6, 2) and waits.look_again == day(6, 3, 5)
    again = due(NIGHTLY, failed, day(6, 3, 5))
    assert (again.now, again.slot, again.attempt) == (True, day(6, 2), 2)
    often = replace(failed, ended={day(6, 2): Ended(40, day(6, 3))})
    assert due(NIGHTLY, often, day(6, 4)).look_again == day(6, 9)


def test_a_failure_of_another_slot_delays_nothing():
    failed = replace(KNOWN, ended={day(5, 2): Ended(9, day(6, 1, 59))})
    assert due(NIGHTLY, failed, day(6, 2)).attempt == 1


def test_a_slot_that_is_served_is_not_due_although_the_servers_clock_is_behind():
    served = replace(KNOWN, newest_begin=day(6, 1, 58), served=frozenset({day(6, 2)}))
    assert due(NIGHTLY, served, day(6, 3)).overdue is None
    assert due(NIGHTLY, served, day(6, 3)).slot == day(7, 2)
    assert due(NIGHTLY, served, day(7, 2)).now


def test_a_delay_moves_the_slot_but_not_its_name():
    assert not due(NIGHTLY, KNOWN, day(6, 2), delay=timedelta(seconds=30)).now
    answer = due(NIGHTLY, KNOWN, day(6, 2, 1), delay=timedelta(seconds=30))
    assert answer.now and answer.slot == day(6, 2)
    assert due(NIGHTLY, KNOWN, day(5, 3), delay=timedelta(seconds=30)).look_again == day(6, 2) + timedelta(seconds=30)


def test_databases_are_spread_always_the_same_way():
    found = {spread(f"uid-{number}") for number in range(200)}
    assert len(found) > 30
    assert all(timedelta(0) <= item <= SPREAD for item in found)
    assert spread("a") == spread("a")


def test_failure_25_a_schedule_is_read_in_its_time_zone():
    tokyo = Cadence("0 2 * * *", "Asia/Tokyo")
    assert previous_slot(tokyo, day(6)) == day(5, 17)
    assert next_slot(tokyo, day(6)) == day(6, 17)


def test_a_night_without_two_o_clock_has_its_backup_all_the_same():
    berlin = Cadence("30 2 * * *", "Europe/Berlin")
    assert next_slot(berlin, datetime(2026, 3, 28, 12, tzinfo=UTC)) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_the_previous_slot_is_the_moment_itself_when_it_is_one():
    assert previous_slot(NIGHTLY, day(6, 2)) == day(6, 2)
    assert previous_slot(NIGHTLY, day(6, 2) + timedelta(microseconds=1)) == day(6, 2)
    assert previous_slot(NIGHTLY, day(6, 2) - timedelta(microseconds=1)) == day(5, 2)


@pytest.mark.parametrize(
    "cadence, reason",
    [
        (Cadence("61 2 * * *"), "InvalidSchedule"),
        (Cadence("nonsense"), "InvalidSchedule"),
        (Cadence("0 0 31 2 *"), "InvalidSchedule"),
        (Cadence("0 2 * * *", "Mars/Olympus"), "InvalidTimeZone"),
        (Cadence("0 2 * * *", "../etc/passwd"), "InvalidTimeZone"),
        (Cadence("0 2 * * *", "Europe"), "InvalidTimeZone"),
    ],
)
def test_a_wrong_cadence_is_refused(cadence, reason):
    with pytest.raises(InvalidInput) as caught:
        check(cadence)
    assert caught.value.reason == reason and caught.value.fix


def test_bug_ages_and_deadlines_that_no_backup_can_keep_were_accepted():
    for age in (timedelta(0), timedelta(seconds=59)):
        with pytest.raises(InvalidInput) as caught:
            check(Cadence("0 2 * * *", maximum_age=age))
        assert caught.value.reason == "MaximumAgeTooShort" and "1m" in caught.value.fix
    with pytest.raises(InvalidInput) as caught:
        check(NIGHTLY, timedelta(seconds=59))
    assert caught.value.reason == "DeadlineTooShort" and "1m" in caught.value.fix


def test_right_ones_pass():
    check(NIGHTLY)
    check(DAILY)
    check(Cadence(maximum_age=timedelta(minutes=1)), timedelta(minutes=1))
