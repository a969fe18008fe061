"""An operator that is killed between any two writes, at every one of them, loses nothing and does nothing twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from yoban.kube.objects import annotations_of, name_of
from yoban.kube.resource import LEASE, PERSISTENT_VOLUME_CLAIM, POD, SECRET, STATEFUL_SET
from yoban.reconcilers.database.builders.document import read
from yoban.reconcilers.database.builders.lease import Membership
from yoban.reconcilers.database.builders.secrets import decode
from yoban.reconcilers.database.caches import CHILDREN
from yoban.reconcilers.kinds import DATABASE

from tests.unit.reconcilers.database.keeper import Keeper
from tests.unit.reconcilers.database.world import NAMESPACE, OPERATOR, Killed, World

Scenario = Callable[[World], Awaitable[None]]


class Invariants:
    """What must hold at every moment, whatever was killed; `check` after each pass."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.founders: set[str] = set()
        self.given: dict[str, str] = {}
        self.last = 0
        self.passwords: dict[str, str] = {}

    def check(self) -> None:
        document = read(self.world.find("configmaps", "orders-spec"))
        if document is not None and document.founder:
            self.founders.add(document.founder)
        assert len(self.founders) <= 1, "two instances may never both make the data"
        for claim in self.world.server.objects(PERSISTENT_VOLUME_CLAIM, NAMESPACE):
            name, uid = name_of(claim), claim["metadata"]["uid"]
            assert self.given.setdefault(name, uid) == uid, "a number was used for two volumes"
        lease = self.world.server.find(LEASE, NAMESPACE, "orders-primary")
        if lease is not None:
            membership = Membership.parse(annotations_of(lease))
            assert membership.last >= self.last, "a number was taken back"
            self.last = membership.last
        for stateful in self.world.server.objects(STATEFUL_SET, NAMESPACE):
            number = int(name_of(stateful).rpartition("-")[2])
            assert number <= self.last, "something was made before its number was written down"
        found = decode(self.world.server.find(SECRET, NAMESPACE, "orders-accounts"))
        if found:
            assert not self.passwords or found == self.passwords, "a password changed"
            self.passwords = found


async def created(world: World) -> None:
    world.make()


async def scaled_down(world: World) -> None:
    world.change(lambda obj: obj["spec"].update(instances=1))


async def volume_deleted(world: World) -> None:
    world.server.remove(PERSISTENT_VOLUME_CLAIM, NAMESPACE, world.names(PERSISTENT_VOLUME_CLAIM)[1])
    world.server.remove(POD, NAMESPACE, "orders-2-0")


async def image_changed(world: World) -> None:
    world.change(lambda obj: obj["spec"].update(image="registry.test/keeper:2.1"))


async def deleted(world: World) -> None:
    await world.delete()


async def through_all_crashes(engine: Any, before: list[Scenario], scenario: Scenario) -> list[World]:
    """Run `scenario` again and again, killing the operator at each of its writes in turn; the worlds at their ends."""
    worlds = []
    for k in range(200):
        world = World(engine)
        invariants = Invariants(world)
        for step in before:
            await step(world)
            await world.settle()
        await scenario(world)
        world.kill_after(k)
        killed = False
        for _ in range(40):
            number = len(world.server.writes())
            version = world.server.version
            try:
                await world.once()
            except Killed:
                killed = True
                world.server.faults.clear()
                world.start()
            invariants.check()
            world.work()
            invariants.check()
            if len(world.server.writes()) == number and world.server.version == version:
                break
        worlds.append(world)
        if not killed:
            return worlds
        world.server.faults.clear()
    raise AssertionError("the scenario never ends")


def picture(world: World) -> dict[str, list[str]]:
    found = {resource.plural: world.names(resource) for resource in CHILDREN}
    return {**found, "authorities": [name_of(o) for o in world.server.objects(SECRET, OPERATOR)]}


@pytest.mark.parametrize(
    ("before", "scenario"),
    [
        ([], created),
        ([created], scaled_down),
        ([created], volume_deleted),
        ([created], image_changed),
        ([created], deleted),
    ],
    ids=["create", "scale down", "volume deleted", "rollout", "delete"],
)
async def test_killed_at_every_write(before: list[Scenario], scenario: Scenario) -> None:
    worlds = await through_all_crashes(Keeper(), before, scenario)
    assert len(worlds) > 3
    # The last one was never killed: all others must have come to the same end.
    expected = picture(worlds[-1])
    for k, world in enumerate(worlds[:-1]):
        assert picture(world) == expected, f"killed at write {k}"
    if scenario is not deleted:
        assert all(world.condition()["status"] == "True" for world in worlds)
        number = len(worlds[-1].server.writes())
        await worlds[-1].once()
        assert len(worlds[-1].server.writes()) == number, "a second pass writes nothing"
    else:
        assert all(world.server.find(DATABASE, NAMESPACE, "orders") is None for world in worlds)
