"""Real PostgreSQL servers for tests: instances of one Database on this machine, an archive that is a folder.

The archive's client is a shell script that copies; it can be told to fail. Servers end by signals and never by a loss of
power, so theirs is a folder in memory where there is room, and none of them syncs.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
from yoban.errors import Unavailable
from yoban.plugins import (
    Account,
    BackupEnd,
    BackupRequest,
    BackupSession,
    BytesItem,
    DirectoryItem,
    Durability,
    FileItem,
    InstanceContext,
    LinkItem,
    Peer,
    RecoveryPlan,
    RecoveryProgress,
    RecoveryState,
    Role,
    ServerFacts,
    StopMode,
    TlsFiles,
)
from yoban_postgres.engine import PostgresEngine
from yoban_postgres.server import initdb_command

from deploy.lab.ports import free_port
from tests.integration.servers import MIB, ServerUserProcesses, as_server, give, scratch

_ASK = """#!/bin/sh
# ask.sh ARCHIVE VERB SEGMENT PATH
archive=$1 verb=$2 segment=$3 path=$4
echo "$verb $segment" >>"$archive/.asked"
[ -e "$archive/.fail" ] && exit 255
case $verb in
archive)
  if [ -e "$archive/$segment" ]; then cmp -s "$path" "$archive/$segment" || exit 255; exit 0; fi
  cp "$path" "$archive/.$segment.$$" && mv "$archive/.$segment.$$" "$archive/$segment" || exit 255 ;;
restore)
  [ -e "$archive/.source" ] && archive=$(cat "$archive/.source")
  [ -e "$archive/.broken.$segment" ] && exit 255
  [ -e "$archive/$segment" ] || exit 1
  cp "$archive/$segment" "$path" || exit 255 ;;
