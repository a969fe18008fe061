"""Names of children that somebody else has: another Database of the namespace above all. Nothing of it is read or written."""

from __future__ import annotations

from typing import Any

import pytest
from yoban.errors import Unavailable
from yoban.kube.objects import Obj, ObjectKey, controller_of
from yoban.kube.resource import (
    CONFIG_MAP,
    LEASE,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    POD_DISRUPTION_BUDGET,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
    Resource,
)
from yoban.reconcilers.database.builders.secrets import decode, encode
from yoban.reconcilers.kinds import DATABASE

from tests.unit.reconcilers.database.world import NAMESPACE, World, uids

LABEL = "yoban.dev/database"
SUFFIXES = ("accounts", "store", "source", "1-tls")


def make(world: World, name: str) -> ObjectKey:
    """Another Database in the same namespace."""
    spec = {"engine": "keeper", "version": "2", "instances": 1, "storage": {"size": "1Gi"}}
    meta = {"name": name, "namespace": NAMESPACE, "generation": 1, "uid": f"33333333-{name}"}
    world.server.put(DATABASE, {"metadata": meta, "spec": spec})
    return ObjectKey(NAMESPACE, name)


async def keep(world: World, key: ObjectKey, passes: int = 6) -> None:
    for _ in range(passes):
        world.fill()
        await world.reconciler.reconcile(key)


def ready(world: World, key: ObjectKey) -> dict[str, Any]:
    found = world.server.find(DATABASE, *key) or {}
    return next(one for one in found["status"]["conditions"] if one["type"] == "Ready")


def controller(obj: Obj | None) -> str:
    return str((controller_of(obj or {}) or {}).get("name"))


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_bug_a_database_whose_connection_secret_had_the_name_of_anothers_child_overwrote_it(
    world: World, suffix: str
) -> None:
    world.make()
    await world.settle()
    name = f"orders-{suffix}"
    before = decode(world.find("secrets", name))
    other = make(world, name)
    await keep(world, other)
    assert decode(world.find("secrets", name)) == before
    assert controller(world.find("secrets", name)) == "orders"
    told = ready(world, other)
    assert told["reason"] == "NameTaken"
    for part in (f"Secret shop/{name}", "Database orders", "give the Database another name"):
        assert part in told["message"]
    assert not [one for one in world.names(STATEFUL_SET) if one.startswith(f"{name}-")]
    written = len(world.server.writes())
    for _ in range(3):
        await world.once()
        await keep(world, other, 1)
    assert len(world.server.writes()) == written, "neither writes against the other"
    assert world.condition()["status"] == "True"


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_bug_a_database_overwrote_the_connection_secret_of_another_that_had_the_name_of_its_own_child(
    world: World, suffix: str
) -> None:
    name = f"orders-{suffix}"
    other = make(world, name)
    await keep(world, other)
    before = decode(world.find("secrets", name))
    assert before["password"]
    world.make()
    await world.settle()
    assert world.condition()["reason"] == "NameTaken"
    assert f"Secret shop/{name}" in world.condition()["message"]
    assert decode(world.find("secrets", name)) == before
    assert controller(world.find("secrets", name)) == name


async def test_bug_a_broken_store_let_pods_mount_the_secret_of_another_database(archiving: World) -> None:
    archiving.make_policy()
    archiving.make(backup={"policy": "nightly"})
    await archiving.settle()
    archiving.server.remove(SECRET, NAMESPACE, "orders-store")
    await keep(archiving, make(archiving, "orders-store"))
    archiving.stores.documents["s3"] = Unavailable("the store does not answer")
    await archiving.once()
    assert archiving.condition()["reason"] == "NameTaken"


@pytest.mark.parametrize("name", ["orders-accounts", "orders-1-tls"])
async def test_bug_a_secret_of_somebody_elses_was_read_and_taken(world: World, name: str) -> None:
    mine = {"metadata": {"name": name, "namespace": NAMESPACE}, "data": encode({"owner": "mine", "tls.crt": "mine"})}
    world.server.put(SECRET, mine)
    world.make()
    await world.settle()
    assert world.condition()["reason"] == "NameTaken"
    assert decode(world.find("secrets", name)) == {"owner": "mine", "tls.crt": "mine"}
    assert "mine" not in decode(world.find("secrets", "orders")).values()


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (SERVICE_ACCOUNT, "orders"), (ROLE, "orders"), (ROLE_BINDING, "orders"), (SERVICE, "orders-rw"),
        (SECRET, "orders"), (CONFIG_MAP, "orders-ca"), (CONFIG_MAP, "orders-spec"), (LEASE, "orders-primary"),
        (STATEFUL_SET, "orders-1"), (POD_DISRUPTION_BUDGET, "orders"), (NETWORK_POLICY, "orders"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("owned", [True, False], ids=["of another owner", "of another Database's label"])
async def test_bug_a_cached_child_of_another_database_was_taken_over(
    world: World, resource: Resource, name: str, owned: bool
) -> None:
    world.make()
    await world.settle()

    def give_away(obj: Obj) -> None:
        (reference,) = obj["metadata"]["ownerReferences"]
        obj["metadata"]["labels"]["mark"] = "theirs"
        if owned:
            reference.update(name="stock", uid="44444444")
        else:
            del obj["metadata"]["ownerReferences"]
            obj["metadata"]["labels"][LABEL] = "stock"

    world.server.edit(resource, NAMESPACE, name, give_away)
    before = world.server.find(resource, NAMESPACE, name)
    await world.once()
    await world.once()
    assert world.server.find(resource, NAMESPACE, name) == before
    assert world.condition()["reason"] == "NameTaken"
    assert f"{resource.kind} shop/{name}" in world.condition()["message"]


async def test_a_claim_that_bears_another_databases_label_is_left_alone(world: World) -> None:
    world.make()
    await world.settle()
    name = next(iter(uids(world, PERSISTENT_VOLUME_CLAIM)))
    world.server.edit(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name, lambda o: o["metadata"]["labels"].update({LABEL: "x"}))
    await world.once()
    await world.once()
    assert world.condition()["reason"] == "NameTaken"
    claim = world.server.find(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name)
    assert claim is not None and claim["metadata"]["labels"][LABEL] == "x"


async def test_a_claim_that_lost_its_labels_gets_them_back(world: World) -> None:
    world.make()
    await world.settle()
    before = uids(world, PERSISTENT_VOLUME_CLAIM)
    for name in before:
        world.server.edit(PERSISTENT_VOLUME_CLAIM, NAMESPACE, name, lambda o: o["metadata"].pop("labels"))
    await world.settle()
    assert uids(world, PERSISTENT_VOLUME_CLAIM) == before
    for claim in world.server.objects(PERSISTENT_VOLUME_CLAIM, NAMESPACE):
        assert claim["metadata"]["labels"][LABEL] == "orders"


async def test_a_child_that_lost_its_owner_gets_it_back(world: World) -> None:
    world.make()
    await world.settle()
    world.server.edit(SERVICE, NAMESPACE, "orders-rw", lambda o: o["metadata"].pop("ownerReferences"))
    await world.settle()
    assert controller(world.find("services", "orders-rw")) == "orders"


async def test_a_cached_child_of_an_earlier_life_is_waited_for(world: World) -> None:
    world.make()
    await world.settle()
    world.server.edit(
        LEASE, NAMESPACE, "orders-primary", lambda o: o["metadata"]["ownerReferences"][0].update(uid="old")
    )
    with pytest.raises(Exception, match="earlier Database"):
        await world.once()
    world.server.remove(LEASE, NAMESPACE, "orders-primary")
    await world.settle()
    assert world.condition()["status"] == "True"
