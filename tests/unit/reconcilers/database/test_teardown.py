"""Deletion in order: replicas, primary once everything is stored, credentials last, volumes as the policy says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from yoban.kube.clock import parse_rfc3339
from yoban.kube.resource import LEASE, PERSISTENT_VOLUME_CLAIM, POD, SECRET, SERVICE, STATEFUL_SET, Resource
from yoban.model.control import AgentStatus, ArchiveState
from yoban.plugins import Capability
from yoban.reconcilers.database.caches import CHILDREN
from yoban.reconcilers.kinds import DATABASE

from tests.unit.reconcilers.database.keeper import Keeper
from tests.unit.reconcilers.database.world import KEY, NAMESPACE, OPERATOR, World


@pytest.fixture
def archiving(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(Keeper, "capable", Keeper.capable | {Capability.BACKUP, Capability.RESTORE})
    world.make_policy()
    return world


def gone(world: World) -> bool:
    return world.server.find(DATABASE, NAMESPACE, "orders") is None


def archive(world: World, **state: Any) -> None:
    """Have the primary's agent say this of its archive."""
    said = world.agents.said["orders-1"]
    world.agents.said["orders-1"] = msgspec.structs.replace(
        said,
        archive=ArchiveState(**{"active": True, "lag_seconds": 0.0, "window_end": world.time.now(), **state}),
    )


async def test_volumes_are_retained_by_default_and_nothing_else(world: World) -> None:
    world.make()
    await world.settle()
    volumes = world.names(PERSISTENT_VOLUME_CLAIM)
    await world.delete()
    await world.settle()
    assert gone(world)
    for resource in CHILDREN:
        assert world.names(resource) == (volumes if resource is PERSISTENT_VOLUME_CLAIM else [])
    assert not world.server.objects(SECRET, OPERATOR)
    assert KEY not in world.agents.observed


async def test_volumes_go_when_the_policy_says_so(world: World) -> None:
    world.make(deletionPolicy="Delete")
    await world.settle()
    await world.delete()
    await world.settle()
    assert gone(world)
    assert not world.names(PERSISTENT_VOLUME_CLAIM)


async def test_the_volumes_of_an_earlier_life_stay(world: World) -> None:
    labels = {"yoban.dev/database": "orders", "yoban.dev/instance": "orders-1", "yoban.dev/incarnation": "fedcba987654"}
    old = {"metadata": {"name": "orders-1-fedcba", "namespace": NAMESPACE, "labels": labels}, "spec": {}}
    world.server.put(PERSISTENT_VOLUME_CLAIM, old)
    world.make(deletionPolicy="Delete")
    await world.settle()
    await world.delete()
    await world.settle()
    assert world.names(PERSISTENT_VOLUME_CLAIM) == ["orders-1-fedcba"]


async def test_bug_what_others_had_made_under_our_labels_was_deleted(world: World) -> None:
    world.make(deletionPolicy="Delete")
    await world.settle()
    made = copies(world)
    await world.delete()
    await world.settle()
    assert gone(world)
    assert [(resource, name) for resource in CHILDREN for name in world.names(resource)] == made


async def test_bug_copies_of_an_instance_s_objects_were_taken_for_them(world: World) -> None:
    world.make()
    await world.settle()
    volumes = world.names(PERSISTENT_VOLUME_CLAIM)
    made = copies(world)
    world.change(lambda obj: obj["spec"].update(instances=1))
    await world.settle()
    assert world.names(STATEFUL_SET) == ["orders-1"]
    assert world.names(PERSISTENT_VOLUME_CLAIM) == sorted([volumes[0], "copied-claim"])
    assert [(resource, name) for resource in CHILDREN for name in world.names(resource) if "copied" in name] == made
    # The Lease is lost: which volumes there are is told by their names, too.
    world.server.remove(LEASE, NAMESPACE, "orders-primary")
    await world.settle()
    assert world.names(STATEFUL_SET) == ["orders-1"]
    assert not any(reason == "DataLost" for reason in world.events)


async def test_bug_a_copy_of_a_pod_was_taken_for_the_instance_s(world: World) -> None:
    world.make()
    await world.settle()
    found = world.server.find(POD, NAMESPACE, "orders-2-0")
    assert found is not None
    metadata = {part: found["metadata"][part] for part in ("namespace", "labels")}
    world.server.put(POD, {**found, "metadata": {**metadata, "name": "orders-2-debug"}})
    world.change(lambda obj: obj["spec"].update(instances=1))
    world.fill()
    for _ in range(5):  # the StatefulSet's controller of these tests would remove it
        await world.once()
    assert "orders-2-debug" in world.names(POD)


def copies(world: World) -> list[tuple[Resource, str]]:
    """Copies of our objects that somebody made by changing nothing but their names."""
    made = []
    for resource, name in ((SERVICE, "orders-rw"), (SECRET, "orders"), (PERSISTENT_VOLUME_CLAIM, "")):
        found = world.server.find(resource, NAMESPACE, name or world.names(PERSISTENT_VOLUME_CLAIM)[1])
        assert found is not None
        metadata = {"namespace": NAMESPACE, "name": f"copied-{resource.kind.removeprefix('PersistentVolume').lower()}"}
        metadata |= {part: found["metadata"][part] for part in ("labels", "annotations") if part in found["metadata"]}
        world.server.put(resource, {**found, "metadata": metadata})
        made.append((resource, str(metadata["name"])))
    return sorted(made, key=lambda one: CHILDREN.index(one[0]))


