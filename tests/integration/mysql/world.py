"""Real MySQL servers for tests: instances of one Database on this machine.

Servers end by signals and never by a loss of power, so theirs is a folder in memory where there is room. Each instance is
cared for as its agent would: configured while it runs, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncmy
from asyncmy.connection import Connection
from yoban.errors import Retryable, Unavailable
from yoban.plugins import Account, Durability, InstanceContext, Peer, Role, ServerFacts, StopMode, TlsFiles
from yoban_mysql.engine import MySqlEngine
from yoban_mysql.session import Session, connect

from deploy.lab.ports import free_port
from tests.integration.servers import MIB, ServerUserProcesses, as_server, give, scratch

VERSION = "9.7"
SMALL = {
    "innodb_buffer_pool_size": str(32 * MIB),
    "innodb_redo_log_capacity": str(32 * MIB),
    "performance_schema_max_table_instances": "500",
    "table_open_cache": "200",
}


@dataclass
class Instance:
    """One server."""

    world: World
    ctx: InstanceContext
    process: asyncio.subprocess.Process | None = None

    @property
    def engine(self) -> MySqlEngine:
        return self.world.engine

    @property
    def peer(self) -> Peer:
        return Peer(self.ctx.name, self.ctx.host, self.ctx.port)

    @property
    def output(self) -> str:
        file = self.ctx.tmp / "server.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def change(self, **changes: Any) -> None:
        self.ctx = replace(self.ctx, **changes)

    def sets(self, **settings: str) -> None:
        self.change(settings={**self.ctx.settings, **settings})

    async def launch(self) -> None:
        """Start the server as configured; do not wait."""
        command = self.engine.server.command(self.ctx)
        with (self.ctx.tmp / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *as_server(command.argv), env=dict(command.env), cwd=command.cwd, stdout=log, stderr=log
            )

    async def start(self, role: Role = Role.PRIMARY, upstream: Instance | None = None) -> None:
        """Configure, start, and configure what takes a running server, as an agent does."""
        peer = upstream.peer if upstream else None
        configured = await self.engine.server.configure(self.ctx, role, peer, running=False)
        assert configured.rejected == (), configured
        await self.launch()
        await self.answers()
        await self.care(role, upstream)

    async def care(self, role: Role = Role.PRIMARY, upstream: Instance | None = None) -> None:
        peer = upstream.peer if upstream else None
        configured = await self.engine.server.configure(self.ctx, role, peer, running=True)
        assert configured.rejected == (), configured

    async def answers(self, deadline: float = 40) -> None:
        async with asyncio.timeout(deadline):
            while True:
                assert self.process is not None
                assert self.process.returncode is None, self.output
                try:
                    await self.engine.server.status(self.ctx)
                    return
                except Unavailable:
                    await asyncio.sleep(0.05)

    async def stop(self, mode: StopMode = StopMode.CLEAN) -> None:
        if self.process is None:
            return
        if mode is StopMode.CLEAN:
            await self.engine.server.close(self.ctx)
        if self.process.returncode is None:
            self.process.send_signal(self.engine.server.command(self.ctx).stop_signals[mode])
            try:
                async with asyncio.timeout(40):
                    await self.process.wait()
            except TimeoutError:
                self.process.send_signal(signal.SIGKILL)
                await self.process.wait()
                raise
        self.process = None
        await self.engine.server.close(self.ctx)

    async def session(self) -> Session:
        """The agent's own account."""
        return await connect(self.ctx)

    async def run(self, *statements: str, deadline: float = 20.0) -> None:
        session = await self.session()
        try:
            for statement in statements:
                await session.execute(statement, deadline=deadline)
        finally:
            await session.leave()

    async def value(self, query: str, *arguments: Any) -> Any:
        session = await self.session()
        try:
            return await session.value(query, *arguments)
        finally:
            await session.leave()

    async def as_app(self, password: str = "first", **more: Any) -> Connection:
        """An application: the owner, by password over TLS."""
        trust = ssl.create_default_context(cafile=str(self.ctx.tls.ca))
        return await asyncmy.connect(
            host="localhost",
            port=self.ctx.port,
            user="app",
            password=password.encode(),
            database="app",
            ssl=trust,
            autocommit=True,
            **more,
        )

    async def until(self, query: str, deadline: float = 30) -> None:
        """Wait until a query is true; a table that a replica does not have yet makes it false."""
        async with asyncio.timeout(deadline):
            while True:
                with contextlib.suppress(Unavailable):
                    if await self.value(query):
                        return
                await asyncio.sleep(0.05)


async def ask(connection: Connection, statement: str, *arguments: Any) -> list[Any]:
    """Run a statement of an application; return its rows."""
    async with connection.cursor() as cursor:
        await cursor.execute(statement, arguments or None)
        return list(await cursor.fetchall() or ())


