"""A whole operator in one process on virtual time: fake API server, agents and buckets; controllers are the real ones."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
from yoban.domain.identity import incarnation
from yoban.errors import AccessDenied, NotFound, OwnedByAnother, Unavailable, YobanError
from yoban.kube.client import Client
from yoban.kube.objects import Obj, ObjectKey
from yoban.kube.resource import SECRET
from yoban.model.control import (
    AgentStatus,
    ArchiveState,
    JobRequest,
    JobStatus,
    LeaseState,
    Push,
    ReplicaState,
    ServerState,
)
from yoban.model.instance import Member
from yoban.plugins import Engine, ObjectStore, StoreConfig, hookimpl
from yoban.plugins.registry import Registry
from yoban.reconcilers import backup, backuppolicy, objectstore
from yoban.reconcilers.agents import Agents
from yoban.reconcilers.database.ports import Credentials
from yoban.reconcilers.kinds import BACKUP, BACKUP_POLICY, DATABASE, OBJECT_STORE
from yoban.reconcilers.shared import Shared, share
from yoban.repository.codec import seal_struct
from yoban.repository.layout import Layout, number
from yoban.repository.manifest import Manifest, seal_manifest
from yoban.repository.marks import Mark
from yoban.runtime import Manager
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.clock import LoopClock
from yoban.testing.memory_store import MemoryCloud, MemoryProvider, MemoryStore

from tests.unit.domain.counting import CountingEngine, LoglessEngine

NS = "shop"
CREDENTIALS = Credentials("ca", "certificate", "key")


class GuardedProvider(MemoryProvider):
    """Wants a key, and knows the right one. Buckets of another owner are named `taken…`."""

    name = "guarded"
    secret_keys: Mapping[str, str] = {"accessKey": "the key"}

    def open(self, config: StoreConfig) -> AbstractAsyncContextManager[ObjectStore]:
        provider = self

        class Guarded(MemoryStore):
            def _bucket(self) -> Any:
                provider.check_key(config)
                return super()._bucket()

        class Opened:
            async def __aenter__(self) -> ObjectStore:
                return Guarded(provider.cloud, config.bucket, config.prefix)

            async def __aexit__(self, *_: object) -> None:
                provider.closed += 1

        return Opened()  # type: ignore[return-value]

    closed = 0

    @staticmethod
    def check_key(config: StoreConfig) -> None:
        if config.bucket.startswith("taken"):
            raise OwnedByAnother("the name is taken by somebody else", object=config.bucket)
        if config.credentials.get("accessKey") != "right":
            raise AccessDenied("the key is wrong", object=config.bucket)


class Engines(Registry):
    """A registry with engines that have only their pure parts."""

    extra: dict[str, Engine]

    def engine(self, name: str) -> Engine:
        return self.extra[name] if name in self.extra else super().engine(name)


def registry(cloud: MemoryCloud) -> Engines:
    class Plugin:
        YOBAN_PLUGIN_API = (1, 0)

        @staticmethod
        @hookimpl
        def yoban_object_stores() -> list[Any]:
            return [MemoryProvider(cloud), GuardedProvider(cloud)]

    module = SimpleNamespace(YOBAN_PLUGIN_API=(1, 0), yoban_object_stores=Plugin.yoban_object_stores)
    made = Engines.in_process({"stores": module})
    assert isinstance(made, Engines)
    made.extra = {"counting": CountingEngine(), "logless": LoglessEngine()}
    return made


@dataclass
class FakeAgent:
    """One agent: what it says, the jobs it knows, the documents it got."""

    status: AgentStatus
    up: bool = True
    jobs: dict[str, JobStatus] = field(default_factory=dict)
    requests: dict[str, JobRequest] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    pushed: list[Push] = field(default_factory=list)
    errors: list[YobanError] = field(default_factory=list)
    starts: int = 0
    calls: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, **changes: Any) -> None:
        """Say something new."""
        self.status = msgspec.structs.replace(self.status, serial=self.status.serial + 1, **changes)
        self.news.set()
        self.news = asyncio.Event()

    def job(self, uid: str, **changes: Any) -> None:
        """A job is another now."""
        self.jobs[uid] = JobStatus(**({"state": "running"} | changes))
        self.news.set()
        self.news = asyncio.Event()


class FakeAgents(Agents):
    """Agents by instance name, in this process; bodies go through JSON as they would."""

    def __init__(self) -> None:
        super().__init__()
        self.all: dict[str, FakeAgent] = {}

    async def _call(
        self, member: Member, credentials: Credentials, method: str, path: str, body: Any = None, *, wait: float = 0.0
    ) -> bytes:
        agent = self.all.get(member.name)
        await asyncio.sleep(0.001)
        if agent is None or not agent.up:
            raise Unavailable("the agent cannot be reached", object=member.name)
        agent.calls += 1
        if agent.errors and "/jobs/" in path:
            raise agent.errors.pop(0)
        data = msgspec.json.encode(body) if body is not None else b""
        answer = await self._answer(agent, method, path.partition("?")[0], data, path, wait)
        if not agent.up:
            raise Unavailable("the connection broke", object=member.name)
        return msgspec.json.encode(answer)

    async def _answer(self, agent: FakeAgent, method: str, path: str, data: bytes, query: str, wait: float) -> Any:
        uid = path.rpartition("/")[2]
        match method, path.split("/")[2]:
            case "GET", "status":
                after = int(query.partition("after=")[2].partition("&")[0])
                if agent.status.serial <= after:
                    await self._news(agent, wait)
                return agent.status
            case "PUT", "document":
                pushed = msgspec.json.decode(data, type=Push)
                agent.pushed.append(pushed)
                agent.say(generation=pushed.document.generation, revision=pushed.document.revision)
                return None
            case "PUT", "jobs":
                if uid not in agent.jobs:
                    agent.starts += 1
                    agent.requests[uid] = msgspec.json.decode(data, type=JobRequest)
                    agent.jobs[uid] = JobStatus(state="running")
                return agent.jobs[uid]
            case "GET", "jobs":
                if uid in agent.jobs and agent.jobs[uid].state == "running":
                    await self._news(agent, wait)
                if uid not in agent.jobs:
                    raise NotFound("no such job", object=uid)
                return agent.jobs[uid]
            case "DELETE", "jobs":
                agent.cancelled.append(uid)
                agent.jobs.pop(uid, None)
                return None
        raise AssertionError(f"{method} {path}")

    @staticmethod
    async def _news(agent: FakeAgent, wait: float) -> None:
        try:
            async with asyncio.timeout(wait):
                await agent.news.wait()
        except TimeoutError:
            return


def primary(replicas: tuple[str, ...] = (), **more: Any) -> AgentStatus:
    links = [ReplicaState(name=name, streaming=True, lag_seconds=0.1) for name in replicas]
    server = ServerState(role="primary", accepting=True, replicas=links)
    archive = ArchiveState(active=True, lag_seconds=0.5)
    return AgentStatus(
        serial=1, phase="running", data="ready", ready=True, server=server, lease=LeaseState(held=True), archive=archive
    )


def replica(**more: Any) -> AgentStatus:
    server = ServerState(role="replica", accepting=True, upstream=True, lag_seconds=0.1)
    return AgentStatus(serial=1, phase="running", data="ready", ready=True, server=server)


class World:
    """Everything, and what tests do to it."""

    def __init__(self, clock: LoopClock) -> None:
        self.clock = clock
        self.cloud = MemoryCloud(clock.now)
        self.server = FakeApiServer(clock=clock)
        for resource in (DATABASE, OBJECT_STORE, BACKUP_POLICY, BACKUP):
            self.server.register(resource)
        self.agents = FakeAgents()
        self.registry = registry(self.cloud)
        self._running: asyncio.Task[None] | None = None
        self.shared: Shared
        self.manager: Manager

    # -- the operator ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.client = Client(self.server, random=lambda: 0.5)
        self.manager = Manager(self.client, detect_mutation=True)
        self.shared = share(self.manager, self.registry, clock=self.clock, agents=self.agents)
        self.controllers = [
            objectstore.build(self.manager, self.shared),
            backup.build(self.manager, self.shared),
            backuppolicy.build(self.manager, self.shared),
        ]
        self._running = asyncio.create_task(self.manager.run())
        await asyncio.wait_for(self.manager.leading.wait(), 30)

    async def stop(self) -> None:
        if self._running is not None:
            self.manager.stop()
            await self._running
            await self.shared.stores.close()
            await self.client.close()
            self._running = None

    async def restart(self) -> None:
        """The operator ends and another begins."""
        await self.stop()
        await self.start()

    async def until(self, found: Callable[[], Any], seconds: float = 300.0) -> Any:
        """Virtual time passes until there is something; then it is returned."""
        end = self.clock.monotonic() + seconds
        while True:
            value = found()
            if value:
                return value
            assert self.clock.monotonic() < end, f"not within {seconds} s"
            await asyncio.sleep(0.25)

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # -- objects ---------------------------------------------------------------------------------------------------

    def put(self, resource: Any, name: str, spec: dict[str, Any], **metadata: Any) -> Obj:
        return self.server.put(resource, {"metadata": {"namespace": NS, "name": name, **metadata}, "spec": spec})

    def secret(self, name: str, **entries: str) -> None:
        data = {key: base64.b64encode(value.encode()).decode() for key, value in entries.items()}
        self.server.put(SECRET, {"metadata": {"namespace": NS, "name": name}, "data": data})

    def store(self, name: str = "s3", **spec: Any) -> Obj:
        return self.put(OBJECT_STORE, name, {"provider": "memory", "bucket": "backups"} | spec)

    def policy(self, name: str = "nightly", **spec: Any) -> Obj:
        given = {"destinations": [{"objectStore": "s3"}], "rpo": "5s", "maximumAge": "24h"} | spec
        return self.put(BACKUP_POLICY, name, {key: value for key, value in given.items() if value is not None})

    def database(self, name: str = "orders", *, engine: str = "logless", **spec: Any) -> Obj:
        given = {"engine": engine, "version": "2", "storage": {"size": "1Gi"}, "backup": {"policy": "nightly"}} | spec
        return self.put(DATABASE, name, {key: value for key, value in given.items() if value is not None})

    def backup(self, name: str = "b", database: str = "orders", **spec: Any) -> Obj:
        return self.put(BACKUP, name, {"database": database} | spec)

    def find(self, resource: Any, name: str) -> Obj | None:
        return self.server.find(resource, NS, name)

    def status(self, resource: Any, name: str) -> dict[str, Any]:
        obj = self.find(resource, name)
        return (obj or {}).get("status") or {}

    def condition(self, resource: Any, name: str, type: str = "Ready") -> tuple[str, str, str]:
        for item in self.status(resource, name).get("conditions") or []:
            if item["type"] == type:
                return item["status"], item["reason"], item["message"]
        return "", "", ""

    def backups(self) -> list[Obj]:
        return self.server.objects(BACKUP, NS)

    def annotate(self, resource: Any, name: str, **annotations: str) -> None:
        def change(obj: Obj) -> None:
            obj["metadata"].setdefault("annotations", {}).update(
                {f"yoban.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
            )

        self.server.edit(resource, NS, name, change)

    async def delete(self, resource: Any, name: str) -> None:
        await self.client.delete(resource, name, NS)

    # -- agents and repository -------------------------------------------------------------------------------------

    def observe(self, database: str = "orders", **statuses: AgentStatus) -> None:
        """What the Database's own reconciler does: instances `1`, `2` with these statuses are observed."""
        members = []
        for key, status in statuses.items():
            name = f"{database}-{key[1:]}"
            if name not in self.agents.all:
                self.agents.all[name] = FakeAgent(status)
            members.append(Member(name=name, number=int(key[1:]), host=f"{name}.peers", port=4321))
        self.shared.observatory.observe(ObjectKey(NS, database), members, CREDENTIALS)

    def agent(self, name: str = "orders-1") -> FakeAgent:
        return self.agents.all[name]

    def path(self, database: str = "orders") -> str:
        obj = self.find(DATABASE, database)
        assert obj is not None
        return f"{NS}/{database}/{incarnation(obj['metadata']['uid'])}"

    def bucket(self, name: str = "backups") -> MemoryStore:
        return MemoryStore(self.cloud, name)

    async def stored(
        self, id: str, *, minutes_ago: float = 0.0, took: float = 1.0, database: str = "orders", **more: Any
    ) -> None:
        """A base backup is in the repository."""
        end = self.clock.now() - timedelta(minutes=minutes_ago)
        begin = end - timedelta(minutes=took)
        given: dict[str, Any] = {
            "id": id,
            "engine": "logless",
            "begin_position": "50",
            "begin_time": begin,
            "end_position": "120",
            "end_time": end,
            "bytes": 1 << 30,
            "stored_bytes": 1 << 28,
            "started": begin,
            "completed": end,
            "instance": f"{database}-1",
        }
        layout = Layout(self.path(database))
        await self.bucket().put(layout.manifest(id), seal_manifest(Manifest(**(given | more))))

    async def mark(self, at: datetime, *, position: int, line: str = "1") -> None:
        written = Mark(
            term=1,
            instance="orders-1",
            time=at,
            position=str(position),
            line=line,
            segment=f"{line}-{(position - 1) // 100:04d}",
            flushed=(position - 1) % 100 + 1,
            segment_bytes=100,
            written=at,
        )
        await self.bucket().put(Layout(self.path()).mark(1), seal_struct("mark", number(1), written))

    def lose(self, id: str, database: str = "orders") -> None:
        """Retention, or somebody, removed a base backup."""
        self.bucket().lose(Layout(self.path(database)).manifest(id))
