"""What is done to instances that exist: upgrades, rollouts, switchover, restart, pause, settings."""

from __future__ import annotations

import pytest
from yoban.kube.objects import annotations_of
from yoban.kube.resource import (
    LEASE,
    POD,
)
from yoban.reconcilers.database.builders.blueprint import Runtime

from tests.unit.reconcilers.database.world import NAMESPACE, World, document, membership, uids


async def test_an_operator_upgrade_writes_and_restarts_nothing(world: World) -> None:
    world.make()
    await world.settle()
    pods, number = uids(world, POD), len(world.server.writes())
    world.runtime = Runtime("registry.test/yoban:2", env={"YOBAN_PLUGINS": "keeper,other"})
    world.start()
    await world.settle()
    assert uids(world, POD) == pods
    assert [w.resource for w in world.server.writes()[number:] if w.resource == "statefulsets"] == []
    world.change(lambda obj: obj["spec"].update(instances=4))
    await world.settle()
    newest = world.find("statefulsets", "orders-4")
    assert newest is not None
    assert newest["spec"]["template"]["spec"]["initContainers"][0]["image"] == "registry.test/yoban:2"


async def test_the_owner_moves_pods_to_the_new_release(world: World) -> None:
    world.make()
    await world.settle()
    world.runtime = Runtime("registry.test/yoban:2")
    world.start()
    world.annotate(update="2026-01-01")
    await world.settle()
    images = {p["spec"]["initContainers"][0]["image"] for p in world.server.objects(POD, NAMESPACE)}
    assert images == {"registry.test/yoban:2"}


async def test_a_rollout_takes_replicas_first_and_one_at_a_time(world: World) -> None:
    world.make()
    await world.settle()
    old = uids(world, POD)
    world.change(lambda obj: obj["spec"].update(image="registry.test/keeper:2.1"))
    order: list[str] = []
    for _ in range(30):
        await world.once()
        gone = [name for name in old if name not in uids(world, POD)]
        assert len(gone) <= 1
        order += [name for name in gone if name not in order]
        world.work()
        old |= uids(world, POD)
    assert order == ["orders-2-0", "orders-3-0", "orders-1-0"]
    assert world.status["primary"] != "orders-1", "the primary was relieved first"
    images = {p["spec"]["containers"][0]["image"] for p in world.server.objects(POD, NAMESPACE)}
    assert images == {"registry.test/keeper:2.1"}


async def test_a_pod_is_not_replaced_before_its_stateful_set_was_seen(world: World) -> None:
    world.make(instances=1)
    await world.settle()
    pod = uids(world, POD)
    world.change(lambda obj: obj["spec"].update(image="registry.test/keeper:2.1"))
    for _ in range(3):
        await world.once()  # the StatefulSet's controller sleeps
    assert uids(world, POD) == pod
    await world.settle()
    assert uids(world, POD) != pod


async def test_switchover_by_annotation_is_done_once_and_told(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover="orders-2")
    await world.settle()
    assert world.status["primary"] == "orders-2"
    assert world.status["switchover"] == {"id": "orders-2", "state": "done", "message": ""}
    assert world.database["metadata"]["annotations"]["yoban.dev/switchover"] == "orders-2"
    term = annotations_of(world.server.find(LEASE, NAMESPACE, "orders-primary") or {})["yoban.dev/term"]
    world.start()
    await world.settle()
    assert annotations_of(world.server.find(LEASE, NAMESPACE, "orders-primary") or {})["yoban.dev/term"] == term


async def test_switchover_to_nobody_in_particular_takes_the_best(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover="")
    await world.settle()
    assert world.status["primary"] == "orders-2"
    assert world.status["switchover"]["id"] == "best"


async def test_bug_a_switchover_was_carried_out_again_after_each_rolling_update(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover="orders-2")
    await world.settle()
    assert world.status["primary"] == "orders-2"
    world.change(lambda obj: obj["spec"].update(resources={"limits": {"memory": "3Gi"}}))
    await world.settle()
    lease = annotations_of(world.server.find(LEASE, NAMESPACE, "orders-primary") or {})
    assert lease["yoban.dev/switchover"].startswith("update-")
    assert lease["yoban.dev/term"] == "3", "one switchover for the request, one for the update"
    assert world.status["primary"] != "orders-2"
    assert world.status["switchover"]["state"] == "done"


