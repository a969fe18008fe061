"""What is known of a real API server: its state, as soon as anybody has seen it, in the shape that the judge asks for.

Guarantees: nothing that a replica can know is missing here. The mirror follows the server by lists and watches of its own,
with no fault in between, and besides learns from each answer and each event that reaches a replica, before that acts on
it. So it is never behind the one who is judged. It may be some milliseconds behind the server: what comes out then is a
breach that is overlooked, never one that is made up.

Versions are compared as numbers here, which a client must not do: a test of one version of etcd may.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from yoban.kube.client import Client
from yoban.kube.errors import ApiError
from yoban.kube.objects import Obj, ObjectKey, key_of, resource_version_of, uid_of
from yoban.kube.resource import CONFIG_MAP, LEASE, Resource
from yoban.kube.watch import IdleTimeout
from yoban.testing.apiwatch import Change

from tests.simulation.operator import CARD_LABEL, LEASE_KEY, WIDGET

AGAIN = 0.1  # seconds until the mirror asks again after a failure
FOLLOWED = ((WIDGET, None, None), (CONFIG_MAP, None, CARD_LABEL), (LEASE, LEASE_KEY[0], None))
_BY_KIND = {resource.kind: resource for resource, _, _ in FOLLOWED}


def _version(obj: Obj) -> int:
    return int(resource_version_of(obj))


class Mirror:
    """See the module.

    Attributes:
        on_change: called with each change, in the order of versions of an object; some in between may be left out.
        watchers: how many watches the replicas have open.
    """

    def __init__(self, watchers: Callable[[], int]) -> None:
        self.on_change: list[Callable[[Change], object]] = []
        self._objects: dict[Resource, dict[ObjectKey, Obj]] = {resource: {} for resource, _, _ in FOLLOWED}
        self._gone: dict[tuple[Resource, ObjectKey], int] = {}
        self._watchers = watchers
        self._asked: asyncio.Queue[tuple[str, str, bytes | None, str | None]] = asyncio.Queue()

    @property
    def watchers(self) -> int:
        """See `Stored.watchers`."""
        return self._watchers()

    def find(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """See `Stored.find`."""
        return self._objects[resource].get(ObjectKey(namespace, name))

    def objects(self, resource: Resource) -> list[Obj]:
        """See `Stored.objects`."""
        return list(self._objects[resource].values())

    # -- what is known -----------------------------------------------------------------------------------------------

    def learn(self, resource: Resource, obj: Obj) -> None:
        """Somebody has seen this object; nothing happens when a newer one is known."""
        key, version = key_of(obj), _version(obj)
        old = self._objects[resource].get(key)
        if version <= max(self._gone.get((resource, key), 0), _version(old) if old is not None else 0):
            return
        self._objects[resource][key] = obj
        self._tell(Change(version, resource, old, obj))

    def forget(self, resource: Resource, key: ObjectKey, version: int) -> None:
        """It was gone in `version`."""
        self._gone[(resource, key)] = max(version, self._gone.get((resource, key), 0))
        old = self._objects[resource].get(key)
        if old is not None and _version(old) <= version:
            del self._objects[resource][key]
            self._tell(Change(version, resource, old, None))

    def answered(self, body: bytes) -> None:
        """A replica is about to get this answer to a write."""
        obj = json.loads(body)
        if obj.get("kind") in _BY_KIND:
            self.learn(_BY_KIND[obj["kind"]], obj)

    def _tell(self, change: Change) -> None:
        for told in self.on_change:
            told(change)

    # -- the server --------------------------------------------------------------------------------------------------

    async def follow(self, client: Client) -> None:
        """List and watch for ever."""
        async with asyncio.TaskGroup() as group:
            for resource, namespace, labels in FOLLOWED:
                group.create_task(self._follow(client, resource, namespace, labels))

    async def _follow(self, client: Client, resource: Resource, namespace: str | None, labels: str | None) -> None:
        while True:
            with contextlib.suppress(ApiError, IdleTimeout):
                version = await self.look(client, resource, namespace, labels)
                options: dict[str, Any] = {"resource_version": version, "labels": labels, "timeout_seconds": 600}
                async with client.watch(resource, namespace, **options) as stream:
                    await self._read(resource, stream)
            await asyncio.sleep(AGAIN)

    async def _read(self, resource: Resource, stream: Any) -> None:
        while (batch := await stream.batch(120.0)) is not None:
            for event in batch:
                if event.type in ("ADDED", "MODIFIED"):
                    self.learn(resource, event.decode())
                elif event.type == "DELETED":
                    obj = event.decode()
                    self.forget(resource, key_of(obj), _version(obj))
                elif event.type == "ERROR":
                    return

    async def look(self, client: Client, resource: Resource, namespace: str | None, labels: str | None) -> str:
        """List what is stored; the version of it. Raises `ApiError`."""
        found = await client.list(resource, namespace, labels=labels)
        for obj in found.items:
            self.learn(resource, {"apiVersion": resource.api_version, "kind": resource.kind, **obj})
        there = {key_of(obj) for obj in found.items}
        for key in list(self._objects[resource]):
            if key not in there:
                self.forget(resource, key, int(found.resource_version))
        return found.resource_version

    async def versions(self, client: Client) -> dict[str, str]:
        """Name -> version of everything that is stored now, by a consistent list; what is mirrored must be the same."""
        found: dict[str, str] = {}
        for resource, namespace, labels in FOLLOWED:
            if resource != LEASE:
                for obj in (await client.list(resource, namespace, labels=labels)).items:
                    found[f"{resource.plural} {key_of(obj)}"] = resource_version_of(obj)
        return found

    def mirrored(self) -> dict[str, str]:
        """As `versions`, by the mirror."""
        return {
            f"{resource.plural} {key}": resource_version_of(obj)
            for resource, objects in self._objects.items()
            if resource != LEASE
            for key, obj in objects.items()
        }

    # -- people ------------------------------------------------------------------------------------------------------

    def serve(self, method: str, path: str, body: bytes | None = None, content_type: str | None = None) -> None:
        """Somebody asks for this directly, past all proxies; it is sent in its turn, see `send`."""
        self._asked.put_nowait((method, path, body, content_type))

    def collect_garbage(self) -> None:
        """Ask for the deletion of what has lost its owner: a server alone has no garbage collector."""
        owners = {uid_of(widget) for widget in self.objects(WIDGET)}
        for card in self.objects(CONFIG_MAP):
            if not owners & {owner["uid"] for owner in card["metadata"].get("ownerReferences") or ()}:
                key = key_of(card)
                body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid_of(card)}}
                path = CONFIG_MAP.path(key.namespace, key.name)
                self.serve("DELETE", path, json.dumps(body).encode(), "application/json")

    async def send(self, client: Client) -> None:
        """Send what was asked for, in order, for ever. A refusal is an answer; a server that is down is waited for."""
        while True:
            method, path, body, content_type = await self._asked.get()
            while True:
                try:
                    await client.transport.request(method, path, body=body, content_type=content_type, deadline=10.0)
                    break
                except ApiError:
                    await asyncio.sleep(AGAIN)
            self._asked.task_done()

    async def sent(self) -> None:
        """Return when everything asked for was answered."""
        await self._asked.join()
