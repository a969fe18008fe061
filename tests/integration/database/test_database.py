"""The Database reconciler against a real API server: what it makes is accepted, admitted, stable, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from yoban.kube.client import Client
from yoban.kube.clock import SystemClock
from yoban.kube.config import load_config
from yoban.kube.objects import Obj, copy, is_deleting, name_of
from yoban.kube.resource import (
    CONFIG_MAP,
    LEASE,
    NAMESPACE,
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
from yoban.plugins.registry import Registry, Source
from yoban.reconcilers.database.admit import OperatorFacts
from yoban.reconcilers.database.builders.blueprint import Runtime
from yoban.reconcilers.database.caches import CHILDREN
from yoban.reconcilers.database.controller import build
from yoban.reconcilers.kinds import BACKUP, BACKUP_POLICY, DATABASE, OBJECT_STORE
from yoban.reconcilers.shared import Shared
from yoban.reconcilers.verdicts import Verdicts
from yoban.runtime import Manager

from tests.unit.reconcilers.database.keeper import Keeper
from tests.unit.reconcilers.database.world import StubAgents, StubCatalogues, StubStores

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer

pytestmark = pytest.mark.server
CRDS = Path(__file__).parents[3] / "deploy" / "crds"
OPERATOR = "yoban-system"
KINDS_OF_CHILDREN = [r for r in CHILDREN if r is not POD]


class Observers(StubAgents):
    """Agents, catalogues and their news, without any."""

    def subscribe(self, listener: Any) -> None:
        self.listener = listener


class Places(StubCatalogues):
    def subscribe(self, listener: Any) -> None:
        self.listener = listener


class Cluster:
    """A namespace of a real API server, with an operator that works in it."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.manager = Manager(client, namespaces=None, detect_mutation=True)
        registry = Mock(spec=Registry)
        registry.engine.return_value = Keeper()
        registry.engine_source.return_value = Source("keeper", "yoban-keeper", "1")
        self.observers = Observers()
        shared = Shared(
            client=client,
            registry=registry,
            clock=SystemClock(),
            stores=StubStores(),  # type: ignore[arg-type]
            agents=Mock(),
            observatory=self.observers,  # type: ignore[arg-type]
            catalogues=Places(),  # type: ignore[arg-type]
            databases=self.manager.informer(DATABASE),
            object_stores=self.manager.informer(OBJECT_STORE),
            policies=self.manager.informer(BACKUP_POLICY),
            backups=self.manager.informer(BACKUP),
            verdicts=Verdicts(),
        )
        from yoban.reconcilers.shared import BY_POLICY, BY_STORE, policy_of, policy_stores_of, source_store_of

        shared.databases.store.add_indexer(BY_POLICY, policy_of)
        shared.databases.store.add_indexer(BY_STORE, source_store_of)
        shared.policies.store.add_indexer(BY_STORE, policy_stores_of)
        self.controller = build(self.manager, shared, OperatorFacts(OPERATOR, Runtime("registry.test/yoban:1")))

    async def make(self, name: str, **spec: Any) -> None:
        body = {"engine": "keeper", "version": "2", "instances": 2, "storage": {"size": "1Gi"}, **spec}
        await self.client.create(
            DATABASE,
            {
                "apiVersion": "yoban.dev/v1alpha1",
                "kind": "Database",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": body,
            },
        )

    async def children(self, name: str) -> dict[tuple[str, str], Obj]:
        found = {}
        for resource in KINDS_OF_CHILDREN:
            listed = await self.client.list(resource, self.namespace, labels=f"yoban.dev/database={name}")
            found |= {(resource.kind, name_of(obj)): obj for obj in listed.items}
        return found

    async def until(self, check: Callable[[], Any], what: str) -> Any:
        try:
            async with asyncio.timeout(30):
                while not (found := await check()):
                    await asyncio.sleep(0.05)
                return found
        except TimeoutError:
            raise AssertionError(f"not within 30 s: {what}") from None

    async def complete(self, name: str, instances: int) -> dict[tuple[str, str], Obj]:
        """All children, listed after the last of them was made: kinds are listed one after the other."""

        async def check() -> bool:
            made = await self.client.list(STATEFUL_SET, self.namespace, labels=f"yoban.dev/database={name}")
            database = await self.client.get(DATABASE, name, self.namespace)
            return len(made.items) == instances and bool((database.get("status") or {}).get("conditions"))

        await self.until(check, "all children")
        return await self.children(name)

    async def quiet(self, name: str) -> dict[tuple[str, str], str]:
        """Versions of everything once nothing is written any more."""

        async def versions() -> dict[tuple[str, str], str]:
            found = await self.children(name)
            database = await self.client.get(DATABASE, name, self.namespace)
            result = {key: obj["metadata"]["resourceVersion"] for key, obj in found.items()}
            return result | {("Database", name): database["metadata"]["resourceVersion"]}

        before = await versions()
        for _ in range(40):
            await asyncio.sleep(0.3)
            after = await versions()
            if after == before:
                return after
            before = after
        raise AssertionError("still writing")


