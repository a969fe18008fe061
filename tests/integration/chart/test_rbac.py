"""The chart's RBAC is what the operator uses: no call is refused, and no rule is there that no call needs."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from yoban.cli.operator import assemble
from yoban.kube.client import Call, Client
from yoban.kube.config import ClusterConfig, StaticToken, load_config
from yoban.kube.metrics import Tally
from yoban.kube.resource import LEASE, POD, SECRET, SERVICE, STATEFUL_SET
from yoban.plugins import hookimpl
from yoban.plugins.registry import Registry
from yoban.reconcilers.kinds import BACKUP, BACKUP_POLICY, DATABASE, OBJECT_STORE
from yoban.runtime.settings import Settings
from yoban.telemetry.setup import build
from yoban.testing.memory_engine import MemoryEngine
from yoban.testing.memory_store import MemoryCloud, MemoryProvider

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer

pytestmark = pytest.mark.server

CRDS = "deploy/crds"
Rule = tuple[str, str, str]

WITHOUT_A_CALL_HERE: dict[Rule, str] = {
    ("coordination.k8s.io", "leases", "update"): "given on to agents; the operator's own Lease is in its own Role",
    ("", "pods", "patch"): "given on to agents",
    ("", "pods", "get"): "given on to agents",
    ("yoban.dev", "databases/finalizers", "update"): "asked by OwnerReferencesPermissionEnforcement only",
    ("yoban.dev", "backups", "delete"): "of a view whose base backup the repository no longer has",
}
"""Rules that this test's run does not need, each with its reason."""


BY_CHANCE: dict[Rule, str] = {
    ("yoban.dev", kind, "get"): "read anew when writing a finalizer met a conflict"
    for kind in ("databases", "objectstores", "backups")
} | {("events.k8s.io", "events", "patch"): "the same words again within minutes are counted on their event"}
"""Rules that some runs of this test need and others do not, each with its reason."""


NEVER_MADE = {("yoban.dev", kind) for kind in ("databases", "objectstores", "backuppolicies")}
"""What the operator patches and never makes."""


def rules_of(role: dict[str, Any]) -> set[Rule]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used_in(calls: set[Call], namespace: str) -> set[Rule]:
    """The rules that calls in a namespace need: an apply that makes the object asks for `create`, too."""
    used = {(call.group, call.resource, call.verb) for call in calls if call.namespace == namespace}
    applied = {(group, resource) for group, resource, verb in used if verb == "patch" and "/" not in resource}
    return used | {(group, resource, "create") for group, resource in applied if (group, resource) not in NEVER_MADE}


@pytest.fixture
def namespaces(local_apiserver: LocalApiServer) -> tuple[str, str]:
    """The operator's namespace and that of its Databases."""
    local_apiserver.kubectl("apply", "-f", CRDS)
    names = tuple(f"rbac-{part}-{uuid.uuid4().hex[:6]}" for part in ("op", "db"))
    for name in names:
        local_apiserver.kubectl("create", "namespace", name)
    return names[0], names[1]


@pytest.fixture
def roles(
    local_apiserver: LocalApiServer, render: Callable[..., list[dict[str, Any]]], namespaces: tuple[str, str]
) -> list[dict[str, Any]]:
    """The chart's service account and Roles, applied; returns the Roles."""
    own, watched = namespaces
    objects = render({"namespaces": [watched]})
    chosen = [one for one in objects if one["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": chosen}).replace("yoban-system", own)
    local_apiserver.kubectl("apply", "-f", "-", stdin=text)
    return [one for one in chosen if one["kind"] == "Role"]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the API server forbade."""
    found: list[str] = []
    add = Tally.add

    def watch(self: Tally, *values: str, by: float = 1) -> None:
        if len(values) == 3 and values[2] == "403":
            found.append(f"{values[0]} {values[1]}")
        add(self, *values, by=by)

    monkeypatch.setattr(Tally, "add", watch)
    yield found


@pytest.fixture
async def calls(
    local_apiserver: LocalApiServer, namespaces: tuple[str, str], roles: list[dict[str, Any]]
) -> AsyncIterator[set[Call]]:
    """A whole operator at work, with the chart's rights; its calls."""
    own, watched = namespaces
    found: set[Call] = set()
    token = local_apiserver.service_account_token(own, "yoban-operator")
    config = ClusterConfig(local_apiserver.url, StaticToken(token), ca_file=local_apiserver.ca_file)
    settings = Settings(
        lease_duration=4,
        lease_renew_deadline=2,
        lease_retry=0.5,
        namespaces=(watched,),
        namespace=own,
        image="yoban:test",
        bind="127.0.0.1",
        health_port=0,
        metrics_port=0,
    )
    engine, cloud = MemoryEngine(), MemoryCloud()
    plugin = SimpleNamespace(
        YOBAN_PLUGIN_API=(1, 0),
        yoban_engines=hookimpl(lambda: [engine], specname="yoban_engines"),
        yoban_object_stores=hookimpl(lambda: [MemoryProvider(cloud)], specname="yoban_object_stores"),
    )
    telemetry = build("yoban-operator", "", {})
    async with Client.connect(config, field_manager="yoban-operator", on_call=found.add) as client:
        manager = assemble(settings, Registry.in_process({"memory": plugin}), telemetry, client)
        task = asyncio.create_task(manager.run())
        yield found
        manager.stop()
        await task


