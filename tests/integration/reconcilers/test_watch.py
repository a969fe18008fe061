"""The controllers of stores and backups against a real API server and a real S3 server; agents are played."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import yaml
from yoban.kube.client import Client
from yoban.kube.config import load_config
from yoban.kube.objects import ObjectKey
from yoban.model.control import BackupResult, Problem
from yoban.model.instance import Member
from yoban.plugins.registry import Registry
from yoban.reconcilers import backup, backuppolicy, objectstore
from yoban.reconcilers.kinds import BACKUP, DATABASE, OBJECT_STORE
from yoban.reconcilers.shared import Shared, share
from yoban.runtime import Manager

from tests.unit.domain.counting import LoglessEngine
from tests.unit.reconcilers.watch.world import CREDENTIALS, Engines, FakeAgent, FakeAgents, primary

pytestmark = pytest.mark.server


class Operator:
    """A running operator, and what tests ask the API server."""

    def __init__(self, api: Any, store: Any, client: Client, shared: Shared, agents: FakeAgents, ns: str) -> None:
        self.api, self.store, self.client, self.shared, self.agents, self.ns = api, store, client, shared, agents, ns

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        metadata = {"name": name, "namespace": self.ns}
        obj = {"apiVersion": "yoban.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
        self.api.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(obj))

    def bucket(self, name: str, **spec: Any) -> None:
        self.apply(
            "ObjectStore",
            "s3",
            {
                "provider": "s3",
                "bucket": name,
                "endpoint": self.store.endpoint,
                "region": self.store.region,
                "credentials": {"secret": "s3"},
                "create": True,
            }
            | spec,
        )

    async def until(self, found: Callable[[], Any], seconds: float = 60.0) -> Any:
        async with asyncio.timeout(seconds):
            while not (value := await found()):
                await asyncio.sleep(0.1)
        return value

    async def condition(self, resource: Any, name: str, type: str = "Ready") -> str:
        obj = await self.client.find(resource, name, self.ns) or {}
        conditions = (obj.get("status") or {}).get("conditions") or []
        return next((item["reason"] for item in conditions if item["type"] == type), "")


@pytest.fixture(scope="session")
def api(local_apiserver: Any) -> Any:
    local_apiserver.kubectl("apply", "-f", "deploy/crds")
    plurals = ("databases", "objectstores", "backuppolicies", "backups")
    names = [f"crd/{plural}.yoban.dev" for plural in plurals]
    local_apiserver.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return local_apiserver


@pytest.fixture
async def operator(api: Any, local_store: Any, request: pytest.FixtureRequest) -> AsyncIterator[Operator]:
    namespace = request.node.name.replace("_", "-").lower()[:40].strip("-")
    api.kubectl("create", "namespace", namespace)
    api.kubectl(
        "create",
        "secret",
        "generic",
        "s3",
        "-n",
        namespace,
        f"--from-literal=accessKeyId={local_store.access_key}",
        f"--from-literal=secretAccessKey={local_store.secret_key}",
    )
    loaded = Registry.load(("s3",))
    registry = Engines(loaded._loaded, loaded._disabled, loaded._engines, loaded._providers)
    registry.extra = {"logless": LoglessEngine()}
    agents = FakeAgents()
    async with Client.connect(await load_config(api.kubeconfig)) as client:
        manager = Manager(client, namespaces=[namespace], detect_mutation=True)
        shared = share(manager, registry, agents=agents)
        for module in (objectstore, backup, backuppolicy):
            module.build(manager, shared)
        running = asyncio.create_task(manager.run())
        await asyncio.wait_for(manager.leading.wait(), 30)
        yield Operator(api, local_store, client, shared, agents, namespace)
        manager.stop()
        await running
        await shared.stores.close()


async def test_a_bucket_is_made_used_and_removed(operator: Operator):
    operator.bucket("watch-one", deletionPolicy="Delete")

    async def ready() -> bool:
        return await operator.condition(OBJECT_STORE, "s3") == "Reachable"

    await operator.until(ready)
    document = await operator.shared.stores.document(operator.ns, "s3")
    async with operator.shared.stores.using(document) as store:
        assert store.bucket is not None and await store.bucket.exists()
        for number in range(20):
            await store.put(f"data/{number}", b"x")
        await store.start_upload("data/open")
        await operator.client.delete(OBJECT_STORE, "s3", operator.ns)

        async def gone() -> bool:
            return await operator.client.find(OBJECT_STORE, "s3", operator.ns) is None

        await operator.until(gone)
        assert not await store.bucket.exists()


async def test_wrong_credentials_are_told(operator: Operator):
    operator.api.kubectl(
        "patch", "secret", "s3", "-n", operator.ns, "-p", json.dumps({"stringData": {"secretAccessKey": "wrong"}})
    )
    operator.bucket("watch-two")

    async def told() -> bool:
        return await operator.condition(OBJECT_STORE, "s3") == "CredentialsRejected"

    await operator.until(told)


async def test_a_policy_asks_and_a_backup_fails_and_is_told(operator: Operator):
    operator.bucket("watch-three")
    operator.apply(
        "Database",
        "orders",
        {"engine": "logless", "version": "2", "storage": {"size": "1Gi"}, "backup": {"policy": "nightly"}},
    )
    agent = operator.agents.all["orders-1"] = FakeAgent(primary())
    member = Member(name="orders-1", number=1, host="orders-1.peers", port=1)
    operator.shared.observatory.observe(ObjectKey(operator.ns, "orders"), [member], CREDENTIALS)
    destination = {"destinations": [{"objectStore": "s3"}], "maximumAge": "24h"}
    operator.apply("BackupPolicy", "nightly", destination)

    async def asked() -> list[Any]:
        return list((await operator.client.list(BACKUP, operator.ns)).items)

    (made,) = await operator.until(asked)
    name, job = made["metadata"]["name"], made["metadata"]["uid"]

    async def started() -> bool:
        return job in agent.requests

    await operator.until(started)
    now = operator.shared.clock.now()
    agent.job(
        job,
        state="completed",
        backup=BackupResult(
            id=agent.requests[job].id,
            line="",
            begin_position="1",
            end_position="2",
            begin_time=now,
            end_time=now,
            bytes=10,
            stored_bytes=5,
            frozen_seconds=0.1,
        ),
    )

    async def completed() -> bool:
        return await operator.condition(BACKUP, name, "Completed") == "Completed"

    await operator.until(completed)
    shown = operator.api.kubectl("get", "ybk", "-n", operator.ns)
    assert "100%" in shown and "10 B" in shown
    operator.apply("Backup", "by-hand", {"database": "orders", "retries": 0})

    async def second() -> str:
        found = await operator.client.find(BACKUP, "by-hand", operator.ns)
        return str(found["metadata"]["uid"]) if found and found["metadata"]["uid"] in agent.requests else ""

    uid = await operator.until(second)
    agent.job(uid, state="failed", problem=Problem(reason="PageDamaged", message="block 7 is bad"))

    async def failed() -> bool:
        return await operator.condition(BACKUP, "by-hand", "Completed") == "PageDamaged"

    await operator.until(failed)
    assert await operator.client.find(DATABASE, "orders", operator.ns)
