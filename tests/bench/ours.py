"""Our side: supervisor, agent and server as real processes."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import msgspec
from yoban.model.instance import StoreDocument, TargetDocument

from tests.bench.machine import BenchError
from tests.bench.rig import FakeCluster, PodProcess, World, back_up, repository, restored, until
from tests.bench.server import Session


def settings(segments: int) -> dict[str, str]:
    """Settings of the server for a run with so many segments; the floor and the peer replay with the same."""
    return {
        "shared_buffers": "256MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "5min",
        "wal_keep_size": f"{(segments + 48) * 16}MB",
        "wal_compression": "lz4",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_timezone": "UTC",
    }


class Ours:
    """The Database that is measured, with one instance."""

    def __init__(self, cluster: FakeCluster, bucket: StoreDocument, segments: int) -> None:
        self._segments = segments
        self.bucket = bucket
        self.world = World(cluster, engine="postgres", version="15", on_disk=True)
        self.world.make_lease()
        self.world.archive_to(bucket)
        self.world.change(settings=settings(segments))
        self.pod: PodProcess = self.world.pod()

    @property
    def socket(self) -> Path:
        """Folder of the server's socket."""
        return Path(self.pod.root, "run/yoban")

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self.pod.member.port)

    def session(self) -> Session:
        """A session with the server."""
        return Session(self.socket, self.port)

    async def start(self) -> None:
        """Start, and return when it is ready."""
        self.pod.start()
        await until("it is ready", self.pod.ready, 90)

    async def backup(self) -> tuple[str, int, int]:
        """Take a full backup. Return its id, plain bytes, stored bytes."""
        done = await back_up(self.pod)
        return done.id, done.bytes, done.stored_bytes

    async def new_agent(self) -> None:
        """Have the agent replaced: the new one has no memory of what is stored."""
        old = self.pod.agent_pid
        code, body = await self.pod.call("POST", "/v1/agent/restart")
        if code != 202:
            raise BenchError(f"the agent was not restarted: {body!r}")
        await until("a new agent runs", lambda: self.pod.agent_pid not in (None, old))
        await until("it is ready", self.pod.ready)
        await asyncio.sleep(3)

    async def forget_log(self, names: list[str]) -> None:
        """Take segments out of the repository again."""
        async with repository(self.bucket) as repo:
            await repo.log.delete(names[0][:8], names)

    def copy(self, cluster: FakeCluster) -> World:
        """A Database that is to be restored from this one's repository, up to the last commit, in its own cluster."""
        copy = World(cluster, engine="postgres", version="15", on_disk=True)
        copy.make_lease()
        copy.source = copy.store = self.bucket
        restored(copy, TargetDocument(type="latest"), uuid.uuid4().hex[:12])
        copy.document = msgspec.structs.replace(copy.document, settings=settings(self._segments))
        return copy