async def until(check: Callable[[], Awaitable[Any]], what: str) -> Any:
    end = asyncio.get_running_loop().time() + 60
    while not (found := await check()):
        assert asyncio.get_running_loop().time() < end, f"not within 60 s: {what}"
        await asyncio.sleep(0.1)
    return found


@pytest.fixture
async def admin(local_apiserver: LocalApiServer) -> AsyncIterator[Client]:
    async with Client.connect(await load_config(local_apiserver.kubeconfig), field_manager="somebody") as client:
        yield client


async def test_rules_are_exactly_what_is_used(
    calls: set[Call], admin: Client, namespaces: tuple[str, str], roles: list[dict[str, Any]], refused: list[str]
) -> None:
    own, watched = namespaces

    def meta(name: str, **more: Any) -> dict[str, Any]:
        return {"metadata": {"name": name, "namespace": watched, **more}}

    # A store, a policy, a Database of two, a Backup.
    await admin.apply(SECRET, {**meta("keys"), "stringData": {"k": "v"}})
    await admin.apply(
        OBJECT_STORE,
        {
            **meta("store"),
            "spec": {"provider": "memory", "bucket": "b1x", "create": True, "credentials": {"secret": "keys"}},
        },
    )
    policy = {"destinations": [{"objectStore": "store"}], "maximumAge": "24h"}
    await admin.apply(BACKUP_POLICY, {**meta("policy"), "spec": policy})
    spec = {
        "engine": "memory",
        "version": "1",
        "instances": 2,
        "storage": {"size": "1Gi"},
        "backup": {"policy": "policy"},
        "deletionPolicy": "Delete",
    }
    await admin.apply(DATABASE, {**meta("orders"), "spec": spec})
    await admin.apply(BACKUP, {**meta("asked"), "spec": {"database": "orders"}})

    async def count(resource: Any) -> int:
        found = await admin.list(resource, watched, labels="yoban.dev/database=orders")
        return len(found.items)

    async def both() -> bool:
        return await count(STATEFUL_SET) == 2 and await count(SERVICE) >= 4

    await until(both, "its objects are made")
    # A child that is deleted comes back.
    await admin.delete(SERVICE, "orders-rw", watched)
    await until(both, "the Service is made again")
    # Nobody makes Pods here: one of ours, so that it is taken away when the second instance goes.
    stateful = (await admin.list(STATEFUL_SET, watched, labels="yoban.dev/instance=orders-2")).items[0]
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    container = {"name": "server", "image": "x"}
    await admin.apply(POD, {**meta("orders-2-0", labels=labels), "spec": {"containers": [container]}})
    await admin.patch(DATABASE, "orders", watched, {"spec": {"instances": 1}})

    async def one() -> bool:
        return await count(STATEFUL_SET) == 1

    await until(one, "the second instance is gone")
    # The end of everything.
    skip = {"metadata": {"annotations": {"yoban.dev/skip-cleanup": "true"}}}
    await admin.patch(DATABASE, "orders", watched, skip)
    for resource, name in ((BACKUP, "asked"), (DATABASE, "orders"), (BACKUP_POLICY, "policy"), (OBJECT_STORE, "store")):
        await admin.delete(resource, name, watched)

        async def gone(resource: Any = resource, name: str = name) -> bool:
            if resource is DATABASE:
                for pod in (await admin.list(POD, watched)).items:
                    await admin.delete(POD, pod["metadata"]["name"], watched)
            return await admin.find(resource, name, watched) is None

        await until(gone, f"{resource.kind} {name} is gone")
    assert await admin.find(LEASE, "orders-primary", watched) is None
    assert refused == []
    used, used_own = used_in(calls, watched), used_in(calls, own)
    given = rules_of(next(one for one in roles if one["metadata"]["namespace"] == watched))
    given_own = rules_of(next(one for one in roles if one["metadata"]["namespace"] != watched))
    assert used - given == set()
    assert used_own - given_own == set()
    assert [" ".join(rule) for rule in sorted(given - used - set(WITHOUT_A_CALL_HERE) - set(BY_CHANCE))] == []
    assert [" ".join(rule) for rule in sorted(given_own - used_own)] == []
    assert sorted(set(WITHOUT_A_CALL_HERE) & used) == [], "it is used: no reason is needed"
