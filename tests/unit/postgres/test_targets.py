from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import InvalidInput, Unsupported
from yoban.plugins import BackupFacts, Fork, Position, Reach, RecoveryTarget, TargetType, Window
from yoban_postgres.positions import make
from yoban_postgres.targets import PostgresTargets, full_transaction

targets = PostgresTargets()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def t(type: TargetType, value: str = "", **more: object) -> RecoveryTarget:
    return RecoveryTarget(type=type, value=value, **more)  # type: ignore[arg-type]


def backup(end: int = 100, *, line: int = 1, time: datetime = NOON, **facts: str) -> BackupFacts:
    name = f"{line:08X}"
    return BackupFacts("b", name, make(line, 50), make(line, end), time - timedelta(minutes=1), time, facts)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2026-03-01T21:00:00+09:00", "2026-03-01T12:00:00.000000Z"),
        ("2026-03-01 12:00:00.5Z", "2026-03-01T12:00:00.500000Z"),
        ("2026-03-01t12:00:00.123456789z", "2026-03-01T12:00:00.123456Z"),
        ("2026-03-01T07:30:00-04:30", "2026-03-01T12:00:00.000000Z"),
    ],
)
def test_failure_25_times_carry_their_offset(text: str, canonical: str) -> None:
    assert targets.parse(t(TargetType.TIME, text)).value == canonical


def test_what_lies_below_a_microsecond_never_lets_a_later_commit_in() -> None:
    text = "2026-03-01T12:00:00.1234561Z"
    assert targets.parse(t(TargetType.TIME, text)).value.endswith(".123456Z")
    assert targets.parse(t(TargetType.TIME, text, exclusive=True)).value.endswith(".123457Z")


@pytest.mark.parametrize(
    "target",
    [
        t(TargetType.TIME, "2026-03-01T12:00:00"),
        t(TargetType.TIME, "2026-03-01T25:00:00Z"),
        t(TargetType.TIME, "yesterday"),
        t(TargetType.TIME),
        t(TargetType.LATEST, "x"),
        t(TargetType.POSITION, "12"),
        t(TargetType.POSITION, "00000001:0/1", line="00000002"),
        t(TargetType.TRANSACTION, "-1"),
        t(TargetType.TRANSACTION, "2"),
        t(TargetType.TRANSACTION, str(1 << 64)),
        t(TargetType.NAME, "x" * 64),
        t(TargetType.NAME, "a\nb"),
        t(TargetType.LATEST, line="2"),
    ],
)
def test_malformed_targets_are_refused(target: RecoveryTarget) -> None:
    with pytest.raises(InvalidInput):
        targets.parse(target)


@pytest.mark.parametrize(
    "target",
    [t(TargetType.LATEST, exclusive=True), t(TargetType.NAME, "x", exclusive=True), t(TargetType.IMMEDIATE, exclusive=True),
     t(TargetType.TRANSACTION, "5", skip=("6",))],
)  # fmt: skip
def test_what_has_no_meaning_is_unsupported(target: RecoveryTarget) -> None:
    with pytest.raises(Unsupported):
        targets.parse(target)


def test_positions_may_name_their_line() -> None:
    parsed = targets.parse(t(TargetType.POSITION, "0000000a:0/10"))
    assert (parsed.value, parsed.line) == ("0000000A:0/10", "0000000A")
    assert targets.parse(t(TargetType.POSITION, "0/0010")).value == "0/10"
    assert targets.parse(t(TargetType.TRANSACTION, "0042")).value == "42"


def test_failure_27_a_target_inside_the_backup_does_not_fit_it() -> None:
    cases = [
        (t(TargetType.TIME, "2026-03-01T12:00:00Z"), Reach.YES),
        (t(TargetType.TIME, "2026-03-01T12:00:00Z", exclusive=True), Reach.NO),
        (t(TargetType.TIME, "2026-03-01T11:59:59.999999Z"), Reach.NO),
        (t(TargetType.POSITION, "0/64"), Reach.YES),
        (t(TargetType.POSITION, "0/63"), Reach.NO),
        (t(TargetType.LATEST), Reach.YES),
        (t(TargetType.IMMEDIATE), Reach.YES),
        (t(TargetType.NAME, "x"), Reach.UNKNOWN),
        (t(TargetType.TRANSACTION, "700"), Reach.UNKNOWN),
    ]
    for target, expected in cases:
        assert targets.reach(targets.parse(target), backup(), ()) is expected, target


def test_transactions_are_judged_by_what_ran_at_the_end() -> None:
    facts = {"next_xid": "1000", "oldest_xid": "990", "running_xids": "990,995"}
    expect = {1000: Reach.YES, 2000: Reach.YES, 995: Reach.YES, 996: Reach.NO, 989: Reach.NO}
    for xid, reach in expect.items():
        assert targets.reach(t(TargetType.TRANSACTION, str(xid)), backup(**facts), ()) is reach, xid
    of_replica = {**facts, "running_xids": "", "from": "replica"}
    assert targets.reach(t(TargetType.TRANSACTION, "995"), backup(**of_replica), ()) is Reach.UNKNOWN
    del facts["running_xids"]
    assert targets.reach(t(TargetType.TRANSACTION, "995"), backup(**facts), ()) is Reach.UNKNOWN


def test_a_backup_on_a_branch_that_was_left_does_not_fit() -> None:
    forks = [Fork("00000002", "00000001", make(1, 100))]
    latest = t(TargetType.LATEST)
    assert targets.reach(latest, backup(100), forks) is Reach.YES
    assert targets.reach(latest, backup(101), forks) is Reach.NO
    assert targets.reach(latest, backup(300, line=2), forks) is Reach.YES
    assert targets.reach(t(TargetType.LATEST, line="00000001"), backup(300, line=2), forks) is Reach.NO
    assert targets.reach(t(TargetType.LATEST, line="00000001"), backup(101), forks) is Reach.YES


def test_check_names_the_window() -> None:
    window = Window(NOON, NOON + timedelta(hours=1), None, make(1, 1000), "00000001")
    for target in (
        t(TargetType.TIME, "2026-03-01T11:59:59Z"),
        t(TargetType.TIME, "2026-03-01T13:00:01Z"),
        t(TargetType.POSITION, "0/3E9"),
        t(TargetType.POSITION, "00000007:0/1"),
    ):
        with pytest.raises(
            InvalidInput, match=r"2026-03-01T12:00:00\.000000Z to 2026-03-01T13:00:00\.000000Z"
        ) as caught:
            targets.check(target, window)
        assert caught.value.reason == "TargetOutsideWindow"
    for target in (
        t(TargetType.TIME, "2026-03-01T13:00:00Z"),
        t(TargetType.POSITION, "0/3E8"),
        t(TargetType.NAME, "x"),
        t(TargetType.LATEST),
    ):
        targets.check(target, window)


@given(st.integers(3, 1 << 40), st.integers(-(1 << 30), 1 << 30))
def test_a_short_transaction_number_means_the_nearest_epoch(near: int, distance: int) -> None:
    wanted = max(near + distance, 3)
    found = full_transaction(wanted & 0xFFFFFFFF, near)
    assert found == wanted or wanted < 1 << 32
    assert full_transaction(wanted, wanted) == wanted


def test_position_is_typed() -> None:
    assert Position("00000001:0/1") == make(1, 1)
