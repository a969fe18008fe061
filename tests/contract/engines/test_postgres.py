"""PostgreSQL against the contract of engines, with real servers of the newest version on this machine."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from yoban.plugins import Account, Engine, InstanceContext, ServerCommand, ServerFacts, StopMode, TlsFiles
from yoban.testing.context import make_context
from yoban.testing.engine import Archive, Driver, EngineContract, Runner
from yoban_postgres.engine import PostgresEngine

from deploy.lab.ports import free_port
from tests.integration.servers import ServerUserProcesses, as_server, give, make_certificates, scratch

VERSIONS = sorted(path.parent.parent.name for path in Path("/usr/lib/postgresql").glob("*/bin/postgres"))

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def tls() -> Iterator[TlsFiles]:
    folder = scratch()
    yield make_certificates(folder / "certificates")
    shutil.rmtree(folder)


class ServerUserRunner(Runner):
    """Runs servers as a user that they accept."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[InstanceContext] = []

    async def start(self, ctx: InstanceContext, command: ServerCommand) -> None:
        self.started.append(ctx)
        await super().start(ctx, replace(command, argv=tuple(as_server([*command.argv, "-c", "fsync=off"]))))


class ShellArchive(Archive):
    """The harness's client, run by an interpreter that the server's user may execute."""

    @property
    def ask(self) -> tuple[str, ...]:
        return ("/usr/bin/python3", *super().ask[1:])


class PostgresDriver(Driver):
    """An application: the owner, by password over TLS."""

    async def _connect(self, ctx: InstanceContext) -> asyncpg.Connection[asyncpg.Record]:
        trust = ssl.create_default_context(cafile=str(ctx.tls.ca))
        owner = ctx.accounts["owner"]
        return await asyncpg.connect(
            host="localhost", port=ctx.port, user=owner.user, password=owner.password, database="app", ssl=trust
        )

    async def write(self, ctx: InstanceContext, text: str) -> None:
        connection = await self._connect(ctx)
        try:
            await connection.execute("create table if not exists texts (text text)")
            await connection.execute("insert into texts values ($1)", text)
        finally:
            await connection.close()

    async def read(self, ctx: InstanceContext) -> set[str]:
        connection = await self._connect(ctx)
        try:
            if not await connection.fetchval("select to_regclass('texts') is not null"):
                return set()
            return {row["text"] for row in await connection.fetch("select text from texts")}
        finally:
            await connection.close()


class TestPostgresEngine(EngineContract):
    ascending = ("00000001:0/10", "00000001:0/3000148", "00000001:0/30001A0", "00000001:2/0")
    bad_setting = ("work_mem", "plenty")

    @pytest.fixture
    def engine(self) -> Engine:
        if not VERSIONS:
            pytest.skip("PostgreSQL is not installed")
        return PostgresEngine()

    @pytest.fixture
    def driver(self) -> PostgresDriver:
        return PostgresDriver()

    @pytest.fixture
    def tmp_path(self) -> Iterator[Path]:
        """Short enough for sockets, and open to the server's user."""
        folder = scratch()
        yield folder
        shutil.rmtree(folder)

    @pytest_asyncio.fixture
    async def runner(self, engine: Engine, archive: Archive) -> AsyncIterator[Runner]:
        runner = ServerUserRunner()
        yield runner
        for ctx in runner.started:
            await engine.server.close(ctx)
            await runner.stop(ctx, StopMode.IMMEDIATE)  # children of a killed one would live on for a while
        await runner.close()

    @pytest_asyncio.fixture
    async def archive(self, engine: Engine, tmp_path: Path) -> AsyncIterator[Archive]:
        archive = ShellArchive(engine, tmp_path)
        await archive.open()
        yield archive
        await archive.close()

    @pytest.fixture
    def contexts(
        self, engine: Engine, archive: Archive, tmp_path: Path, tls: TlsFiles
    ) -> Callable[..., InstanceContext]:
        def make(number: int = 1, *, life: str = "a", **changes: Any) -> InstanceContext:
            folder = tmp_path / life / str(number)
            folder.mkdir(parents=True)
            facts = ServerFacts(VERSIONS[-1], 256 << 20, 1, 2)
            wanted: dict[str, Any] = {
                "name": f"orders-{number}",
                "number": number,
                "version": VERSIONS[-1],
                "incarnation": life * 12,
                "data": folder / "volume" / "pgdata",
                "accounts": {"owner": Account("app", "secret of 'owner'")},
                "ask": archive.ask,
                "tls": tls,
                "host": "localhost",
                "port": free_port(),
                "settings": {**engine.default_settings(facts), "shared_buffers": "16MB"},
                "processes": ServerUserProcesses(),
                **changes,
            }
            (folder / "volume").mkdir()
            context = make_context(folder, **wanted)
            give(folder)
            return context

        return make
