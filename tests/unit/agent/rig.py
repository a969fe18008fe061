"""Whole agents in one process: real parts, with the supervisor, the servers, the API server and the store in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from yoban.agent.asksocket import AskSocket
from yoban.agent.assembly import Parts, assemble
from yoban.agent.board import Board
from yoban.agent.document import Configuration, Configurations
from yoban.agent.environment import Environment, read_environment
from yoban.agent.instance import Instance
from yoban.agent.jobs import Jobs
from yoban.agent.storage import Storage
from yoban.agent.supervision import Supervision
from yoban.errors import Unavailable
from yoban.kube.client import Client
from yoban.kube.clock import SystemClock
from yoban.kube.errors import Timeout, Unreachable
from yoban.kube.resource import LEASE, POD
from yoban.kube.transport import Answer, Transport
from yoban.model.control import JobRequest, JobStatus, Push
from yoban.model.instance import (
    ArchiveDocument,
    InstanceDocument,
    LeaseDocument,
    Member,
    RestoreDocument,
    StoreDocument,
    TargetDocument,
)
from yoban.plugins import Finished, InstanceContext, Processes, StopMode, hookimpl
from yoban.plugins.registry import Registry
from yoban.repository import Repository
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.memory_engine import MemoryDriver, MemoryEngine, MemoryRunner
from yoban.testing.memory_sets import SetsEngine
from yoban.testing.memory_store import MemoryCloud, MemoryStore

NAMESPACE, DATABASE, INCARNATION = "shop", "orders", "0123456789ab"
STORE = StoreDocument(provider="memory", bucket="backups")


async def until(what: str, check: Callable[[], Awaitable[Any] | Any], seconds: float = 20.0) -> Any:
    """Wait until `check` gives something true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if loop.time() >= end:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.02)


