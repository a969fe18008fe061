"""Which instances and volumes exist: scaling, volumes that go and grow, and data that is lost."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from yoban.kube.errors import ApiError
from yoban.kube.resource import (
    LEASE,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    STATEFUL_SET,
)
from yoban.model.control import AgentStatus, Problem
from yoban.testing.apistatus import Rejection, failure

from tests.unit.reconcilers.database.world import NAMESPACE, World, document, membership, scale, uids


async def test_scaling_up_and_down_never_uses_a_number_again(world: World) -> None:
    world.make(instances=1)
    await world.settle()
    for wanted, expected in ((3, (1, 2, 3)), (2, (1, 2)), (3, (1, 2, 4))):
        world.change(partial(scale, wanted))
        await world.settle()
        assert membership(world).numbers == expected
        assert world.names(STATEFUL_SET) == [f"orders-{n}" for n in expected]
        assert len(world.names(PERSISTENT_VOLUME_CLAIM)) == len(expected)
    assert "InstanceRemoved" in world.events


async def test_the_primary_is_never_scaled_away(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover="orders-3")
    await world.settle()
    world.change(lambda obj: obj["spec"].update(instances=1))
    await world.settle()
    assert world.names(STATEFUL_SET) == ["orders-3"]


async def test_an_instance_whose_volume_was_deleted_gets_a_new_number(world: World) -> None:
    world.make()
    await world.settle()
    world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, world.names(PERSISTENT_VOLUME_CLAIM)[1])
    await world.settle()
    assert world.names(STATEFUL_SET) == ["orders-1", "orders-3", "orders-4"]
    assert world.condition()["status"] == "True"


async def test_a_volume_made_by_somebody_under_the_old_name_is_not_taken(world: World) -> None:
    world.make()
    await world.settle()
    name = world.names(PERSISTENT_VOLUME_CLAIM)[1]
    claim = world.server.find(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name)
    assert claim is not None
    world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name)
    del claim["metadata"]["uid"]
    world.server.put(PERSISTENT_VOLUME_CLAIM, claim)
    await world.settle()
    assert membership(world).numbers == (1, 3, 4)


async def test_a_primary_whose_volume_is_going_hands_over_first(world: World) -> None:
    world.make()
    await world.settle()
    name = world.names(PERSISTENT_VOLUME_CLAIM)[0]
    world.server.edit(
        PERSISTENT_VOLUME_CLAIM, NAMESPACE, name, lambda o: o["metadata"].update(finalizers=["kubernetes.io/pvc"])
    )
    await world.client.delete(PERSISTENT_VOLUME_CLAIM, name, NAMESPACE)
    await world.once()
    asked = document(world).switchover
    assert asked is not None
    assert asked.target == "orders-2"
    world.work()
    for _ in range(5):
        await world.once()
        world.work()
    world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name)
    await world.settle()
    assert world.names(STATEFUL_SET) == ["orders-2", "orders-3", "orders-4"]
    assert world.status["primary"] == "orders-2"


async def test_all_volumes_deleted_is_data_lost_and_nothing_is_made(world: World) -> None:
    world.make()
    await world.settle()
    for name in world.names(PERSISTENT_VOLUME_CLAIM):
        world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name)
    for name in world.names(POD):
        world.server.remove(POD, NAMESPACE, name)
    await world.settle()
    assert world.condition()["reason"] == "DataLost"
    assert "it has no backups" in world.condition()["message"]
    assert world.status["phase"] == "Failed"
    assert not world.names(PERSISTENT_VOLUME_CLAIM)
    assert membership(world).numbers == (1, 2, 3)
    assert document(world).founder == ""
    assert world.events.count("DataLost") == 1


async def test_bug_volumes_that_were_brought_back_left_the_data_lost_for_ever(world: World) -> None:
    world.make(instances=1)
    await world.settle()
    name = world.names(PERSISTENT_VOLUME_CLAIM)[0]
    claim = world.server.find(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name)
    assert claim is not None
    world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name)
    said = world.agents.said
    world.agents.said = {}
    await world.once()
    assert world.condition()["reason"] == "DataLost"
    del claim["metadata"]["uid"]
    back = world.server.put(PERSISTENT_VOLUME_CLAIM, claim)
    await world.once()
    assert world.condition()["reason"] == "DataLost", "a claim alone is no proof"
    world.agents.said = said
    await world.settle()
    assert membership(world).volumes == {1: back["metadata"]["uid"]}
    assert world.condition()["reason"] == "AllReady"


async def test_bug_the_first_volume_that_was_brought_back_gave_up_the_others(world: World) -> None:
    world.make()
    await world.settle()
    claims = [
        world.server.find(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name) for name in world.names(PERSISTENT_VOLUME_CLAIM)
    ]
    said = world.agents.said
    for claim in claims:
        assert claim is not None
        world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, claim["metadata"]["name"])
        del claim["metadata"]["uid"]
    world.agents.said = {}
    await world.once()
    assert world.condition()["reason"] == "DataLost"
    world.server.put(PERSISTENT_VOLUME_CLAIM, claims[1])  # type: ignore[arg-type]
    world.agents.said = {"orders-2": said["orders-2"]}
    await world.settle(cluster=False)
    assert world.condition()["reason"] == "DataLost", "a replica may lack what the primary alone had"
    assert membership(world).numbers == (1, 2, 3)
    for number in (0, 2):
        world.server.put(PERSISTENT_VOLUME_CLAIM, claims[number])  # type: ignore[arg-type]
    world.agents.said = {"orders-1": said["orders-1"]}
    await world.once()
    assert membership(world).numbers == (1, 2, 3), "those that are not heard yet have theirs, too"
    world.agents.said = said
    await world.settle()
    assert membership(world).numbers == (1, 2, 3)
    assert (world.condition()["reason"], world.status["primary"]) == ("AllReady", "orders-1")


async def test_bug_a_pod_that_the_cluster_refused_was_told_to_nobody(world: World) -> None:
    world.make()
    await world.settle()
    world.refused = {"orders-2-0"}
    world.server.remove(POD, NAMESPACE, "orders-2-0")
    world.agents.said.pop("orders-2")
    await world.settle()
    assert "makes no Pod" not in world.condition()["message"], "it takes a moment"
    world.time.time += timedelta(seconds=40)
    await world.settle()
    assert (world.condition()["status"], world.condition()["reason"]) == ("True", "Degraded")
    assert "kubectl describe statefulset orders-2" in world.condition()["message"]
    world.refused = set()
    await world.settle()
    assert world.condition()["reason"] == "AllReady"


async def test_data_lost_names_the_restore_to_run(archiving: World) -> None:
    archiving.make_policy()
    archiving.make(backup={"policy": "nightly"})
    await archiving.settle()
    for name in archiving.names(PERSISTENT_VOLUME_CLAIM):
        archiving.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name)
    await archiving.once()
    place = f"{{objectStore: s3, path: shop/orders/{document(archiving).incarnation}}}"
    assert (
        f"to restore it, create a Database with bootstrap.restore.source: {place}" in archiving.condition()["message"]
    )


async def test_copies_never_made_of_a_primary_that_is_lost_are_data_lost(world: World) -> None:
    """New replicas have volumes, but nothing in them, and nobody to copy from any more."""
    world.make()
    await world.settle()
    world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, world.names(PERSISTENT_VOLUME_CLAIM)[0])
    for n in (1, 2, 3):
        world.agents.said[f"orders-{n}"] = AgentStatus(instance=f"orders-{n}", data="empty", phase="waiting")
    await world.once()
    assert world.condition()["reason"] == "DataLost"
    assert membership(world).numbers == (1, 2, 3)


async def test_volumes_and_lease_deleted_together_are_data_lost_too(world: World) -> None:
    world.make()
    await world.settle()
    for resource in (PERSISTENT_VOLUME_CLAIM, LEASE):
        for name in world.names(resource):
            world.server.remove(resource, NAMESPACE, name)
    world.start()
    await world.once()
    assert world.condition()["reason"] == "DataLost"
    assert not world.names(PERSISTENT_VOLUME_CLAIM)


async def test_agents_that_all_say_so_mean_data_lost(world: World) -> None:
    world.make()
    await world.settle()
    world.server.edit(LEASE, NAMESPACE, "orders-primary", lambda o: o["spec"].update(holderIdentity=""))
    lost = [Problem(reason="DataLost", message="no data")]
    world.agents.said = {
        f"orders-{n}": AgentStatus(instance=f"orders-{n}", data="empty", problems=lost, restart="") for n in (1, 2, 3)
    }
    await world.once()
    assert world.condition()["reason"] == "DataLost"


async def test_a_volume_lost_before_there_was_data_costs_a_number(world: World) -> None:
    world.make()
    await world.once()
    await world.once()
    world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, world.names(PERSISTENT_VOLUME_CLAIM)[0])
    await world.once()
    assert membership(world).numbers == (2, 3, 4)
    assert document(world).founder == "orders-2"
    await world.settle()
    assert world.condition()["status"] == "True"


async def test_volumes_grow(world: World) -> None:
    world.make()
    await world.settle()
    world.change(lambda obj: obj["spec"]["storage"].update(size="2Gi"))
    await world.settle()
    for claim in world.server.objects(PERSISTENT_VOLUME_CLAIM, NAMESPACE):
        assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert world.names(POD) == ["orders-1-0", "orders-2-0", "orders-3-0"]


async def test_a_class_that_does_not_grow_is_told(world: World) -> None:
    world.make()
    await world.settle()
    answer = failure(Rejection(403, "Forbidden", "the storage class does not allow it"))
    world.server.fail(answer, verb="patch", resource="persistentvolumeclaims", times=1000)
    world.change(lambda obj: obj["spec"]["storage"].update(size="2Gi"))
    await world.once()
    await world.once()
    assert world.condition()["status"] == "True"
    assert world.condition()["reason"] == "Degraded" or "cannot grow" in world.condition()["message"]


async def test_a_claim_that_cannot_be_made_is_an_error(world: World) -> None:
    answer = failure(Rejection(403, "Forbidden", "quota"))
    world.server.fail(answer, verb="patch", resource="persistentvolumeclaims", times=1000)
    world.make()
    await world.once()
    with pytest.raises(ApiError):
        await world.once()


async def test_a_volume_never_shrinks(world: World) -> None:
    world.make(storage={"size": "2Gi"})
    await world.settle()
    world.change(lambda obj: obj["spec"]["storage"].update(size="1Gi"))
    await world.settle()
    for claim in world.server.objects(PERSISTENT_VOLUME_CLAIM, NAMESPACE):
        assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
    assert "cannot shrink" in world.condition()["message"]


async def test_a_log_volume_of_its_own(world: World) -> None:
    world.make(instances=1, storage={"size": "1Gi", "log": {"size": "2Gi"}})
    await world.settle()
    assert [n.endswith("-log") for n in world.names(PERSISTENT_VOLUME_CLAIM)] == [False, True]
    assert membership(world).volumes[1] == uids(world, PERSISTENT_VOLUME_CLAIM)[world.names(PERSISTENT_VOLUME_CLAIM)[0]]


async def test_bug_a_primary_whose_lease_was_lost_was_taken_away_by_a_scale_down(world: World) -> None:
    world.make()
    await world.settle()
    volumes = world.names(PERSISTENT_VOLUME_CLAIM)
    unready = {"conditions": [{"type": "Ready", "status": "False"}]}
    world.server.edit(POD, NAMESPACE, "orders-1-0", lambda o: o.update(status=unready))
    world.server.remove(LEASE, NAMESPACE, "orders-primary")
    world.change(partial(scale, 2))
    for _ in range(5):  # nobody has taken the Lease yet
        await world.once()
    assert "orders-1" in world.names(STATEFUL_SET)
    assert world.names(PERSISTENT_VOLUME_CLAIM) == volumes
    await world.settle()
    assert world.names(STATEFUL_SET) == ["orders-1", "orders-2"]