def hang_up(connection: Connection) -> None:
    """End an application's connection at once, as when it dies: encrypted, a close would wait for the server's answer."""
    if connection._transport is not None:
        connection._transport.abort()
    connection.close()


@dataclass
class World:
    """Instances of one Database."""

    root: Path
    tls: TlsFiles
    templates: Templates
    engine: MySqlEngine = field(default_factory=MySqlEngine)
    instances: list[Instance] = field(default_factory=list)

    def instance(
        self,
        *,
        config: Mapping[str, object] | None = None,
        settings: Mapping[str, str] | None = None,
        durability: Durability | None = None,
        incarnation: str = "0123456789ab",
    ) -> Instance:
        number = len(self.instances) + 1
        home = self.root / str(number)
        for name in ("volume", "run", "tmp"):
            (home / name).mkdir(parents=True)
        facts = ServerFacts(VERSION, 1024 * MIB, 1, 3)
        ctx = InstanceContext(
            namespace="shop",
            database="orders",
            name=f"orders-{number}",
            number=number,
            incarnation=incarnation,
            version=VERSION,
            data=home / "volume" / "data",
            log=None,
            run=home / "run",
            tmp=home / "tmp",
            settings={**self.engine.default_settings(facts), **SMALL, **(settings or {})},
            engine_config=config or {},
            durability=durability or Durability(),
            accounts={"owner": Account("app", "first")},
            tls=self.tls,
            peers=(),
            host="localhost",
            port=free_port(),
            memory=0,
            cpus=1,
            ask=("false",),
            processes=ServerUserProcesses(),
        )
        give(home)
        made = Instance(self, ctx)
        self.instances.append(made)
        for one in self.instances:
            one.change(peers=tuple(other.peer for other in self.instances if other is not one))
        return made

    async def primary(self, *, own: bool = False, **more: Any) -> Instance:
        """A new primary with its accounts; with `own`, of data made for it and not copied from what tests share."""
        made = self.instance(**more)
        await self.found(made, own=own)
        await made.start()
        await self.engine.server.ensure_accounts(made.ctx)
        return made

    async def found(self, made: Instance, *, own: bool = False) -> None:
        """Make its data: a copy of new data, or by `initialize` where it is special."""
        if own or made.ctx.engine_config:
            await self.engine.server.initialize(made.ctx)
            return
        template = await self.templates.of(self.engine, made.ctx)
        # As root: copies keep owner and mode.
        copy = ["cp", "-a", "--reflink=auto", str(template), str(made.ctx.data)]
        await asyncio.to_thread(subprocess.run, copy, check=True)

    async def replica(self, donor: Instance, **more: Any) -> Instance:
        """A new replica that follows."""
        made = self.instance(**more)
        await self.engine.replication.provision(made.ctx, donor.peer, lambda done, total: None)
        await made.start(Role.REPLICA, donor)
        await self.follows(made)
        return made

    async def follows(self, replica: Instance) -> None:
        async with asyncio.timeout(30):
            while not (await self.engine.server.status(replica.ctx)).upstream:
                await asyncio.sleep(0.05)

    async def level(self, replica: Instance, primary: Instance) -> None:
        """Wait until a replica has all that its primary has now."""
        wanted = (await self.engine.server.status(primary.ctx)).position
        assert wanted is not None
        async with asyncio.timeout(30):
            while True:
                have = (await self.engine.server.status(replica.ctx)).position
                if have is not None and self.engine.positions.covers(have, wanted):
                    return
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        for one in self.instances:
            if one.process is not None and one.process.returncode is None:
                one.process.kill()
                await one.process.wait()
        for one in self.instances:
            await self.engine.server.close(one.ctx)


async def eventually(work: Any, deadline: float = 30) -> Any:
    """Try again while it says that it may work later."""
    async with asyncio.timeout(deadline):
        while True:
            try:
                return await work()
            except Retryable:
                await asyncio.sleep(0.1)


class Templates:
    """New data to copy from: a server that never ran, without an identity."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: Path | None = None

    async def of(self, engine: MySqlEngine, ctx: InstanceContext) -> Path:
        """The folder to copy; made when first asked for."""
        if self._made is None:
            home = self._root / "template"
            for name in ("volume", "tmp"):
                (home / name).mkdir(parents=True)
            give(home)
            made = replace(ctx, data=home / "volume" / "data", tmp=home / "tmp")
            await engine.server.initialize(made)
            (made.data / "auto.cnf").unlink()
            self._made = made.data
        return self._made


@asynccontextmanager
async def open_world(tls: TlsFiles, templates: Templates) -> AsyncIterator[World]:
    root = scratch()
    world = World(root, tls, templates)
    try:
        yield world
    finally:
        await world.close()
        await asyncio.to_thread(subprocess.run, ["rm", "-rf", str(root)], check=True)