@pytest.fixture
async def cluster(local_apiserver: LocalApiServer, request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    for crd in sorted(CRDS.glob("*.yaml")):
        local_apiserver.kubectl("apply", "--server-side", "-f", str(crd))
    namespace = f"db-{abs(hash(request.node.name)) % 10**8}"
    async with Client.connect(await load_config(local_apiserver.kubeconfig)) as client:
        for name in (OPERATOR, namespace):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            await client.apply(NAMESPACE, {"metadata": {"name": name, "labels": labels}})
        made = Cluster(client, namespace)
        running = asyncio.create_task(made.manager.run())
        try:
            yield made
        finally:
            made.manager.stop()
            await running


async def test_everything_is_accepted_and_a_second_pass_writes_nothing(cluster: Cluster) -> None:
    await cluster.make("orders", storage={"size": "1Gi", "log": {"size": "1Gi"}})
    found = await cluster.complete("orders", 2)
    kinds = {kind for kind, _ in found}
    assert kinds == {r.kind for r in KINDS_OF_CHILDREN}
    before = await cluster.quiet("orders")
    for _ in range(3):
        cluster.controller.enqueue(next(iter(cluster.controller.informers[0].store.keys())))
        await asyncio.sleep(0.3)
    assert await cluster.quiet("orders") == before


async def test_a_restarted_operator_writes_nothing(cluster: Cluster) -> None:
    await cluster.make("restarted")
    await cluster.complete("restarted", 2)
    before = await cluster.quiet("restarted")
    other = Cluster(cluster.client, cluster.namespace)
    running = asyncio.create_task(other.manager.run())
    await asyncio.sleep(1.5)
    assert await cluster.quiet("restarted") == before
    other.manager.stop()
    await running


async def test_pods_are_admitted_by_a_restricted_namespace(cluster: Cluster) -> None:
    await cluster.make(
        "restricted",
        resources={"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "2Gi"}},
        pod={
            "labels": {"team": "a"},
            "tolerations": [{"key": "x", "operator": "Exists"}],
            "topologySpreadConstraints": [{"topologyKey": "zone"}],
            "imagePullSecrets": [{"name": "pull"}],
        },
    )
    found = await cluster.complete("restricted", 2)
    stateful = found["StatefulSet", "restricted-1"]
    template = copy(stateful["spec"]["template"])
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "restricted-1-0", "namespace": cluster.namespace},
        "spec": template["spec"],
    }
    await cluster.client.create(POD, pod, dry_run=True)
    before = await cluster.quiet("restricted")
    assert await cluster.quiet("restricted") == before


@pytest.mark.parametrize(
    "resource",
    [
        SERVICE_ACCOUNT, ROLE, ROLE_BINDING, SERVICE, SECRET, CONFIG_MAP, LEASE, STATEFUL_SET, POD_DISRUPTION_BUDGET,
        NETWORK_POLICY,
    ],
    ids=lambda r: r.plural,
)  # fmt: skip
async def test_a_deleted_child_comes_back(cluster: Cluster, resource: Resource) -> None:
    name = f"back-{resource.plural}"[:40].rstrip("-")
    await cluster.make(name)
    found = await cluster.complete(name, 2)
    await cluster.quiet(name)
    for kind, child in found:
        if kind == resource.kind:
            await cluster.client.delete(resource, child, cluster.namespace)

    async def back() -> bool:
        now = await cluster.children(name)
        return now.keys() == found.keys() and all(
            now[key]["metadata"]["uid"] != found[key]["metadata"]["uid"] and not is_deleting(now[key])
            for key in found
            if key[0] == resource.kind
        )

    await cluster.until(back, f"{resource.plural} come back")
    before = await cluster.quiet(name)
    assert await cluster.quiet(name) == before


async def test_a_drifted_field_is_put_right(cluster: Cluster) -> None:
    await cluster.make("drift")
    await cluster.complete("drift", 2)
    await cluster.quiet("drift")
    await cluster.client.patch(SERVICE, "drift-rw", cluster.namespace, {"spec": {"selector": {"yoban.dev/role": "x"}}})

    async def right() -> bool:
        service = await cluster.client.get(SERVICE, "drift-rw", cluster.namespace)
        return bool(service["spec"]["selector"]["yoban.dev/role"] == "primary")

    await cluster.until(right, "the selector is put right")


async def test_a_deleted_database_goes_in_order(cluster: Cluster) -> None:
    await cluster.make("going", deletionPolicy="Retain")
    await cluster.complete("going", 2)
    await cluster.client.delete(DATABASE, "going", cluster.namespace)

    async def gone() -> bool:
        return await cluster.client.find(DATABASE, "going", cluster.namespace) is None

    await cluster.until(gone, "the Database is gone")
    left = await cluster.children("going")
    assert {kind for kind, _ in left} == {PERSISTENT_VOLUME_CLAIM.kind}
    authorities = await cluster.client.list(SECRET, OPERATOR)
    assert not [s for s in authorities.items if "going" in name_of(s)]