class AskProcesses(Processes):
    """Runs no program; the tiny client's question is put to the agent itself."""

    def __init__(self) -> None:
        self.ask: AskSocket | None = None

    async def run(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> Finished:
        assert self.ask is not None
        answer = await self.ask.answer("\t".join(argv[2:]))
        code = 0 if answer == "ok" else 1 if answer == "missing" else 255
        return Finished(code, b"", answer.encode())


class InProcessSupervision(Supervision):
    """The supervisor's socket, answered here: servers are objects in the engine's world."""

    def __init__(self, runner: MemoryRunner, context: Callable[[], InstanceContext]) -> None:
        super().__init__(Path("/nowhere"))
        self.life = "life"
        self.runner = runner
        self.context = context
        self.fence_at: float | None = None
        self.beats = 0
        self.refused = 0
        self._pid = 100
        self._status: dict[str, Any] | None = None

    async def _call(self, verb: str, **fields: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        if verb == "heartbeat":
            self.beats += 1
            if "fence_at" in fields:
                self.fence_at = fields["fence_at"]
        elif verb == "start":
            if self.fence_at is not None and self.fence_at <= SystemClock().boottime():
                self.refused += 1
                raise Unavailable("start was refused", object="supervisor", cause="the fencing deadline has passed")
            await self.runner.start(self.context(), None)  # type: ignore[arg-type]
            self._pid += 1
            self._status = {"pid": self._pid, "since": 0.0, "note": fields["note"], "mode": ""}
            return {"pid": self._pid}
        elif verb == "signal" and self._status is not None:
            mode = StopMode.CLEAN if fields["mode"] == "clean" else StopMode.IMMEDIATE
            await self.runner.stop(self.context(), mode)
            self.died(0, fields["mode"])
        elif verb == "status":
            self._learned({"life": self.life, "server": self._status, "last_exit": None, "stop_by": self.stop_by})
        return {}

    def died(self, code: int, mode: str = "") -> None:
        """The server process has ended."""
        pid = self._pid
        self._status = None
        self._event({"event": "server-exited", "pid": pid, "code": code, "mode": mode})

    async def enforce(self) -> None:
        """End the server at its deadline, for ever, as the real one does."""
        while True:
            if self._status is not None and self.fence_at is not None and self.fence_at <= SystemClock().boottime():
                await self.runner.stop(self.context(), StopMode.IMMEDIATE)
                self.died(-9, "immediate")
            await asyncio.sleep(0.02)

    def pod_ends(self, seconds: float = 30.0) -> None:
        """SIGTERM of the Pod."""
        self._event({"event": "stop", "by": SystemClock().boottime() + seconds})


class Rig:
    """One Database of a memory engine."""

    def __init__(
        self,
        folder: Path,
        provider: Any,
        *,
        instances: int = 1,
        archive: bool = True,
        engine: type[MemoryEngine] = MemoryEngine,
    ) -> None:
        self.folder = folder
        self.engine = engine()
        self.runner = MemoryRunner(self.engine)
        self.driver = MemoryDriver(self.engine)
        self.api = FakeApiServer()
        self.client = Client(self.api)
        self.provider = provider
        self.registry = Registry.in_process({"memory": _plugin(provider)})
        self.store = STORE
        self.source: StoreDocument | None = None
        self.document = InstanceDocument(
            generation=1,
            namespace=NAMESPACE,
            database=DATABASE,
            uid="uid-1",
            incarnation=INCARNATION,
            engine=self.engine.name,
            version="1",
            founder=f"{DATABASE}-1",
            members=[
                Member(name=f"{DATABASE}-{n}", number=n, host="localhost", port=1234) for n in range(1, instances + 1)
            ],
            lease=LeaseDocument(name=f"{DATABASE}-primary", duration=6, renew=3, retry=0.3),
            archive=ArchiveDocument(path=f"{NAMESPACE}/{DATABASE}/{INCARNATION}", rpo_seconds=1) if archive else None,
        )
        self.agents: dict[int, Agent] = {}
        self.make_lease()

    def make_lease(self, **annotations: str) -> None:
        metadata = {"namespace": NAMESPACE, "name": f"{DATABASE}-primary", "annotations": annotations}
        self.api.put(LEASE, {"metadata": metadata, "spec": {}})

    async def lease(self) -> dict[str, Any]:
        return await self.client.get(LEASE, f"{DATABASE}-primary", NAMESPACE)

    def change(self, **fields: Any) -> None:
        """A new revision for all agents, pushed."""
        self.document = msgspec.structs.replace(self.document, revision=self.document.revision + 1, **fields)
        for agent in self.agents.values():
            assert agent.instance.configurations.push(Push(document=self.document, store=self.store))

    def agent(self, number: int = 1) -> Agent:
        """The agent of an instance, made when first asked for."""
        if number not in self.agents:
            self.agents[number] = Agent(self, number)
        return self.agents[number]

    async def close(self) -> None:
        for agent in self.agents.values():
            await agent.end()


class Agent:
    """One agent; `start` again after `end` is a new one beside the same server."""

    def __init__(self, rig: Rig, number: int) -> None:
        self.rig = rig
        self.number = number
        self.name = f"{DATABASE}-{number}"
        self.environment: Environment = read_environment(
            {
                "YOBAN_ROOT": str(rig.folder / str(number)),
                "YOBAN_NAMESPACE": NAMESPACE,
                "YOBAN_INSTANCE": self.name,
                "YOBAN_INSTANCE_NUMBER": str(number),
                "YOBAN_DATABASE": DATABASE,
                "YOBAN_POD": f"{self.name}-0",
                "YOBAN_POD_UID": f"pod-{number}",
            }
        )
        self.environment.tmp.mkdir(parents=True)
        self.environment.run.mkdir(parents=True)
        rig.api.put(POD, {"metadata": {"namespace": NAMESPACE, "name": f"{self.name}-0", "labels": {}}})
        self.supervision = InProcessSupervision(rig.runner, lambda: self.instance.context)
        self._task: asyncio.Task[None] | None = None
        self.make()

    def make(self) -> None:
        configurations = Configurations(self.environment)
        configurations.current = Configuration(
            document=self.rig.document,
            store=self.rig.store,
            source=self.rig.source,
            passwords={"owner": "secret"},
        )
        self.processes = AskProcesses()
        self.instance = Instance(
            self.environment,
            self.rig.engine,
            configurations,
            self.supervision,
            Storage(self.rig.registry),
            Board(self.name, "0"),
            self.processes,
            SystemClock(),
        )
        self.parts: Parts = assemble(self.instance, self.rig.client)
        self.processes.ask = AskSocket(
            self.instance, self.environment.agent_socket, self.parts.shipper.archive, self.parts.restorer.answer
        )

    @property
    def context(self) -> InstanceContext:
        return self.instance.context

    @property
    def status(self) -> Any:
        return self.instance.board.status

    def reasons(self) -> list[str]:
        return [problem.reason for problem in self.status.problems]

    @property
    def living(self) -> bool:
        """Whether its tasks run."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self.jobs = Jobs(group, {"backup": self.parts.backups.run})
            await self.parts.lease.refresh()
            tasks = [group.create_task(work) for work in self.parts.work()]
            await self.parts.life.run()
            for task in tasks:
                task.cancel()

    async def ended(self) -> None:
        """Wait until it ends by itself."""
        assert self._task is not None
        await asyncio.wait_for(self._task, 20)

    async def end(self) -> None:
        """It dies; the server goes on."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._task = None
        await self.instance.storage.close()

    async def again(self) -> None:
        """It dies, and a new one takes its place."""
        await self.end()
        self.make()
        await self.supervision.learn()
        self.start()

    async def ready(self) -> None:
        await until(f"{self.name} is ready", self.parts.ready)


def _plugin(provider: Any) -> Any:
    @hookimpl
    def stores() -> Any:
        return [provider]

    return SimpleNamespace(YOBAN_PLUGIN_API=(1, 0), yoban_object_stores=stores)


class LosesAnswer:
    """A way to the API server on which the answer to a hand-over is lost, and on which nothing passes after it.

    Args:
        transport: the way on.
        forwards: whether the server gets that request.
    """

    def __init__(self, transport: Transport, *, forwards: bool = True) -> None:
        self._transport = transport
        self._forwards = forwards
        self.lost = False
        self.cut = False

    async def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str | None = None, deadline: float
    ) -> Answer:
        if self.cut:
            raise Unreachable("cut", object=target)
        hand_over = method == "PUT" and body is not None and b'"yoban.dev/successor"' in body
        if hand_over and not self.lost:
            self.lost = self.cut = True
            if self._forwards:
                await self._transport.request(method, target, body=body, content_type=content_type, deadline=deadline)
            raise Timeout("no answer", object=target)
        return await self._transport.request(method, target, body=body, content_type=content_type, deadline=deadline)

    def stream(self, target: str, *, deadline: float) -> Any:
        return self._transport.stream(target, deadline=deadline)

    async def close(self) -> None:
        pass


MakeRig = Callable[..., Rig]
ENGINES = [MemoryEngine, SetsEngine]
"""With a log whose names follow from each other, and with one whose do not."""


def repository(cloud: MemoryCloud, incarnation: str = INCARNATION) -> Repository:
    return Repository(MemoryStore(cloud, "backups"), f"{NAMESPACE}/{DATABASE}/{incarnation}")


async def role(rig: Rig, agent: Agent) -> str:
    pod = await rig.client.get(POD, f"{agent.name}-0", NAMESPACE)
    return str(pod["metadata"]["labels"].get("yoban.dev/role", ""))


async def backup(agent: Agent, id: str = "20260101T000000Z-aaaaaa", shipper: str = "") -> JobStatus:
    agent.jobs.put(id, JobRequest(kind="backup", id=id, shipper=shipper))

    async def ended() -> JobStatus | None:
        status = await agent.jobs.get(id, 1.0)
        assert status is not None
        return status if status.state != "running" else None

    status = await until("the backup ended", ended)
    assert isinstance(status, JobStatus)
    return status


async def stored(agent: Agent, moment: datetime | None = None) -> None:
    moment = moment or datetime.now(UTC)
    await until(
        "it is stored",
        lambda: agent.status.archive.window_end is not None and agent.status.archive.window_end > moment,
    )


async def fill(rig: Rig, agent: Agent, count: int, prefix: str = "row") -> None:
    for number in range(count):
        await rig.driver.write(agent.context, f"{prefix}-{number}")


async def pair(rig: Rig) -> tuple[Agent, Agent]:
    """A primary and its replica, ready."""
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    second.start()
    await first.ready()
    await second.ready()
    return first, second


async def archiving(rig: Rig) -> Agent:
    """An agent that reigns, with everything stored."""
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await stored(agent)
    return agent


async def restoring(make_rig: MakeRig) -> Agent:
    """An agent, not started, that is to restore a Database of which a base backup and some log are stored."""
    rig = make_rig()
    agent = await archiving(rig)
    assert (await backup(agent)).state == "completed"
    await fill(rig, agent, 20)
    await stored(agent)
    return copying(make_rig)


def copying(make_rig: MakeRig) -> Agent:
    """An agent, not started, that is to restore what others have stored."""
    copy = make_rig()
    copy.source = STORE
    copy.document = msgspec.structs.replace(
        copy.document,
        incarnation="ba9876543210",
        uid="uid-2",
        archive=None,
        restore=RestoreDocument(path=f"{NAMESPACE}/{DATABASE}/{INCARNATION}", target=TargetDocument(type="latest")),
    )
    return copy.agent()
