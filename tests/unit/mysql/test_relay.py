"""Which transactions of an archived file are applied: pure decisions over what files hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from yoban.errors import IntegrityError
from yoban.plugins import Fork, Position, RecoveryPlan, RecoveryTarget, TargetType
from yoban_mysql.binlog import Transaction
from yoban_mysql.gtid import Gtid, GtidSet, Source
from yoban_mysql.relay import Fed, Selection, met, select, start
from yoban_mysql.segments import segment_name

A, B = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
OLD, NEW = f"{A}.0000000001", f"{B}.0000000004"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def one(number: int, uuid: str = A, *, at: float | None = None) -> Transaction:
    """A transaction of ten bytes, committed so many seconds after noon."""
    moment = NOON + timedelta(seconds=number if at is None else at)
    return Transaction(Gtid(Source(uuid), number), moment, 10 * number, 10 * number + 10)


def plan(kind: str = "latest", value: str = "", **more: Any) -> RecoveryPlan:
    target = RecoveryTarget(TargetType(kind), value, more.pop("exclusive", False), skip=more.pop("skip", ()))
    return RecoveryPlan(target, OLD, Position(more.pop("end", f"{A}:1-9")), Position(f"{A}:1-2"), **more)


def take(
    wish: RecoveryPlan, *transactions: Transaction, before: int = 0, line: str = OLD, fed: Fed | None = None
) -> Selection:
    return select(wish, segment_name(line, 4, before), transactions, fed or start(wish))


def numbers(found: Selection) -> list[int]:
    return [at // 10 for first, last in found.ranges for at in range(first, last, 10)]


def test_what_the_base_backup_holds_is_passed_over() -> None:
    found = take(plan(), *(one(number) for number in range(1, 6)))
    assert found.ranges == ((30, 60),)
    base = GtidSet.parse(f"{A}:1-2")
    assert found.fed == Fed(GtidSet.parse(f"{A}:1-5"), 1, False, NOON + timedelta(seconds=5), base)
    again = take(plan(), one(4), one(5), before=3, fed=found.fed)
    assert (again.ranges, again.fed) == ((), found.fed)
    assert Fed.parse(found.fed.text()) == found.fed
    assert Fed.parse(start(plan()).text()) == start(plan())
    whole = replace(found.fed, size=100, full=True)
    assert Fed.parse(whole.text()) == whole
    assert whole.applied() == replace(found.fed, files=0, had=found.fed.have)


@pytest.mark.parametrize(
    "wish, expected, passed",
    [
        (plan("transaction", f"{A}:4"), [3, 4], True),
        (plan("transaction", f"{A}:4", exclusive=True), [3], True),
        (plan("position", f"{A}:1-4"), [3, 4], True),
        (plan("time", (NOON + timedelta(seconds=4)).isoformat()), [3, 4], True),
        (plan("time", (NOON + timedelta(seconds=4)).isoformat(), exclusive=True), [3], True),
        (plan("time", (NOON + timedelta(seconds=60)).isoformat()), [3, 4, 5, 6], False),
        (plan("immediate"), [], True),
        (plan(skip=(f"{A}:4",)), [3, 5, 6], False),
        (plan(end=f"{A}:1-5"), [3, 4, 5], True),  # what is stored beyond the proof may be later than what was asked for
        (plan(end=f"{A}:1-2"), [], True),
    ],
)
def test_targets(wish: RecoveryPlan, expected: list[int], passed: bool) -> None:
    found = take(wish, *(one(number) for number in range(1, 7)))
    assert (numbers(found), found.fed.passed) == (expected, passed)
    later = take(wish, one(7), before=6, fed=found.fed)
    assert numbers(later) == ([] if passed else [7])


def test_a_time_is_met_in_log_order() -> None:
    """A later transaction with an earlier time lies behind the target all the same."""
    wish = plan("time", (NOON + timedelta(seconds=4)).isoformat())
    assert numbers(take(wish, one(3), one(4, at=9), one(5, at=2))) == [3]


def test_what_is_left_out_counts_as_had() -> None:
    found = take(plan(skip=(f"{A}:3",)), one(3), one(4))
    assert Gtid(Source(A), 3) in found.fed.have
    assert numbers(found) == [4]


def test_a_position_that_no_server_was_at_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        take(plan("position", f"{A}:1-3:5"), *(one(number) for number in range(1, 6)))
    assert caught.value.reason == "TargetNotReached"


def test_failure_21_what_lies_past_the_fork_is_dropped() -> None:
    wish = plan(forks=(Fork(NEW, OLD, Position(f"{A}:1-4")),))
    found = take(wish, *(one(number) for number in range(1, 8)))
    assert numbers(found) == [3, 4]
    # A whole file behind the fork is no gap either.
    assert take(wish, one(9), before=8, fed=found.fed).ranges == ()
    child = take(wish, one(3), one(4), one(1, B), before=2, line=NEW, fed=found.fed)
    assert str(child.fed.have) == f"{A}:1-4,{B}:1"


@pytest.mark.parametrize("before, gap", [(2, False), (3, True), (9, True)])
def test_failure_20_a_file_that_does_not_go_on_from_what_was_fed(before: int, gap: bool) -> None:
    if not gap:
        take(plan(), one(3), before=before)
        return
    with pytest.raises(IntegrityError) as caught:
        take(plan(), one(before + 1), before=before)
    assert caught.value.reason == "LogGap"


def test_failure_23_only_what_leads_to_the_target_is_success() -> None:
    have = Fed(GtidSet.parse(f"{A}:1-8"))
    assert f"{A}:9" in met(plan(), have)
    assert met(plan(), Fed(GtidSet.parse(f"{A}:1-9"))) == ""
    assert "before transaction" in met(plan("transaction", f"{A}:9"), have)
    assert f"{A}:9" in met(plan("time", NOON.isoformat()), have)
    assert met(plan("time", NOON.isoformat()), Fed(have.have, passed=True)) == ""
    assert f"{A}:9" in met(plan("position", f"{A}:1-9"), have)
    assert met(plan("immediate"), start(plan("immediate"))) == ""
