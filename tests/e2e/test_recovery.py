"""Backups and restores on a real cluster: each recovery target, before and after a change of primary."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pytest

from deploy.demo import manifests
from deploy.demo.kubectl import WaitTimeout, condition
from tests.e2e.points import mark
from tests.e2e.world import Space, complete, reason

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NOTHING_THERE = ("NoBackup", "SourceMissing", "NoPolicy", "SourceInvalid")


@dataclass
class Moments:
    """What was noted of the source while it was written."""

    targets: dict[str, dict[str, str]]
    """A target by its name: of each kind, and of those with a place in the log one before and one after the switchover."""
    rows: dict[str, int]
    """Rows expected in the restored table, by name of the target."""


KINDS = ("time", "position", "transaction", "name")
BEFORE = tuple(f"{kind}-before" for kind in KINDS)
AFTER = tuple(f"{kind}-after" for kind in KINDS)


@pytest.fixture(scope="module")
def space(make_space: Callable[[str], Space]) -> Space:
    space = make_space("recovery")
    space.store()
    space.policy()
    space.database("source", 2)
    return space


@pytest.fixture(scope="module")
def moments(space: Space) -> Moments:
    client = space.client("source")
    client.sql("CREATE TABLE ledger (n integer)")
    client.fill("ledger", 1, 1000)
    backup = space.backup("base", "source")
    assert backup["status"]["instance"] != space.primary("source"), "a healthy replica serves first"
    assert backup["status"].get("traceId")
    client.fill("ledger", 1001, 1100)
    before = mark(space, "source", "before_lunch", 1101)
    target = next(
        instance["name"]
        for instance in space.kubectl.get("database", "source")["status"]["instances"]  # type: ignore[index]
        if instance["role"] == "replica"
    )
    space.annotate("database", "source", f"yoban.dev/switchover={target}")
    space.kubectl.wait(
        "database", "source", lambda v: v["status"].get("primary") == target and complete(2)(v), deadline=180
    )
    client.until_it_works(deadline=120)
    client.fill("ledger", 1111, 1200)
    after = mark(space, "source", "after_lunch", 1201)
    client.fill("ledger", 1211, 1300)
    end = datetime.fromisoformat(client.now())
    space.kubectl.wait(
        "database",
        "source",
        lambda v: _time(v.get("status", {}).get("window", {}).get("end", "1970-01-01T00:00:00Z")) >= end,
        deadline=120,
    )
    # Besides ours the one that every Database begins with. A third would say that the switchover looked like a gap.
    made = {value["metadata"]["name"]: value["metadata"].get("annotations") for value in space.kubectl.list("backup")}
    assert len(made) == 2, made
    return Moments(
        targets={"latest": {"type": "latest"}, "immediate": {"type": "immediate", "backup": backup["status"]["id"]}}
        | {f"{kind}-before": {"type": kind, "value": value} for kind, value in before.items()}
        | {f"{kind}-after": {"type": kind, "value": value} for kind, value in after.items()},
        rows={"latest": 1300, "immediate": 1000}
        | {"time-before": 1100, "position-before": 1110, "transaction-before": 1110, "name-before": 1100}
        | {"time-after": 1200, "position-after": 1210, "transaction-after": 1210, "name-after": 1200},
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@pytest.fixture(scope="module")
def half(space: Space, moments: Moments) -> None:
    """Half of the targets at once, each into a Database of its own."""
    _restore(space, moments, ["latest", "immediate", *BEFORE])


@pytest.fixture(scope="module")
def rest(space: Space, moments: Moments) -> None:
    """The other half."""
    _restore(space, moments, AFTER)


def _restore(space: Space, moments: Moments, names: Sequence[str]) -> None:
    for name in names:
        if name in moments.targets:
            space.restore(f"to-{name}", "source", moments.targets[name], wait=False)


@pytest.mark.parametrize("target", ["latest", "immediate", *BEFORE])
def test_restore_to_each_target_before_a_switchover(space: Space, moments: Moments, half: None, target: str) -> None:
    _assert_restored(space, moments, target)


@pytest.mark.parametrize("target", AFTER)
def test_restore_to_each_target_after_a_switchover(space: Space, moments: Moments, rest: None, target: str) -> None:
    _assert_restored(space, moments, target)


def _assert_restored(space: Space, moments: Moments, target: str) -> None:
    if target not in moments.targets:
        return  # this engine cannot name a moment so
    name = f"to-{target}"
    restored = space.ready(name, 1)["status"]["restored"]
    assert restored["backup"] and restored["position"], restored
    client = space.client(name)
    assert client.sql("SELECT count(*) FROM ledger") == str(moments.rows[target])
    client.sql("INSERT INTO ledger VALUES (0)")
    space.kubectl.delete("pod", f"{name}-client", wait=False)
    space.kubectl.delete("database", name)


def test_target_outside_the_window_is_refused_and_the_window_is_named(space: Space, moments: Moments) -> None:
    space.restore("too-early", "source", {"type": "time", "value": "2001-01-01T00:00:00Z"}, wait=False)
    value = space.kubectl.wait("database", "too-early", reason("TargetOutsideWindow"), deadline=120)
    window = space.kubectl.get("database", "source")["status"]["window"]  # type: ignore[index]
    assert window["start"][:16] in condition(value, "Ready")["message"]
    space.kubectl.delete("database", "too-early")


def test_failure_04_a_lost_record_of_the_newest_reign_is_told_with_the_window(space: Space, moments: Moments) -> None:
    """Nothing else would tell until somebody restores: the servers serve, and the log is stored as ever."""
    status = space.kubectl.get("database", "source")["status"]  # type: ignore[index]
    bucket = f"{space.bucket_name}-store"
    key, record = max(space.stage.objects(bucket, f"{status['path']}/terms/").items())
    value = None
    for _ in range(2):
        space.stage.delete_object(bucket, key)
        try:
            value = space.kubectl.wait(
                "database", "source", lambda v: condition(v, "Recoverable").get("reason") == "TermMissing", deadline=100
            )
            break
        except WaitTimeout:
            continue  # its primary was quicker than the look, and looks again in minutes only
    assert value is not None
    told = condition(value, "Recoverable")
    assert told["status"] == "False"
    assert all(word in told["message"] for word in ("terms/2", "its log is stored on line", "bring the object back"))
    assert condition(value, "Ready")["status"] == "True"
    space.kubectl.wait(
        "backuppolicy", "gold", lambda v: condition(v, "Ready").get("reason") == "TermMissing", deadline=90
    )
    space.stage.put_object(bucket, key, record)
    space.kubectl.wait(
        "database", "source", lambda v: condition(v, "Recoverable").get("status") == "True", deadline=100
    )


def test_store_stopped_for_two_minutes_loses_nothing(space: Space, moments: Moments) -> None:
    client = space.client("source")
    before = int(client.sql("SELECT count(*) FROM ledger"))
    space.store_down()
    try:
        started = time.monotonic()
        client.fill("ledger", 1, 50000)
        value = space.kubectl.wait(
            "database",
            "source",
            lambda v: condition(v, "Archiving").get("status") == "False",
            deadline=100,
        )
        assert condition(value, "Archiving")["message"]
        time.sleep(max(0.0, 120 - (time.monotonic() - started)))  # the fault's length is the test's subject
    finally:
        space.store_up()
    # What is not stored yet is waited for: the restore begins when the archive has caught up with its target.
    space.restore("after-outage", "source", {"type": "time", "value": client.now()}, wait=False)
    phases = set[str]()
    space.kubectl.wait(
        "database",
        "after-outage",
        complete(1),
        deadline=240,
        seen=lambda v: phases.add(v.get("status", {}).get("phase", "")),
    )
    assert "Failed" not in phases
    assert int(space.client("after-outage").sql("SELECT count(*) FROM ledger")) == before + 50000
    space.kubectl.delete("database", "after-outage")


def test_backup_taken_while_the_operator_restarts_completes(space: Space, moments: Moments) -> None:
    space.kubectl.apply(manifests.backup("through-restart", "source"))
    space.kubectl.wait("backup", "through-restart", lambda v: bool(v.get("status", {}).get("phase")), deadline=120)
    space.kubectl.within("yoban-system").run("delete", "pod", "--all", "--wait=false", "--grace-period=0", "--force")
    value = space.kubectl.wait(
        "backup", "through-restart", lambda v: v.get("status", {}).get("phase") in ("Completed", "Failed"), deadline=240
    )
    assert value["status"]["phase"] == "Completed", value["status"]


def test_failure_29_a_restore_of_nothing_is_never_an_empty_database(space: Space, moments: Moments) -> None:
    space.database("hollow", 1, policy="")
    space.restore("from-hollow", "hollow", {"type": "latest"}, wait=False)
    value = space.kubectl.wait("database", "from-hollow", reason(*NOTHING_THERE), deadline=120)
    assert condition(value, "Ready")["message"]
    assert space.pods("from-hollow") == []
    nowhere = {"objectStore": "store", "path": f"{space.kubectl.namespace}/source/000000000000"}
    space.restore("from-nowhere", nowhere, {"type": "latest"}, wait=False)
    space.kubectl.wait("database", "from-nowhere", reason(*NOTHING_THERE), deadline=120)
    assert space.pods("from-nowhere") == []
    for name in ("hollow", "from-hollow", "from-nowhere"):
        space.kubectl.delete("database", name)


def test_failure_31_all_of_it_comes_back_without_the_database_that_wrote_it(space: Space, moments: Moments) -> None:
    """Roles, settings of roles, and data: from the store alone, after the Database and its Secrets are gone."""
    space.as_admin("source", space.engine.role)
    rows = space.client("source").sql("SELECT count(*) FROM ledger")
    path = space.kubectl.get("database", "source")["status"]["path"]  # type: ignore[index]
    space.kubectl.delete("database", "source")
    space.restore("again", {"objectStore": "store", "path": path}, {"type": "latest"})
    client = space.client("again")
    assert client.sql("SELECT count(*) FROM ledger") == rows
    assert space.as_admin("again", space.engine.holds).strip() == "1"
