from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from yoban.errors import InvalidInput, Unsupported
from yoban.plugins import BackupFacts, Position, Reach, RecoveryTarget, TargetType, Window
from yoban_mysql.targets import MySqlTargets

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
END = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = Window(END - timedelta(hours=1), END, END, Position(f"{UUID}:1-100"), "x")
BACKUP = BackupFacts("b", "x", Position(f"{UUID}:1-40"), Position(f"{UUID}:1-50"), END, END - timedelta(hours=1))
targets = MySqlTargets()


def target(kind: str, value: str = "", **more: object) -> RecoveryTarget:
    return targets.parse(RecoveryTarget(TargetType(kind), value, **more))  # type: ignore[arg-type]


def test_values_get_their_one_form() -> None:
    assert target("transaction", f" {UUID.upper()}:7 ").value == f"{UUID}:7"
    assert target("transaction", f"{UUID}:Tag:7").value == f"{UUID}:tag:7"
    assert target("position", f"{UUID}:1-3, {UUID}:4").value == f"{UUID}:1-4"
    assert target("latest", skip=(f"{UUID.upper()}:9",)).skip == (f"{UUID}:9",)
    assert target("time", "2026-03-01T21:00:00.1234567+09:00").value == "2026-03-01T12:00:00.123456+00:00"


@pytest.mark.parametrize(
    "kind, value, more",
    [
        ("transaction", "", {}),
        ("transaction", f"{UUID}:1-2", {}),
        ("transaction", "7", {}),
        ("position", "", {}),
        ("time", "2026-03-01T12:00:00", {}),  # failure 25: without an offset
        ("latest", "", {"skip": ("nonsense",)}),
        ("latest", "", {"skip": (f"{UUID}:1-2",)}),
    ],
)
def test_failure_25_what_cannot_be_meant_is_refused(kind: str, value: str, more: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        target(kind, value, **more)
    assert caught.value.fix


@pytest.mark.parametrize(
    "kind, more",
    [
        ("name", {}),
        ("latest", {"exclusive": True}),
        ("immediate", {"skip": (f"{UUID}:1",)}),
        ("position", {"exclusive": True}),
    ],
)
def test_what_has_no_meaning_is_refused(kind: str, more: dict[str, object]) -> None:
    with pytest.raises(Unsupported):
        target(kind, f"{UUID}:1" if kind == "position" else "", **more)


@pytest.mark.parametrize(
    "wish, reach",
    [
        (target("latest"), Reach.YES),
        (target("immediate"), Reach.YES),
        (target("latest", skip=(f"{UUID}:51",)), Reach.YES),
        (target("latest", skip=(f"{UUID}:50",)), Reach.NO),
        (target("time", END.isoformat(), skip=(f"{UUID}:50",)), Reach.NO),
        (target("time", END.isoformat()), Reach.YES),
        (target("time", (END - timedelta(hours=2)).isoformat()), Reach.NO),
        (target("position", f"{UUID}:1-50"), Reach.YES),
        (target("position", f"{UUID}:1-49"), Reach.NO),
        (target("transaction", f"{UUID}:50"), Reach.NO),
        (target("transaction", f"{UUID}:51", exclusive=True), Reach.YES),
    ],
)
def test_from_which_backup(wish: RecoveryTarget, reach: Reach) -> None:
    assert targets.reach(wish, BACKUP, ()) is reach


@pytest.mark.parametrize(
    "wish",
    [
        target("position", f"{UUID}:1-101"),
        target("transaction", f"{UUID}:101"),
        target("time", (END + timedelta(seconds=1)).isoformat()),
        target("latest", skip=(f"{UUID}:101",)),
    ],
)
def test_outside_of_the_window(wish: RecoveryTarget) -> None:
    with pytest.raises(InvalidInput, match="outside") as caught:
        targets.check(wish, WINDOW)
    assert "12:00" in caught.value.fix
    targets.check(target("position", f"{UUID}:1-100"), WINDOW)
    targets.check(target("transaction", f"{UUID}:100"), WINDOW)