*) exit 255 ;;
esac
"""


@dataclass
class Instance:
    """One server."""

    world: World
    ctx: InstanceContext
    process: asyncio.subprocess.Process | None = None

    @property
    def engine(self) -> PostgresEngine:
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
                *as_server([*command.argv, "-c", "fsync=off"]),
                env=dict(command.env),
                cwd=command.cwd,
                stdout=log,
                stderr=log,
            )

    async def start(self, role: Role = Role.PRIMARY, upstream: Instance | None = None) -> None:
        configured = await self.engine.server.configure(
            self.ctx, role, upstream.peer if upstream else None, running=False
        )
        assert configured.rejected == (), configured
        await self.launch()
        await self.answers()

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
        await self.engine.server.close(self.ctx)
        if self.process.returncode is None:
            self.process.send_signal(self.engine.server.command(self.ctx).stop_signals[mode])
            try:
                async with asyncio.timeout(30):
                    await self.process.wait()
            except TimeoutError:
                self.process.send_signal(signal.SIGQUIT)
                await self.process.wait()
                raise
        self.process = None

    async def ended(self, deadline: float = 30) -> None:
        assert self.process is not None
        async with asyncio.timeout(deadline):
            await self.process.wait()

    async def session(self) -> asyncpg.Connection[asyncpg.Record]:
        """A superuser's connection with the server's own defaults, that waits for no replica."""
        return await asyncpg.connect(
            host=str(self.ctx.run),
            port=self.ctx.port,
            user="postgres",
            database="postgres",
            server_settings={"synchronous_commit": "local"},
        )

    async def run(self, *statements: str) -> None:
        connection = await self.session()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def value(self, query: str, *arguments: Any) -> Any:
        connection = await self.session()
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()

    async def as_app(self, password: str = "first", **more: Any) -> asyncpg.Connection[asyncpg.Record]:
        import ssl

        trust = ssl.create_default_context(cafile=str(self.ctx.tls.ca))
        return await asyncpg.connect(
            host="localhost", port=self.ctx.port, user="app", password=password, database="app", ssl=trust, timeout=10, **more
        )  # fmt: skip

    async def until(self, query: str, deadline: float = 30) -> None:
        """Wait until a query is true; a table that a replica does not have yet makes it false."""
        async with asyncio.timeout(deadline):
            while True:
                with contextlib.suppress(asyncpg.UndefinedTableError):
                    if await self.value(query):
                        return
                await asyncio.sleep(0.05)

    async def archived(self) -> None:
        """Switch the segment and wait until everything is in the archive."""
        name = await self.value("select pg_walfile_name(pg_switch_wal())")
        async with asyncio.timeout(30):
            while not (self.world.archive / name).exists():
                await asyncio.sleep(0.02)


@dataclass
class World:
    """Instances of one Database, and their archive."""

    root: Path
    version: str
    tls: TlsFiles
    templates: Templates
    engine: PostgresEngine = field(default_factory=PostgresEngine)
    instances: list[Instance] = field(default_factory=list)

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    def asked(self) -> list[str]:
        file = self.archive / ".asked"
        return file.read_text().splitlines() if file.exists() else []

    def instance(
        self,
        *,
        log: bool = False,
        archive: Path | None = None,
        config: Mapping[str, object] | None = None,
        settings: Mapping[str, str] | None = None,
        durability: Durability | None = None,
    ) -> Instance:
        number = len(self.instances) + 1
        home = self.root / str(number)
        for name in ("volume", "run", "tmp", "wal"):
            (home / name).mkdir(parents=True)
        store = archive or self.archive
        store.mkdir(exist_ok=True)
        facts = ServerFacts(self.version, 256 * MIB, 1, 3)
        ctx = InstanceContext(
            namespace="shop",
            database="orders",
            name=f"orders-{number}",
            number=number,
            incarnation="0123456789ab",
            version=self.version,
            data=home / "volume" / "pgdata",
            log=home / "wal" if log else None,
            run=home / "run",
            tmp=home / "tmp",
            settings={
                **self.engine.default_settings(facts),
                "shared_buffers": "16MB",
                "wal_sender_timeout": "5s",
                "wal_receiver_timeout": "5s",
                **(settings or {}),
            },
            engine_config=config or {},
            durability=durability or Durability(),
            accounts={"owner": Account("app", "first")},
            tls=self.tls,
            peers=(),
            host="localhost",
            port=free_port(),
            memory=0,
            cpus=1,
            ask=(str(self.root / "ask it.sh"), str(store)),
            processes=ServerUserProcesses(),
        )
        give(home)
        give(store)
        made = Instance(self, ctx)
        self.instances.append(made)
        for one in self.instances:
            one.change(peers=tuple(other.peer for other in self.instances if other is not one))
        return made

    def target(self, **more: Any) -> Instance:
        """An empty instance that restores from our archive, and archives to its own."""
        store = self.root / f"archive of {len(self.instances) + 1}"
        store.mkdir()
        (store / ".source").write_text(str(self.archive))
        made = self.instance(archive=store, **more)
        for one in self.instances:
            one.change(peers=tuple(peer for peer in one.ctx.peers if one is not made and peer != made.peer))
        return made

    async def primary(self, *, own: bool = False, **more: Any) -> Instance:
        """A new primary with its accounts; with `own`, of a cluster of its own and not of the one that tests share."""
        made = self.instance(**more)
        await self.found(made, own=own)
        await made.start()
        await self.engine.server.ensure_accounts(made.ctx)
        return made

    async def found(self, made: Instance, *, own: bool = False) -> None:
        """Make its data: a copy of a new cluster, or by `initialize` where it is special."""
        if own or made.ctx.engine_config or made.ctx.log is not None:
            await self.engine.server.initialize(made.ctx)
            return
        template = await asyncio.to_thread(self.templates.of, made.ctx)
        # As root: copies keep owner and mode.
        await asyncio.to_thread(
            subprocess.run, ["cp", "-a", "--reflink=auto", str(template), str(made.ctx.data)], check=True
        )

    async def replica(self, donor: Instance, **more: Any) -> Instance:
        """A new replica, streaming."""
        made = self.instance(**more)
        await self.engine.replication.manage_members(
            donor.ctx, [one.peer for one in self.instances if one is not donor]
        )
        await self.engine.replication.provision(made.ctx, donor.peer, lambda done, total: None)
        await made.start(Role.REPLICA, donor)
        await self.streams(made)
        return made

    async def streams(self, replica: Instance) -> None:
        async with asyncio.timeout(30):
            while not (await self.engine.server.status(replica.ctx)).upstream:
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        running = [one.process for one in self.instances if one.process is not None and one.process.returncode is None]
        for process in running:
            process.send_signal(signal.SIGQUIT)
        for process in running:
            await process.wait()
        for one in self.instances:
            await self.engine.server.close(one.ctx)


class Templates:
    """New clusters to copy from, one for each version. Their log is that of a cluster that never ran."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, ctx: InstanceContext) -> Path:
        """The folder to copy; made when first asked for."""
        made = self._root / f"template {ctx.version}"
        if not made.exists():
            making = made.with_name(f"making {ctx.version}")
            making.mkdir(mode=0o700)
            give(making)
            command = [*initdb_command(ctx, making), "--no-sync"]
            subprocess.run(
                as_server(command), check=True, capture_output=True, cwd="/tmp", env={"PATH": "/usr/bin:/bin"}
            )
            making.rename(made)
        return made


