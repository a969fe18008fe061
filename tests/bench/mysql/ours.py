"""Our side: supervisor, agent and MySQL as real processes."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncmy
from asyncmy.connection import Connection
from yoban.model.control import BackupResult
from yoban.model.instance import StoreDocument

from tests.bench.machine import MIB
from tests.bench.mysql import programs
from tests.bench.rig import FakeCluster, PodProcess, World, back_up, until

SETTINGS = {
    "innodb_buffer_pool_size": str(256 * MIB),
    "innodb_redo_log_capacity": str(512 * MIB),
    "performance_schema_max_table_instances": "500",
    "table_open_cache": "400",
}
"""Of all servers: ours, the floor's and the peers'."""


class Ours:
    """The Database that is measured, with one instance."""

    def __init__(self, cluster: FakeCluster, bucket: StoreDocument, folder: Path) -> None:
        self._programs = folder
        self.bucket = bucket
        self.world = World(cluster, engine="mysql", version=programs.VERSION, on_disk=True)
        self.world.make_lease()
        self.world.archive_to(bucket)
        self.world.change(settings=SETTINGS)
        self.pod: PodProcess = self.world.pod()

    @property
    def socket(self) -> Path:
        """The server's socket."""
        return Path(self.pod.root, "run/yoban/mysqld.sock")

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return Path(self.pod.data)

    async def start(self) -> None:
        """Start, and return when it is ready."""
        self.pod.start(PATH=f"{self._programs}:/usr/bin:/bin")
        await until("it is ready", self.pod.ready, 120)

    async def sql(self, text: str, *, stdin: bytes = b"", deadline: float = 600.0) -> str:
        """Run SQL as the agent's account."""
        return await programs.sql(self.socket, text, stdin=stdin, deadline=deadline)

    async def checksums(self, tables: Sequence[str]) -> str:
        """The checksums of tables."""
        return await self.sql(f"CHECKSUM TABLE {', '.join(tables)}")

    async def session(self) -> Session:
        """A session of an application: the owner, by password over TLS."""
        trust = ssl.create_default_context(cafile=str(self.world.pki / "ca.crt"))
        connection = await asyncmy.connect(
            host="localhost",
            port=self.pod.member.port,
            user="app",
            password=b"secret-owner",
            database="app",
            ssl=trust,
            autocommit=True,
        )
        return Session(connection)

    async def backup(self) -> BackupResult:
        """Take a full backup; return what the agent tells of it."""
        return await back_up(self.pod)

    async def stored(self) -> None:
        """Wait until everything that is committed now is stored."""
        moment = datetime.now(UTC)

        async def covered() -> bool:
            end = (await self.pod.status()).archive.window_end
            return end is not None and end > moment

        await until("all is stored", covered, 300)


class Session:
    """A connection of an application, for one task at a time. An async context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.close()

    async def execute(self, statement: str) -> None:
        """Run a statement, committed when this returns."""
        async with self._connection.cursor() as cursor:
            await cursor.execute(statement)