@pytest.mark.parametrize("value", ["", "orders-2"])
async def test_bug_a_second_request_in_the_words_of_the_first_was_never_carried_out(world: World, value: str) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover=value)
    await world.settle()
    assert world.status["primary"] == "orders-2"
    world.change(lambda obj: obj["metadata"]["annotations"].pop("yoban.dev/switchover"), spec=False)
    await world.settle()
    world.annotate(switchover=value)
    await world.settle()
    term = annotations_of(world.server.find(LEASE, NAMESPACE, "orders-primary") or {})["yoban.dev/term"]
    if value:
        assert world.status["switchover"]["state"] == "failed", "it reigns already"
        assert (world.status["primary"], term) == ("orders-2", "2")
    else:
        assert (world.status["switchover"]["id"], world.status["switchover"]["state"]) == ("best#2", "done")
        assert (world.status["primary"], term) == ("orders-1", "3")


async def test_bug_a_switchover_was_carried_out_again_when_the_lease_was_lost(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover="orders-2")
    await world.settle()
    world.change(lambda obj: obj["spec"].update(resources={"limits": {"memory": "3Gi"}}))
    await world.settle()
    reigns = world.status["primary"]
    assert reigns != "orders-2"
    world.server.remove(LEASE, NAMESPACE, "orders-primary")
    await world.settle()
    lease = annotations_of(world.server.find(LEASE, NAMESPACE, "orders-primary") or {})
    assert world.status["primary"] == reigns
    assert '"begun":true' in lease["yoban.dev/switchover-asked"]
    assert world.status["switchover"]["state"] == "done"


async def test_bug_a_request_told_as_failed_was_carried_out_weeks_later(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover="orders-1")
    await world.settle()
    assert world.status["switchover"]["state"] == "failed"
    world.change(lambda obj: obj["spec"].update(resources={"limits": {"memory": "3Gi"}}))
    await world.settle()
    lease = annotations_of(world.server.find(LEASE, NAMESPACE, "orders-primary") or {})
    assert lease["yoban.dev/term"] == "2", "one switchover, for the update"
    assert world.status["primary"] != "orders-1"
    assert world.status["switchover"]["state"] == "failed"


async def test_bug_a_change_of_version_was_rolled_out_to_data_that_it_cannot_run(world: World) -> None:
    world.make()
    await world.settle()
    pods = uids(world, POD)
    world.change(lambda obj: obj["spec"].update(version="1"))
    await world.settle()
    assert world.condition()["reason"] == "VersionChangeUnsupported"
    assert world.status["ready"] == "3/3", "it goes on as it is"
    assert uids(world, POD) == pods
    assert document(world).version == "2"
    world.change(lambda obj: obj["spec"].update(version="2"))
    await world.settle()
    assert world.condition()["reason"] == "AllReady"


async def test_switchover_to_somebody_unknown_is_refused(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover="orders-9")
    await world.settle()
    assert world.status["switchover"]["state"] == "failed"
    assert "orders-2, orders-3" in world.status["switchover"]["message"]
    assert world.status["primary"] == "orders-1"


async def test_a_restart_reaches_every_server_once(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(restart="2026-01-01")
    await world.settle()
    assert document(world).restarts == {f"orders-{n}": "2026-01-01" for n in (1, 2, 3)}
    assert world.status["restart"] == "2026-01-01"
    revision = document(world).revision
    await world.settle()
    assert document(world).revision == revision


async def test_paused_changes_nothing_but_tells_the_agents(world: World) -> None:
    world.make()
    await world.settle()
    pods = uids(world, POD)
    world.change(lambda obj: obj["spec"].update(paused=True, instances=5, image="registry.test/keeper:2.1"))
    world.annotate(switchover="orders-2")
    await world.settle()
    assert document(world).paused
    assert uids(world, POD) == pods
    assert world.status["primary"] == "orders-1"
    assert membership(world).numbers == (1, 2, 3)
    world.change(lambda obj: obj["spec"].update(paused=False))
    await world.settle()
    assert membership(world).numbers == (1, 2, 3, 4, 5)
    assert world.condition()["status"] == "True"


async def test_settings_reach_the_document_with_an_order_of_restarts(world: World) -> None:
    world.make(settings={"slots": "10"})
    await world.settle()
    world.change(lambda obj: obj["spec"].update(settings={"slots": "5", "color": "red"}))
    await world.settle()
    assert document(world).settings == {"slots": "5", "color": "red"}
    config = world.find("configmaps", "orders-spec")
    assert config is not None
    assert annotations_of(config)["yoban.dev/restart-order"] == "primary"
    world.change(lambda obj: obj["spec"].update(settings={"slots": "7"}))
    await world.settle()
    assert annotations_of(world.find("configmaps", "orders-spec") or {})["yoban.dev/restart-order"] == "replicas"