@asynccontextmanager
async def open_world(version: str, tls: TlsFiles, templates: Templates) -> AsyncIterator[World]:
    root = scratch()
    script = root / "ask it.sh"
    script.write_text(_ASK)
    script.chmod(0o755)
    world = World(root, version, tls, templates)
    try:
        yield world
    finally:
        await world.close()
        shutil.rmtree(root)


@dataclass
class Copy:
    """A base backup in a folder."""

    folder: Path
    session: BackupSession
    end: BackupEnd
    paths: dict[str, object]


async def take(source: Instance, folder: Path, *, meanwhile: Callable[[BackupSession], Any] | None = None) -> Copy:
    """Make a base backup as core does: items to files, inspected, the last ones last, then the labels."""
    paths: dict[str, object] = {}
    async with source.engine.base_backup.backup(source.ctx, BackupRequest("test")) as session:
        async for item in session.items():
            paths[item.path] = item
            target = folder / item.path
            if isinstance(item, DirectoryItem):
                target.mkdir(parents=True, exist_ok=True)
            elif isinstance(item, LinkItem):
                target.symlink_to(item.target)
            elif isinstance(item, BytesItem):
                target.write_bytes(item.data)
            else:
                await asyncio.to_thread(_copy, session, item, target)
        if meanwhile is not None:
            await meanwhile(session)
        end = await session.finish()
    for item in end.items:
        (folder / item.path).write_bytes(item.data)
        paths[item.path] = item
    return Copy(folder, session, end, paths)


def _copy(session: BackupSession, item: FileItem, target: Path) -> None:
    try:
        data = item.source.read_bytes()[: item.size]
    except FileNotFoundError:
        assert item.may_vanish, item
        return
    if item.inspect:
        step = session.inspect_block * 16
        for offset in range(0, len(data), step):
            session.inspect(item, offset, memoryview(data)[offset : offset + step])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


async def put_back(copy: Copy, target: Instance) -> None:
    """Place a base backup into an empty instance."""
    recovery = target.engine.recovery
    for path, item in copy.paths.items():
        place = recovery.place(target.ctx, path)
        if isinstance(item, DirectoryItem):
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(item.mode)
        elif isinstance(item, LinkItem):
            place.symlink_to(item.target)
        elif (copy.folder / path).exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((copy.folder / path).read_bytes())
    give(target.world.root)
    await recovery.placed(target.ctx)


async def restore(copy: Copy, target: Instance, plan: RecoveryPlan) -> RecoveryProgress:
    """Place, prepare, start and wait until the recovery is at its end, good or bad."""
    await put_back(copy, target)
    engine = target.engine
    await engine.recovery.prepare(target.ctx, plan)
    configured = await engine.server.configure(target.ctx, Role.RECOVERY, None, running=False)
    assert configured.rejected == ()
    await target.launch()
    return await settle(target, plan)


async def settle(target: Instance, plan: RecoveryPlan, deadline: float = 60) -> RecoveryProgress:
    async with asyncio.timeout(deadline):
        while True:
            progress = await target.engine.recovery.progress(target.ctx, plan)
            if progress.state is not RecoveryState.REPLAYING:
                return progress
            await asyncio.sleep(0.1)
