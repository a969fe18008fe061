"""A primary whose volume is gone: who takes over, and when nobody is named."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from yoban.kube.objects import annotations_of
from yoban.kube.resource import LEASE, PERSISTENT_VOLUME_CLAIM, POD, STATEFUL_SET

from tests.unit.reconcilers.database.world import KEY, NAMESPACE, World


@pytest.fixture
async def orphaned(world: World) -> World:
    """Three instances; the primary's volume and Pod are gone, its Lease is not given up."""
    world.make()
    await world.settle()
    world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, world.names(PERSISTENT_VOLUME_CLAIM)[0])
    world.server.remove(POD, NAMESPACE, "orders-1-0")
    del world.agents.said["orders-1"]
    at(world, 2, "10")
    at(world, 3, "12")
    return world


def at(
    world: World,
    number: int,
    position: str,
    *,
    received: str = "",
    received_known: bool = True,
    upstream: bool = False,
    **changes: Any,
) -> None:
    said = world.agents.said[f"orders-{number}"]
    assert said.server is not None
    server = msgspec.structs.replace(
        said.server, position=position, received=received, received_known=received_known, upstream=upstream
    )
    world.agents.said[f"orders-{number}"] = msgspec.structs.replace(said, server=server, **changes)


async def after_the_lease(world: World) -> None:
    await world.once()
    world.time.time += timedelta(seconds=31)
    await world.once()


def lease(world: World) -> dict[str, Any]:
    found = world.server.find(LEASE, NAMESPACE, "orders-primary")
    assert found is not None
    return found


def successor(world: World) -> str:
    return annotations_of(lease(world)).get("yoban.dev/successor", "")


async def test_the_furthest_takes_over_and_the_lost_one_gets_a_new_number(orphaned: World) -> None:
    await after_the_lease(orphaned)
    assert successor(orphaned) == "orders-3"
    assert annotations_of(lease(orphaned))["yoban.dev/position"] == "12"
    assert not lease(orphaned)["spec"]["holderIdentity"]
    assert "PrimaryLost" in orphaned.events
    await orphaned.once()
    assert orphaned.events.count("PrimaryLost") == 1
    orphaned.server.edit(LEASE, NAMESPACE, "orders-primary", lambda o: o["spec"].update(holderIdentity="orders-3"))
    await orphaned.settle()
    assert orphaned.names(STATEFUL_SET) == ["orders-2", "orders-3", "orders-4"]
    assert orphaned.status["primary"] == "orders-3"


async def test_a_lease_that_is_renewed_names_nobody(orphaned: World) -> None:
    for n in range(4):
        orphaned.server.edit(LEASE, NAMESPACE, "orders-primary", lambda o, n=n: o["spec"].update(renewTime=str(n)))  # type: ignore[misc]
        orphaned.time.time += timedelta(seconds=15)
        await orphaned.once()
    assert successor(orphaned) == ""


async def test_a_lease_that_was_given_up_is_not_waited_for(orphaned: World) -> None:
    orphaned.server.edit(LEASE, NAMESPACE, "orders-primary", lambda o: o["spec"].update(holderIdentity=""))
    await orphaned.once()
    assert successor(orphaned) == "orders-3"


async def test_a_primary_that_may_run_keeps_its_place(orphaned: World) -> None:
    stateful = orphaned.server.find(STATEFUL_SET, NAMESPACE, "orders-1")
    assert stateful is not None
    metadata = {"name": "orders-1-0", "namespace": NAMESPACE, **stateful["spec"]["template"]["metadata"]}
    pod = {"metadata": metadata, "status": {"phase": "Running"}}
    orphaned.server.put(POD, pod)
    await after_the_lease(orphaned)
    assert successor(orphaned) == ""
    orphaned.server.edit(POD, NAMESPACE, "orders-1-0", lambda o: o["status"].update(phase="Pending"))
    await orphaned.once()
    assert successor(orphaned) == "orders-3", "without its volume it never starts"


async def test_an_instance_not_heard_is_waited_for(orphaned: World) -> None:
    del orphaned.agents.said["orders-2"]
    await after_the_lease(orphaned)
    assert successor(orphaned) == ""


async def test_an_instance_that_cannot_tell_its_place_is_waited_for(orphaned: World) -> None:
    at(orphaned, 2, "")
    await after_the_lease(orphaned)
    assert successor(orphaned) == ""


async def test_an_empty_copy_is_no_heir(orphaned: World) -> None:
    at(orphaned, 3, "99", data="making", ready=False)
    await after_the_lease(orphaned)
    assert successor(orphaned) == "orders-2"


async def test_histories_that_cannot_be_compared_are_left_to_a_person(orphaned: World) -> None:
    at(orphaned, 3, "?")
    await after_the_lease(orphaned)
    assert successor(orphaned) == ""


async def test_a_renewal_in_between_wins(orphaned: World) -> None:
    orphaned.server.edit(LEASE, NAMESPACE, "orders-primary", lambda o: o["spec"].update(holderIdentity=""))
    orphaned.fill()
    orphaned.server.edit(LEASE, NAMESPACE, "orders-primary", lambda o: o["spec"].update(holderIdentity="orders-1"))
    with pytest.raises(Exception, match=r"modified|changed|Conflict|version"):
        await orphaned.reconciler.reconcile(KEY)
    assert lease(orphaned)["spec"]["holderIdentity"] == "orders-1"


async def test_paused_names_nobody(orphaned: World) -> None:
    orphaned.change(lambda obj: obj["spec"].update(paused=True))
    await after_the_lease(orphaned)
    assert successor(orphaned) == ""


async def test_bug_the_heir_was_who_had_replayed_most_not_who_had_received_most(orphaned: World) -> None:
    # What a replica has confirmed lies in its log, and may not be replayed yet: a query or a slow applier holds it up.
    at(orphaned, 2, "10", received="15")
    at(orphaned, 3, "12", received="12")
    await after_the_lease(orphaned)
    assert successor(orphaned) == "orders-2"
    # It may take the Lease at once: it replays what it has received before it takes writes.
    assert annotations_of(lease(orphaned))["yoban.dev/position"] == "10"


async def test_an_older_agent_that_does_not_tell_what_it_received_is_judged_by_what_it_replayed(
    orphaned: World,
) -> None:
    at(orphaned, 2, "13")
    at(orphaned, 3, "12", received="12")
    await after_the_lease(orphaned)
    assert successor(orphaned) == "orders-2"


async def test_bug_an_instance_that_still_reads_what_it_has_was_judged_by_what_it_had_replayed(orphaned: World) -> None:
    # A replica that was started anew without a source replays what it had stored before it can tell how much that is.
    at(orphaned, 2, "10", received="10", received_known=False)
    at(orphaned, 3, "12", received="12")
    await after_the_lease(orphaned)
    assert successor(orphaned) == ""
    at(orphaned, 2, "15", received="15")
    await orphaned.once()
    assert successor(orphaned) == "orders-2"


async def test_bug_what_an_instance_told_before_its_source_went_decided(orphaned: World) -> None:
    # Places are told twice a minute, the loss of the source at once.
    at(orphaned, 2, "10", received="10", upstream=True)
    await after_the_lease(orphaned)
    assert successor(orphaned) == ""
    at(orphaned, 2, "14", received="14")
    await orphaned.once()
    assert successor(orphaned) == "orders-2"
