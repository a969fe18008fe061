"""Which changes of a Database's status are events."""

from __future__ import annotations

from typing import Any

import pytest
from yoban.reconcilers.database.story import Tidings, tidings

from tests.unit.reconcilers.database.world import World


def status(primary: str = "", phase: str = "Running", **conditions: tuple[str, str]) -> dict[str, Any]:
    told = [{"type": kind, "status": s, "reason": r, "message": f"{r}!"} for kind, (s, r) in conditions.items()]
    return {"phase": phase, "conditions": told, **({"primary": primary} if primary else {})}


def test_another_primary_is_told() -> None:
    assert list(tidings(status("db-1"), status("db-2"))) == [
        Tidings("PrimaryChanged", "db-2 is the primary now; before, it was db-1")
    ]
    assert list(tidings(status("db-1"), status("db-1"))) == []
    assert list(tidings(status(), status("db-1"))) == [], "the first is no change"
    assert list(tidings(status("db-1"), status())) == []


@pytest.mark.parametrize("kind", ["Ready", "Archiving", "Recoverable"])
def test_a_condition_that_turns_is_told_with_its_reason(kind: str) -> None:
    good, bad = status(**{kind: ("True", "Fine")}), status(**{kind: ("False", "StoreDown")})
    assert list(tidings(good, bad)) == [Tidings(f"Not{kind}", "StoreDown: StoreDown!", warning=True)]
    assert list(tidings(bad, good)) == [Tidings(kind, "Fine!")]
    assert list(tidings(bad, status(**{kind: ("False", "Other")}))) == [], "another reason is in the status"


def test_what_nobody_knew_and_is_wrong_is_told_but_not_what_only_begins() -> None:
    unknown = status(Archiving=("Unknown", "Starting"))
    assert [one.reason for one in tidings(unknown, status(Archiving=("False", "ArchiveFailing")))] == ["NotArchiving"]
    assert list(tidings(unknown, status(Archiving=("False", "NoPolicy")))) == []
    assert list(tidings(unknown, status(Archiving=("True", "Archiving")))) == []
    assert list(tidings({}, status(Ready=("False", "Progressing")))) == []


def test_what_was_asked_for_is_no_warning() -> None:
    """A switchover: for a moment nobody accepts writes."""
    under_way = status(Ready=("False", "Progressing"))
    assert list(tidings(status(Ready=("True", "AllReady")), under_way)) == [
        Tidings("NotReady", "Progressing: Progressing!")
    ]


def test_nothing_is_told_of_what_is_being_deleted() -> None:
    going = status("db-2", "Deleting", Ready=("False", "Deleting"))
    assert list(tidings(status("db-1", Ready=("True", "AllReady")), going)) == []


async def test_a_database_that_comes_to_be_is_told_once(world: World) -> None:
    world.make()
    await world.settle()
    assert world.events.count("Ready") == 1
    assert not [reason for reason in world.events if reason.startswith("Not")]
    await world.once()
    assert world.events.count("Ready") == 1