async def test_order_replicas_primary_services_credentials(world: World) -> None:
    world.make()
    await world.settle()
    await world.delete()
    await world.once()
    assert world.names(STATEFUL_SET) == ["orders-1"], "replicas first"
    assert world.status["phase"] == "Deleting"
    assert "orders-2, orders-3 must be gone first" in str(world.status) or world.condition()["reason"] == "Deleting"
    world.work()
    await world.once()
    assert not world.names(STATEFUL_SET)
    assert world.names(SERVICE), "who is connected stays connected until the Pod is gone"
    world.work()
    await world.once()
    assert not world.names(SERVICE)
    assert "orders-accounts" in world.names(SECRET), "credentials last"
    assert world.server.objects(SECRET, OPERATOR)
    await world.settle()
    assert gone(world)


async def test_a_dead_store_holds_the_primary_until_its_owner_gives_up(archiving: World) -> None:
    world = archiving
    world.make(backup={"policy": "nightly"})
    await world.settle()
    await world.delete()
    await world.once()
    world.work()
    archive(world, failing_since=parse_rfc3339("2026-01-01T00:00:00Z"), error="connection refused")
    for _ in range(3):
        await world.once()
    assert world.names(POD) == ["orders-1-0"]
    assert not gone(world)
    assert "WaitingForArchive" in world.events
    assert "connection refused" in world.condition()["message"]
    assert "yoban.dev/skip-cleanup" in world.condition()["message"]
    world.annotate(skip_cleanup="true")
    await world.settle()
    assert gone(world)


async def test_a_late_archive_is_waited_for(archiving: World) -> None:
    world = archiving
    world.make(backup={"policy": "nightly"})
    await world.settle()
    await world.delete()
    await world.once()
    world.work()
    archive(world, lag_seconds=40.0)
    await world.once()
    assert world.names(POD) == ["orders-1-0"]
    archive(world, lag_seconds=None)
    await world.once()
    assert world.names(POD) == ["orders-1-0"]
    archive(world, lag_seconds=1.0)
    await world.once()
    assert not world.names(STATEFUL_SET)


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
async def test_an_engine_without_a_log_is_not_waited_for(archiving: World, policy: str) -> None:
    world = archiving
    world.make(backup={"policy": "nightly"}, deletionPolicy=policy, instances=1)
    await world.settle()
    archive(world, active=False, lag_seconds=None, has_log=False)
    await world.delete()
    await world.settle()
    assert gone(world)


@pytest.mark.parametrize(("policy", "waits"), [("Delete", True), ("Retain", False)])
async def test_a_primary_that_does_not_run_is_waited_for_only_if_its_volume_is_to_go(
    archiving: World, policy: str, waits: bool
) -> None:
    world = archiving
    world.make(backup={"policy": "nightly"}, deletionPolicy=policy, instances=1)
    await world.settle()
    world.agents.said = {"orders-1": AgentStatus(instance="orders-1")}
    await world.delete()
    await world.once()
    assert bool(world.names(STATEFUL_SET)) is waits
    if waits:
        assert "nobody can tell" in world.condition()["message"]


async def test_bug_a_deletion_begun_before_the_operator_started_waited_for_an_agent_that_nobody_asked(
    archiving: World,
) -> None:
    world = archiving
    world.make(backup={"policy": "nightly"}, deletionPolicy="Delete", instances=1)
    await world.settle()
    archive(world)
    await world.delete()
    world.start()
    await world.once()
    assert KEY in world.agents.observed
    assert "nobody can tell" not in world.condition()["message"], "it has just begun to ask"
    await world.settle()
    assert gone(world)


async def test_bug_an_agent_that_had_just_begun_to_look_was_taken_for_one_that_had_stored_everything(
    archiving: World,
) -> None:
    world = archiving
    world.make(backup={"policy": "nightly"}, deletionPolicy="Delete", instances=1)
    await world.settle()
    archive(world, lag_seconds=0.1, window_end=None)
    await world.delete()
    await world.once()
    assert "the archive is behind by unknown" in world.condition()["message"]
    assert world.names(STATEFUL_SET)
    archive(world, lag_seconds=0.1)
    await world.settle()
    assert gone(world)


async def test_a_primary_not_heard_from_since_the_operator_started_is_told_after_a_while(archiving: World) -> None:
    world = archiving
    world.make(backup={"policy": "nightly"}, deletionPolicy="Delete", instances=1)
    await world.settle()
    await world.delete()
    world.start()
    world.agents.said = {}
    await world.once()
    assert "asked whether everything is stored" in world.condition()["message"]
    world.time.time += timedelta(seconds=20)
    await world.once()
    assert "nobody can tell" in world.condition()["message"]
    assert world.names(STATEFUL_SET)


async def test_what_was_never_initialised_goes_at_once(archiving: World) -> None:
    world = archiving
    world.make(backup={"policy": "nightly"}, deletionPolicy="Delete")
    await world.once()
    await world.once()
    await world.delete()
    await world.settle()
    assert gone(world)


async def test_a_deleted_database_of_others_is_left_alone(world: World) -> None:
    world.make()
    world.change(lambda obj: obj["metadata"].update(finalizers=["else/where"]), spec=False)
    await world.delete()
    number = len(world.server.writes())
    await world.once()
    assert len(world.server.writes()) == number
