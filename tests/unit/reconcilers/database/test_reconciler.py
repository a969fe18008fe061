"""The reconciler against a cluster in this process: creation, repair, stale caches, refusals, references, restore."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from yoban.errors import InvalidInput, Unavailable, Unsupported, YobanError
from yoban.errors import NotFound as Missing
from yoban.kube.objects import annotations_of, name_of
from yoban.kube.resource import (
    CONFIG_MAP,
    LEASE,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
    Resource,
)
from yoban.model.instance import StoreDocument
from yoban.plugins import Capability, TargetType
from yoban.reconcilers.database.builders.lease import Membership
from yoban.reconcilers.database.builders.secrets import decode
from yoban.reconcilers.database.caches import CHILDREN
from yoban.reconcilers.kinds import DATABASE

from tests.unit.reconcilers.database.keeper import Keeper
from tests.unit.reconcilers.database.world import KEY, NAMESPACE, OPERATOR, World, document, membership, scale, uids

# -- creation


async def test_three_instances_become_ready(world: World) -> None:
    world.make()
    await world.settle()
    assert world.names(STATEFUL_SET) == ["orders-1", "orders-2", "orders-3"]
    assert len(world.names(PERSISTENT_VOLUME_CLAIM)) == 3
    assert world.condition()["status"] == "True"
    assert world.condition("Archiving")["reason"] == "NoPolicy"
    assert world.status["phase"] == "Running"
    assert world.status["primary"] == "orders-1"
    assert world.status["ready"] == "3/3"
    assert world.status["version"] == "2.1"
    assert document(world).founder == "", "once there is data, nobody founds"


async def test_a_quiet_database_costs_no_request_at_all(world: World) -> None:
    world.make()
    await world.settle()
    number = len(world.server.requests)
    await world.once()
    assert len(world.server.requests) == number


async def test_the_finalizer_is_written_before_anything_is_made(world: World) -> None:
    world.make()
    await world.once()
    assert world.database["metadata"]["finalizers"] == ["yoban.dev/database"]
    assert not world.names(SERVICE)


async def test_numbers_are_on_the_lease_before_anything_bears_them(world: World) -> None:
    world.make()
    await world.settle(cluster=True)
    writes = [(w.resource, w.name) for w in world.server.writes() if w.verb in ("patch", "create")]
    first_lease = writes.index(("leases", "orders-primary"))
    assert first_lease < min(i for i, (resource, _) in enumerate(writes) if resource in ("persistentvolumeclaims",))
    claims = [i for i, (resource, _) in enumerate(writes) if resource == "persistentvolumeclaims"]
    stateful = [i for i, (resource, _) in enumerate(writes) if resource == "statefulsets"]
    assert max(claims[:3]) < min(stateful)


async def test_what_is_gone_is_forgotten(world: World) -> None:
    world.make()
    await world.settle()
    world.server.remove(DATABASE, NAMESPACE, "orders")
    assert await world.once() is None
    assert KEY not in world.agents.observed


async def test_agents_get_the_document_and_their_peers(world: World) -> None:
    world.make()
    await world.settle()
    assert world.agents.observed[KEY] == ["orders-1", "orders-2", "orders-3"]
    assert world.agents.pushed[KEY].document == document(world)
    assert world.agents.credentials is not None
    assert "BEGIN CERTIFICATE" in world.agents.credentials.certificate


async def test_no_password_is_in_events_status_or_the_document(world: World) -> None:
    world.make()
    await world.settle()
    passwords = decode(world.find("secrets", "orders-accounts")).values()
    told = str(
        [world.status, world.find("configmaps", "orders-spec"), world.events, world.server.objects(STATEFUL_SET)]
    )
    assert passwords
    assert not any(password in told for password in passwords)


# -- repair


@pytest.mark.parametrize(
    "resource",
    [SERVICE_ACCOUNT, ROLE, ROLE_BINDING, SERVICE, CONFIG_MAP, LEASE, STATEFUL_SET, SECRET, POD_DISRUPTION_BUDGET,
     NETWORK_POLICY],
    ids=lambda r: r.plural,
)  # fmt: skip
async def test_a_deleted_child_comes_back(world: World, resource: Resource) -> None:
    world.make()
    await world.settle()
    before = uids(world, resource)
    volumes = uids(world, PERSISTENT_VOLUME_CLAIM)
    for name in before:
        world.server.remove(resource, NAMESPACE, name)
    await world.settle()
    after = uids(world, resource)
    assert after.keys() == before.keys()
    assert not {*after.values()} & {*before.values()}
    assert uids(world, PERSISTENT_VOLUME_CLAIM) == volumes, "no data was touched"
    assert world.condition()["status"] == "True"
    assert document(world).founder == ""


async def test_pods_are_replaced_at_once_when_their_token_died_with_the_service_account(world: World) -> None:
    world.make()
    await world.settle()
    pods = uids(world, POD)
    for name in pods:
        world.server.edit(
            POD, NAMESPACE, name, lambda pod: pod["metadata"].update(creationTimestamp="2000-01-01T00:00:00Z")
        )
    world.server.remove(SERVICE_ACCOUNT, NAMESPACE, "orders")
    await world.settle()
    assert uids(world, POD).keys() == pods.keys()
    assert not {*uids(world, POD).values()} & {*pods.values()}
    assert "TokenLost" in str(world.events)
    assert world.condition()["status"] == "True"


async def test_a_lost_password_secret_is_made_anew_and_the_connection_follows(world: World) -> None:
    world.make()
    await world.settle()
    old = decode(world.find("secrets", "orders-accounts"))
    world.server.remove(SECRET, NAMESPACE, "orders-accounts")
    await world.settle()
    new = decode(world.find("secrets", "orders-accounts"))
    assert new.keys() == old.keys()
    assert new["owner"] != old["owner"]
    assert decode(world.find("secrets", "orders"))["password"] == new["owner"]


async def test_a_lost_authority_is_replaced_with_an_overlap(world: World) -> None:
    world.make()
    await world.settle()
    old = decode(world.find("secrets", "orders-1-tls"))
    authority = name_of(world.server.objects(SECRET, OPERATOR)[0])
    world.server.remove(SECRET, OPERATOR, authority)
    await world.settle()
    new = decode(world.find("secrets", "orders-1-tls"))
    assert new["tls.crt"] == old["tls.crt"], "what still works is kept"
    assert old["ca.crt"] in new["ca.crt"]
    assert new["ca.crt"] != old["ca.crt"]


async def test_certificates_rotate_by_themselves(world: World) -> None:
    world.make()
    await world.settle()
    old = decode(world.find("secrets", "orders-1-tls"))
    world.time.time += timedelta(days=61)
    await world.settle()
    new = decode(world.find("secrets", "orders-1-tls"))
    assert new["tls.crt"] != old["tls.crt"]
    assert new["ca.crt"] == old["ca.crt"]


async def test_a_lost_lease_keeps_its_marks(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(switchover="orders-2")
    await world.settle()
    volumes = membership(world).volumes
    world.server.remove(LEASE, NAMESPACE, "orders-primary")
    await world.once()
    lease = world.server.find(LEASE, NAMESPACE, "orders-primary")
    assert lease is not None
    notes = annotations_of(lease)
    assert notes["yoban.dev/initialized"] == document(world).incarnation
    assert notes["yoban.dev/term"] == "2"
    assert "yoban.dev/last-holder" not in notes, "whose turn it is, only the volumes know"
    assert membership(world) == Membership(3, volumes)
    assert "LeaseRestored" in world.events
    assert document(world).founder == ""


async def test_lease_document_and_caches_gone_at_once_never_found_again(world: World) -> None:
    world.make()
    await world.settle()
    world.server.remove(LEASE, NAMESPACE, "orders-primary")
    world.server.remove(CONFIG_MAP, NAMESPACE, "orders-spec")
    world.start()
    await world.once()
    assert document(world).founder == "", "the volumes tell that there is data"
    assert membership(world).numbers == (1, 2, 3)


async def test_a_lost_document_restarts_nobody_and_is_newer(world: World) -> None:
    world.make()
    await world.settle()
    world.annotate(restart="2026")
    await world.settle()
    before = document(world)
    world.time.time += timedelta(seconds=5)
    world.server.remove(CONFIG_MAP, NAMESPACE, "orders-spec")
    await world.once()
    after = document(world)
    assert after.restarts == before.restarts
    assert after.revision > before.revision


async def test_drift_is_put_right(world: World) -> None:
    world.make()
    await world.settle()
    world.server.edit(SERVICE, NAMESPACE, "orders-rw", lambda o: o["spec"]["selector"].update({"yoban.dev/role": "x"}))
    await world.settle()
    service = world.find("services", "orders-rw")
    assert service is not None
    assert service["spec"]["selector"]["yoban.dev/role"] == "primary"


async def test_a_label_that_was_taken_off_is_put_back(world: World) -> None:
    world.make()
    await world.settle()
    world.server.edit(SERVICE, NAMESPACE, "orders-rw", lambda o: o["metadata"].pop("labels"))
    await world.settle()
    service = world.find("services", "orders-rw")
    assert service is not None
    assert service["metadata"]["labels"]["yoban.dev/database"] == "orders"


@pytest.mark.parametrize("resource", [SECRET, PERSISTENT_VOLUME_CLAIM, LEASE, STATEFUL_SET, CONFIG_MAP])
async def test_a_cache_that_is_behind_destroys_nothing(world: World, resource: Resource) -> None:
    world.make()
    await world.settle()
    accounts, volumes = decode(world.find("secrets", "orders-accounts")), uids(world, PERSISTENT_VOLUME_CLAIM)
    ca = decode(world.server.objects(SECRET, OPERATOR)[0])["signer.crt"]
    world.lying = {resource}
    for _ in range(3):
        await world.once()
    world.lying = set()
    await world.settle()
    assert decode(world.find("secrets", "orders-accounts")) == accounts
    assert decode(world.server.objects(SECRET, OPERATOR)[0])["signer.crt"] == ca
    assert uids(world, PERSISTENT_VOLUME_CLAIM) == volumes
    assert membership(world).last == 3
    assert world.names(STATEFUL_SET) == ["orders-1", "orders-2", "orders-3"]


async def test_a_lease_in_the_cache_that_is_behind_takes_no_instance_away(world: World) -> None:
    world.make()
    await world.settle()
    stale = world.server.find(LEASE, NAMESPACE, "orders-primary")
    assert stale is not None
    world.change(partial(scale, 4))
    await world.settle()
    world.change(partial(scale, 3))
    world.fill()
    world.caches.children[LEASE].replace([stale], None)
    await world.reconciler.reconcile(KEY)
    assert "orders-4" in world.names(STATEFUL_SET), "the Lease as it is says that it is a member"
    await world.settle()
    assert world.names(STATEFUL_SET) == ["orders-1", "orders-2", "orders-3"]


async def test_somebody_elses_object_is_left_alone(world: World) -> None:
    world.server.put(SECRET, {"metadata": {"name": "orders", "namespace": NAMESPACE}, "data": {"mine": "eA=="}})
    world.make()
    await world.once()
    await world.once()
    assert world.condition()["reason"] == "NameTaken"
    assert world.find("secrets", "orders") is not None
    assert decode(world.find("secrets", "orders")) == {"mine": "x"}


async def test_an_object_of_an_earlier_life_is_waited_for(world: World) -> None:
    owner = {"apiVersion": "yoban.dev/v1alpha1", "kind": "Database", "name": "orders", "uid": "old", "controller": True}
    world.server.put(SERVICE, {"metadata": {"name": "orders-rw", "namespace": NAMESPACE, "ownerReferences": [owner]}})
    world.make()
    await world.once()
    with pytest.raises(Exception, match="earlier Database"):
        await world.once()
    assert world.condition()["reason"] == "NotReady"
    world.server.remove(SERVICE, NAMESPACE, "orders-rw")
    await world.settle()
    assert world.condition()["status"] == "True"


async def test_a_child_on_its_way_out_is_waited_for(world: World) -> None:
    world.make()
    await world.settle()
    world.server.edit(SERVICE, NAMESPACE, "orders-rw", lambda o: o["metadata"].update(finalizers=["x/y"]))
    await world.client.delete(SERVICE, "orders-rw", NAMESPACE)
    with pytest.raises(Exception, match="being deleted"):
        await world.once()


# -- wrong specifications


@pytest.mark.parametrize(
    ("spec", "reason", "word"),
    [
        ({"version": "9"}, "VersionUnsupported", "choose one of: 2, 1"),
        ({"version": None, "image": "registry.test/other:latest"}, "VersionUnsupported", "does not tell"),
        ({"settings": {"fixed": "1", "refused": "2"}}, "SettingRefused", "fixed is set by the operator"),
        ({"engineConfig": {"local": "C"}}, "EngineConfigInvalid", "engineConfig.local is unknown"),
        ({"backup": {"policy": "nightly"}}, "BackupUnsupported", "no backups"),
        ({"bootstrap": {"restore": {"source": {"database": "x"}}}}, "RestoreUnsupported", "no restores"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_wrong_specification_is_told_and_nothing_made(
    world: World, spec: dict[str, Any], reason: str, word: str
) -> None:
    world.make(**spec)
    await world.settle()
    assert world.condition()["status"] == "False"
    assert world.condition()["reason"] == reason
    assert word in world.condition()["message"]
    assert world.status["phase"] == "Failed"
    assert not world.names(STATEFUL_SET)


@pytest.mark.parametrize(
    ("lacks", "spec", "reason"),
    [
        (Capability.REPLICAS, {}, "ReplicasUnsupported"),
        (Capability.SYNCHRONOUS, {"durability": {"mode": "synchronous"}}, "DurabilityUnsupported"),
        (Capability.LOG_VOLUME, {"storage": {"size": "1Gi", "log": {"size": "1Gi"}}}, "LogVolumeUnsupported"),
    ],
    ids=lambda value: value.value if isinstance(value, Capability) else None,
)
async def test_what_the_engine_lacks_is_refused(lacks: Capability, spec: dict[str, Any], reason: str) -> None:
    engine = Keeper()
    engine.capable = Keeper.capable - {lacks}
    world = World(engine)
    world.make(**spec)
    await world.settle()
    assert world.condition()["reason"] == reason


async def test_an_engine_without_a_place_for_a_log_volume(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    layout = dataclasses.replace(Keeper().layout("2"), log_mount=None)
    monkeypatch.setattr(Keeper, "layout", lambda self, version: layout)
    world.make(storage={"size": "1Gi", "log": {"size": "1Gi"}})
    await world.settle()
    assert world.condition()["reason"] == "LogVolumeUnsupported"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidInput("there is no engine x", reason="UnknownEngine"), "EngineUnknown"),
        (Unsupported("its plugin is disabled", reason="PluginDisabled"), "PluginDisabled"),
    ],
)
async def test_an_engine_that_is_not_there(world: World, error: Exception, reason: str) -> None:
    world.registry.engine.side_effect = error
    world.make()
    await world.settle()
    assert world.condition()["reason"] == reason


async def test_what_cannot_be_read_is_told(world: World) -> None:
    world.make(instances="three")
    await world.once()
    assert world.condition()["reason"] == "InvalidSpec"
    assert "instances" in world.condition()["message"]


async def test_a_wrong_change_leaves_the_running_database_alone(world: World) -> None:
    world.make()
    await world.settle()
    before = {r.plural: uids(world, r) for r in CHILDREN}
    world.change(lambda obj: obj["spec"].update(settings={"fixed": "1"}))
    await world.settle()
    assert world.condition()["reason"] == "SettingRefused"
    assert {r.plural: uids(world, r) for r in CHILDREN} == before
    assert document(world).settings == {}


# -- references


async def test_the_archive_goes_into_document_and_secret(archiving: World) -> None:
    archiving.make_policy()
    archiving.make(backup={"policy": "nightly"})
    await archiving.settle()
    archive = document(archiving).archive
    assert archive is not None
    assert archive.path == f"shop/orders/{document(archiving).incarnation}"
    assert archive.policy == "nightly"
    assert "hidden" in decode(archiving.find("secrets", "orders-store"))["store.json"]
    assert decode(archiving.find("secrets", "orders-source"))["store.json"] == "{}"
    assert archiving.condition("Archiving")["status"] == "True"


async def test_a_missing_policy_is_waited_for_before_anything_is_made(archiving: World) -> None:
    archiving.make(backup={"policy": "nightly"})
    await archiving.settle()
    assert archiving.condition()["reason"] == "PolicyMissing"
    assert not archiving.names(STATEFUL_SET)
    archiving.make_policy()
    await archiving.settle()
    assert archiving.condition()["status"] == "True"


async def test_a_store_that_breaks_later_leaves_the_archive_as_it_was(archiving: World) -> None:
    archiving.make_policy()
    archiving.make(backup={"policy": "nightly"})
    await archiving.settle()
    before, secret = document(archiving), decode(archiving.find("secrets", "orders-store"))
    archiving.stores.documents["s3"] = Missing("its Secret is gone", object="Secret shop/x", reason="SecretMissing")
    await archiving.settle()
    assert document(archiving).archive == before.archive
    assert decode(archiving.find("secrets", "orders-store")) == secret
    assert "its Secret is gone" in archiving.condition()["message"]
    archiving.server.remove(STATEFUL_SET, NAMESPACE, "orders-2")
    await archiving.settle()
    assert "orders-2" in archiving.names(STATEFUL_SET), "everything else goes on"


async def test_bug_a_document_made_anew_while_the_store_was_broken_had_the_log_stored_nowhere(archiving: World) -> None:
    archiving.make_policy()
    archiving.make(backup={"policy": "nightly"})
    await archiving.settle()
    before = document(archiving).archive
    assert before is not None
    archiving.stores.documents["s3"] = Missing("its Secret is gone", object="Secret shop/x", reason="SecretMissing")
    archiving.server.remove(CONFIG_MAP, NAMESPACE, "orders-spec")
    await archiving.settle()
    archive = document(archiving).archive
    assert archive is not None and archive.path == before.path
    archiving.stores.documents["s3"] = StoreDocument(provider="memory", bucket="b", credentials={"key": "hidden"})
    await archiving.settle()
    assert document(archiving).archive == before


RESTORE = {"restore": {"source": {"objectStore": "s3", "path": "shop/old/0123456789ab"}, "target": {"type": "latest"}}}


async def test_a_restore_is_checked_and_then_given_to_the_founder(archiving: World) -> None:
    archiving.make(bootstrap=RESTORE)
    await archiving.settle()
    assert archiving.condition()["reason"] == "CheckingSource"
    assert not archiving.names(STATEFUL_SET)
    assert archiving.catalogues.asked == ["shop/old/0123456789ab"] * len(archiving.catalogues.asked)
    archiving.catalogues.answer = object()
    archiving.fill()
    await archiving.once()
    restore = document(archiving).restore
    assert restore is not None
    assert restore.path == "shop/old/0123456789ab"
    assert document(archiving).founder == "orders-1"
    assert archiving.status["phase"] == "Restoring"
    assert "hidden" in decode(archiving.find("secrets", "orders-source"))["store.json"]
    await archiving.settle()
    assert archiving.condition()["status"] == "True"
    assert document(archiving).restore is None, "the source is not needed any more"
    archiving.stores.documents.clear()
    await archiving.settle()
    assert archiving.condition()["status"] == "True"


@pytest.mark.parametrize(
    "error",
    [
        Missing("its Secret is gone", object="Secret shop/x", reason="SecretMissing"),
        Unavailable("the API server does not answer"),
    ],
    ids=["for good", "for a moment"],
)
async def test_bug_a_source_that_went_while_it_was_restored_made_an_empty_database_in_its_place(
    archiving: World, error: YobanError
) -> None:
    archiving.catalogues.answer = object()
    archiving.make(bootstrap=RESTORE)
    await archiving.once()
    await archiving.once()
    before = document(archiving)
    assert before.restore is not None and before.founder == "orders-1"
    archiving.stores.documents["s3"] = error
    await archiving.once()
    assert document(archiving).restore == before.restore
    assert "hidden" in decode(archiving.find("secrets", "orders-source"))["store.json"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (InvalidInput("the window is 1 to 2", reason="TargetOutsideWindow"), "TargetOutsideWindow"),
        (Unavailable("the store does not answer"), "Unavailable"),
    ],
)
async def test_a_restore_that_cannot_be_makes_nothing(archiving: World, answer: Exception, reason: str) -> None:
    archiving.catalogues.answer = answer
    archiving.make(bootstrap=RESTORE)
    await archiving.settle()
    assert archiving.condition()["reason"] == reason
    assert str(answer) in archiving.condition()["message"]
    assert not archiving.names(PERSISTENT_VOLUME_CLAIM)


async def test_a_restore_from_a_database_of_the_namespace(archiving: World) -> None:
    archiving.make_policy()
    other = {"engine": "keeper", "version": "2", "storage": {"size": "1Gi"}, "backup": {"policy": "nightly"}}
    archiving.server.put(DATABASE, {"metadata": {"name": "old", "namespace": NAMESPACE, "uid": "u"}, "spec": other})
    archiving.catalogues.answer = object()
    archiving.make(bootstrap={"restore": {"source": {"database": "old"}}})
    await archiving.once()
    await archiving.once()
    restore = document(archiving).restore
    assert restore is not None
    assert restore.path.startswith("shop/old/")


@pytest.mark.parametrize("source", ["nobody", "bare", "orders"])
async def test_a_source_that_is_not_there(archiving: World, source: str) -> None:
    bare = {"engine": "keeper", "version": "2", "storage": {"size": "1Gi"}}
    archiving.server.put(DATABASE, {"metadata": {"name": "bare", "namespace": NAMESPACE}, "spec": bare})
    archiving.make_policy()
    archiving.make(bootstrap={"restore": {"source": {"database": source}}}, backup={"policy": "nightly"})
    await archiving.settle()
    assert archiving.condition()["reason"] == "SourceMissing"


async def test_the_engine_parses_the_target(archiving: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Targets:
        def parse(self, target: Any) -> Any:
            assert target.type is TargetType.LATEST
            raise InvalidInput("that is no target")

    monkeypatch.setattr(Keeper, "targets", Targets())
    archiving.make(bootstrap=RESTORE)
    await archiving.settle()
    assert archiving.condition()["reason"] == "TargetInvalid"
