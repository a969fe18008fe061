"""MySQL against the contract of engines, with real servers of the lab's image on this machine."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncmy
import pytest
import pytest_asyncio
from yoban.plugins import (
    Account,
    Engine,
    InstanceContext,
    Peer,
    Role,
    ServerCommand,
    ServerFacts,
    ServerStatus,
    TlsFiles,
)
from yoban.testing.context import make_context
from yoban.testing.engine import Archive, Driver, EngineContract, Runner
from yoban_mysql.engine import MySqlEngine

from deploy.lab.ports import free_port
from tests.integration.mysql.world import SMALL, VERSION, ask
from tests.integration.servers import (
    MIB,
    ServerUserProcesses,
    as_server,
    give,
    make_certificates,
    scratch,
)

pytestmark = pytest.mark.server

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


@pytest.fixture(scope="module")
def tls() -> Iterator[TlsFiles]:
    folder = scratch()
    yield make_certificates(folder / "certificates")
    subprocess.run(["rm", "-rf", str(folder)], check=True)


class ServerUserRunner(Runner):
    """Runs servers as a user that they accept."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[InstanceContext] = []

    async def start(self, ctx: InstanceContext, command: ServerCommand) -> None:
        self.started.append(ctx)
        await super().start(ctx, replace(command, argv=tuple(as_server(command.argv))))


class MySqlDriver(Driver):
    """An application: the owner, by password over TLS."""

    async def _ask(self, ctx: InstanceContext, *statements: tuple[Any, ...]) -> list[Any]:
        trust = ssl.create_default_context(cafile=str(ctx.tls.ca))
        owner = ctx.accounts["owner"]
        connection = await asyncmy.connect(
            host="localhost",
            port=ctx.port,
            user=owner.user,
            password=owner.password.encode(),
            database="app",
            ssl=trust,
            autocommit=True,
        )
        try:
            found: list[Any] = []
            for statement, *arguments in statements:
                found = await ask(connection, statement, *arguments)
            return found
        finally:
            await connection.ensure_closed()

    async def write(self, ctx: InstanceContext, text: str) -> None:
        made = "CREATE TABLE IF NOT EXISTS texts (id int AUTO_INCREMENT PRIMARY KEY, text varchar(200) NOT NULL)"
        await self._ask(ctx, (made,), ("INSERT INTO texts (text) VALUES (%s)", text))

    async def read(self, ctx: InstanceContext) -> set[str]:
        if not await self._ask(ctx, ("SHOW TABLES LIKE 'texts'",)):
            return set()
        return {row[0] for row in await self._ask(ctx, ("SELECT text FROM texts",))}


class TestMySQLEngine(EngineContract):
    ascending = (f"{UUID}:1-5", f"{UUID}:1-9", f"{UUID}:1-9:11", f"{UUID}:1-11:tag:1")
    bad_setting = ("max_connections", "plenty")

    @pytest.fixture
    def engine(self, mysql_programs: Path) -> Engine:
        return MySqlEngine()

    @pytest.fixture
    def driver(self) -> MySqlDriver:
        return MySqlDriver()

    @pytest.fixture
    def tmp_path(self) -> Iterator[Path]:
        """Short enough for sockets, and open to the server's user."""
        folder = scratch()
        yield folder
        subprocess.run(["rm", "-rf", str(folder)], check=True)

    async def start(
        self, engine: Engine, ctx: InstanceContext, runner: Runner, role: Role, upstream: Peer | None = None
    ) -> ServerStatus:
        """A server starts closed and follows nobody: the agent's next configuration opens it, or makes it follow."""
        await super().start(engine, ctx, runner, role, upstream)
        configured = await engine.server.configure(ctx, role, upstream, running=True)
        assert configured.rejected == ()
        return await engine.server.status(ctx)

    @pytest_asyncio.fixture
    async def runner(self, engine: Engine, archive: Archive) -> AsyncIterator[Runner]:
        runner = ServerUserRunner()
        yield runner
        await runner.close()
        for ctx in runner.started:
            await engine.server.close(ctx)

    @pytest.fixture
    def contexts(
        self, engine: Engine, archive: Archive, tmp_path: Path, tls: TlsFiles
    ) -> Callable[..., InstanceContext]:
        def make(number: int = 1, *, life: str = "a", **changes: Any) -> InstanceContext:
            folder = tmp_path / life / str(number)
            folder.mkdir(parents=True)
            facts = ServerFacts(VERSION, 1024 * MIB, 1, 2)
            wanted: dict[str, Any] = {
                "name": f"orders-{number}",
                "number": number,
                "version": VERSION,
                "incarnation": life * 12,
                "accounts": {"owner": Account("app", "secret of 'owner'")},
                "ask": archive.ask,
                "tls": tls,
                "host": "localhost",
                "port": free_port(),
                "memory": 0,
                "settings": {**engine.default_settings(facts), **SMALL},
                "processes": ServerUserProcesses(),
                **changes,
            }
            (folder / "volume").mkdir()
            context = make_context(folder, **wanted)
            give(folder)
            return context

        return make
