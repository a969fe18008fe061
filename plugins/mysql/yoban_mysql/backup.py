"""Facet: a base backup, by the server's own CLONE into a folder beside the data.

Guarantees: the copy is consistent by itself, and its set of GTIDs is read from the copy, started once for that: it is exact.
What was made is removed at the end, whatever happens. The copy has no identity (server uuid) of its donor's. Too little room
makes the backup fail before anything is copied; and it is given up while it is made or uploaded, however long that takes,
when the server gets short of room.

Where all tables are InnoDB's no write is held back: CLONE copies InnoDB's pages and the redo log written meanwhile (MySQL
reference manual, "The Clone Plugin"). Where there are tables of MyISAM, CSV or ARCHIVE, writes are held back while their
files are copied and CLONE runs, so that both are of one moment (`quiesce`): on a replica its applier is stopped before, and
the primary's writers notice nothing; on a primary it is for as long as the request allows, and what would take longer is
refused. That no GTID came in between is checked. Tables that cannot be carried make the backup fail by name (`carried`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opentelemetry import trace
from yoban.errors import NotReady, Terminal, Unavailable
from yoban.plugins import (
    BackupBegin,
    BackupEnd,
    BackupItem,
    BackupRequest,
    BackupSession,
    BaseBackup,
    DirectoryItem,
    FileItem,
    InstanceContext,
)
from yoban.plugins.files import empty_folder, make_folder

from yoban_mysql import carried, follow, quiesce
from yoban_mysql.carried import Table
from yoban_mysql.configuration import plugins
from yoban_mysql.gtid import GtidSet
from yoban_mysql.log import newest_commit
from yoban_mysql.names import COPY
from yoban_mysql.pages import PAGE, Verifier, has_pages
from yoban_mysql.positions import position_of
from yoban_mysql.server import plain, words
from yoban_mysql.session import Kept, Session, connect

tracer = trace.get_tracer("yoban.mysql")
CLONE_DEADLINE = 86400.0
START_DEADLINE = 3600.0
"""For the one start of the copy, in which it recovers."""
ROOM = 64 << 20
"""Bytes that must be free beyond the copy's size."""
RESERVE_PART = 20
"""One part in so many of the volume stays free for what the server writes; `MOST_RESERVE` bytes are enough."""
MOST_RESERVE = 1 << 30
LOOK = 5.0
REPLICA_BOUND = 3600.0
"""Longest time in seconds that a replica stands still. A promotion, another source and a stop end it sooner."""
ASSUMED = 256 << 20
"""Bytes a second that a copy is taken to make where none has told better: what a small machine's disk does."""
TELLING = 64 << 20
"""Bytes from which on a copy tells how fast the next one will be; a smaller one tells how long it takes to begin."""

_LEFT_OUT = frozenset({"auto.cnf", "#innodb_temp", "#clone", "ib_buffer_pool", "mysql_upgrade_history"})
"""What is of one server only, or made anew. The list of pages to warm up with is of the donor's moment."""

_BEGIN = (
    "SELECT @@GLOBAL.gtid_executed AS executed, @@GLOBAL.server_uuid AS uuid, VERSION() AS version,"
    " UTC_TIMESTAMP(6) AS now, @@GLOBAL.datadir AS folder"
)
_LAST_COPY = """
SELECT SUM(p.data) AS copied, SUM(TIMESTAMPDIFF(MICROSECOND, p.begin_time, p.end_time)) / 1000000 AS seconds
  FROM performance_schema.clone_status AS s JOIN performance_schema.clone_progress AS p ON p.id = s.id
 WHERE s.source = 'LOCAL INSTANCE' AND s.state = 'Completed' AND p.stage IN ('FILE COPY', 'PAGE COPY', 'REDO COPY')
"""
_LINE = "SELECT line FROM yoban.line WHERE id = 1"
_CLONES = "SELECT id FROM information_schema.processlist WHERE info LIKE 'CLONE LOCAL DATA DIRECTORY%'"


def copy_folder(ctx: InstanceContext) -> Path:
    """Return the folder that a backup's copy is made in."""
    return ctx.data.with_name(f"{ctx.data.name}.{COPY}")


def files_folder(ctx: InstanceContext) -> Path:
    """Return the folder that files are copied into which CLONE does not carry."""
    return ctx.data.with_name(f"{ctx.data.name}.{COPY}.files")


@dataclass(frozen=True, slots=True)
class Found:
    """What the copy said when it was started: its set of GTIDs, and its line."""

    executed: GtidSet
    line: str


class MySqlSession(BackupSession):
    """The copy, ready to be read; its pages are verified meanwhile."""

    inspect_block = PAGE

    def __init__(self, folder: Path, begin: BackupBegin, end: BackupEnd, files: Sequence[BackupItem]) -> None:
        self._folder = folder
        self.begin = begin
        self._end = end
        self._files = files
        self._verifier = Verifier()
        self.total_bytes = sum(item.size for item in files if isinstance(item, FileItem))

    async def items(self) -> AsyncIterator[BackupItem]:
        """See `BackupSession.items`."""
        for item in self._files:
            yield item

    def inspect(self, item: FileItem, offset: int, data: memoryview) -> None:
        """See `BackupSession.inspect`."""
        self._verifier.inspect(item, offset, data)

    async def finish(self) -> BackupEnd:
        """See `BackupSession.finish`: everything was known when the copy was made."""
        return self._end


class MySqlBackup(BaseBackup):
    """Base backups of a primary or a replica."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    @asynccontextmanager
    async def backup(self, ctx: InstanceContext, request: BackupRequest) -> AsyncIterator[BackupSession]:
        """See `BaseBackup.backup`.

        Raises:
            Terminal: tables that cannot be carried (reason `TablesNotCarried`), no room (`NoSpace`, also while the copy is
                there), or a copy for which writes would be held back for too long (`FreezeTooLong`).
            NotReady: the server cannot be quiesced now (`LongStatement`, `LockNotGranted`).
            Unavailable: the server does not answer, or CLONE failed.
        """
        folder = copy_folder(ctx)
        await asyncio.to_thread(_clear, ctx)
        try:
            async with roomy(ctx):
                begin, tables = await self._look(ctx)
                with tracer.start_as_current_span("clone"):
                    if tables:
                        started, frozen = await self._quiesced(ctx, request, folder)
                    else:
                        started, frozen = await self._clone(ctx, folder, tables), 0.0
                with tracer.start_as_current_span("start the copy"):
                    found = await self._read(ctx, folder)
                if tables:
                    if found.executed != started["executed"]:
                        raise Unavailable("the copy is not of the moment of its tables' files", object=ctx.name)
                    # After the first start of the copy, which makes these tables anew and empty.
                    await asyncio.to_thread(carried.put, files_folder(ctx), folder)
                files = await asyncio.to_thread(_list, folder)
                position = position_of(found.executed)
                if position is None:
                    raise NotReady("nothing was committed yet", object=ctx.name)
                facts = {
                    "server_uuid": started["uuid"],
                    "version": begin.version,
                    "gtid_executed": position,
                    "binlog_file": str(started["file"]),
                    "binlog_position": str(started["position"]),
                }
                # Read when the copy was complete: it holds nothing later. Commits bear the time of where they were run first,
                # and that server's clock may be ahead of ours.
                newest = await asyncio.to_thread(newest_commit, ctx.data)
                ended = max(started["ended"], newest or started["ended"])
                end = BackupEnd(position, found.line, ended, frozen_seconds=frozen, facts=facts)
                yield MySqlSession(folder, begin, end, files)
        finally:
            await asyncio.shield(asyncio.to_thread(_clear, ctx))

    async def abandon(self, ctx: InstanceContext) -> None:
        """See `BaseBackup.abandon`: a CLONE that nobody waits for is ended, and what it made is removed.

        Writes are held back no more. An applier that was stopped is started by `configure`.
        """
        with contextlib.suppress(Unavailable):  # without a server nothing runs
            async with self._kept.use(ctx) as session:
                await quiesce.release(session)
                await _kill(session)
        await asyncio.to_thread(_clear, ctx)

    async def _look(self, ctx: InstanceContext) -> tuple[BackupBegin, list[Table]]:
        """See whether a copy can be made, where the log is, and which tables CLONE would leave empty."""
        async with self._kept.use(ctx) as session:
            tables = await carried.survey(session)
            row = await session.row(_BEGIN)
            assert row is not None
            line = str(await session.value(_LINE) or "")
        needed = await asyncio.to_thread(_size, ctx.data)
        volume = await asyncio.to_thread(shutil.disk_usage, ctx.data.parent)
        spare = reserve(volume.total)
        if volume.free < needed + ROOM + spare:
            raise no_room(ctx, f"about {needed} bytes are needed, and {spare} for the server; {volume.free} are free")
        position = position_of(GtidSet.parse(row["executed"]))
        if position is None:
            raise NotReady("nothing was committed yet", object=ctx.name)
        begin = BackupBegin(
            position=position,
            line=line,
            time=_utc(row["now"]),
            system_id="",
            version=str(row["version"]).partition("-")[0],
        )
        return begin, tables

    async def _quiesced(
        self, ctx: InstanceContext, request: BackupRequest, folder: Path
    ) -> tuple[Mapping[str, Any], float]:
        """Copy the other tables' files and CLONE while nothing writes; return what was seen, and for how many seconds."""
        async with quiesce.reserved(ctx) as session:
            replica = await follow.is_replica(session)
            bound = REPLICA_BOUND if replica else request.max_frozen_seconds
            needed = await asyncio.to_thread(_size, ctx.data)
            last = await session.row(_LAST_COPY) or {}
            rate = speed(int(last.get("copied") or 0), float(last.get("seconds") or 0))
            if needed > bound * rate:
                raise Terminal(
                    "the copy would take longer than writes may be held back",
                    object=ctx.name,
                    cause=f"about {needed} bytes at {rate / (1 << 20):.0f} MiB/s in {bound:g} s, for tables that are not "
                    "InnoDB's",
                    fix="ALTER TABLE … ENGINE=InnoDB, so that nothing need be held back; or add a replica, to be backed up",
                    reason="FreezeTooLong",
                )
            async with (
                follow.paused(ctx, session) if replica else contextlib.nullcontext(),
                quiesce.frozen(ctx, session, bound) as freeze,
            ):
                async with self._kept.use(ctx) as other:
                    tables = await carried.survey(other)
                    executed = GtidSet.parse(await other.value("SELECT @@GLOBAL.gtid_executed"))
                await _take(ctx, tables)
                started = await self._clone(ctx, folder, tables)
        return {**started, "executed": executed}, freeze.seconds

    async def _clone(self, ctx: InstanceContext, folder: Path, tables: Sequence[Table]) -> Mapping[str, Any]:
        """Copy on a connection of its own, which is given up with the CLONE when this is cancelled."""
        session = await connect(ctx)
        try:
            await session.execute("CLONE LOCAL DATA DIRECTORY = %s", str(folder), deadline=CLONE_DEADLINE)
            if await carried.survey(session) != list(tables):
                raise NotReady("a table was made that CLONE leaves empty", object=ctx.name, reason="TablesChanged")
            row = await session.row(_BEGIN)
            place = await session.row("SHOW BINARY LOG STATUS")
        except BaseException:
            # Dropping the connection alone would let it run to its end.
            session.drop()
            await asyncio.shield(self._end_clone(ctx))
            raise
        await session.leave()
        assert row is not None
        return {
            "uuid": str(row["uuid"]),
            "ended": _utc(row["now"]),
            "file": place["file"] if place else "",
            "position": place["position"] if place else "",
        }

    async def _end_clone(self, ctx: InstanceContext) -> None:
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(20):
                session = await connect(ctx)
                try:
                    await _kill(session)
                    while await session.value(_CLONES):  # noqa: ASYNC110 (it tells nobody when it has ended)
                        await asyncio.sleep(0.1)
                finally:
                    session.drop()

    async def _read(self, ctx: InstanceContext, folder: Path) -> Found:
        """Start the copy once: it recovers, tells where it is, and stops cleanly."""
        told = ctx.tmp / "copy"
        await asyncio.to_thread(_script, told, folder)
        try:
            command = [
                *plain(ctx, folder, secure_file_priv=str(told)),
                *(f"--{name.replace('_', '-')}={value}" for name, value in plugins()),
                "--skip-networking",
                "--disable-log-bin",
                "--skip-replica-start",
                "--event-scheduler=OFF",
                f"--init-file={told / 'script.sql'}",
                f"--socket={told / 'server.sock'}",
                f"--pid-file={told / 'server.pid'}",
                "--innodb-buffer-pool-size=32M",
                "--innodb-redo-log-capacity=8M",
                "--innodb-fast-shutdown=1",
                # It shares the container's memory with the server.
                "--performance-schema=OFF",
                "--table-open-cache=64",
                "--table-definition-cache=400",
            ]
            done = await ctx.processes.run(command, deadline=START_DEADLINE)
            try:
                executed, line = await asyncio.to_thread(
                    lambda: ((told / "executed").read_text(), (told / "line").read_text())
                )
            except FileNotFoundError as error:
                raise Unavailable("the copy does not start", object=ctx.name, cause=words(done.stderr)) from error
            if done.code != 0:
                raise Unavailable("the copy did not stop cleanly", object=ctx.name, cause=words(done.stderr))
        finally:
            await asyncio.shield(asyncio.to_thread(_remove, told))
        return Found(GtidSet.parse(executed), line.strip())


@asynccontextmanager
async def roomy(ctx: InstanceContext) -> AsyncIterator[None]:
    """Give the body up when the volume gets short of room: the log is written on, and stays while the store is down.

    Raises:
        Terminal: it did (reason `NoSpace`).
    """
    limit, told = asyncio.timeout(None), list[str]()
    try:
        async with limit:
            watching = asyncio.create_task(_watch(ctx, limit, told))
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.wait({watching})
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise no_room(ctx, *told) from error


async def _watch(ctx: InstanceContext, limit: asyncio.Timeout, told: list[str]) -> None:
    while True:
        await asyncio.sleep(LOOK)
        with contextlib.suppress(OSError):
            volume = await asyncio.to_thread(shutil.disk_usage, ctx.data.parent)
            if volume.free < reserve(volume.total):
                told.append(f"{volume.free} bytes are free, and the server writes on")
                limit.reschedule(asyncio.get_running_loop().time())
                return


def reserve(total: int) -> int:
    """Return the bytes of a volume of this size that a backup leaves to the server."""
    return min(total // RESERVE_PART, MOST_RESERVE)


def no_room(ctx: InstanceContext, cause: str) -> Terminal:
    """Return what is raised when the volume has no room for the copy."""
    return Terminal(
        "there is no room for the copy that a backup is made of",
        object=f"volume of {ctx.name}",
        cause=cause,
        fix="enlarge the volume",
        reason="NoSpace",
    )


def speed(copied: int, seconds: float) -> float:
    """Return the bytes a second that a copy is expected to make.

    Args:
        copied: bytes of the last copy on this server, 0 when there was none.
        seconds: how long it took.
    """
    return copied / seconds if copied >= TELLING and seconds > 0 else ASSUMED


async def _take(ctx: InstanceContext, tables: Sequence[Table]) -> None:
    """Copy the tables' files. The thread has ended when this has, also by a cancellation."""
    given_up = threading.Event()
    copying = asyncio.ensure_future(asyncio.to_thread(carried.take, ctx.data, files_folder(ctx), tables, given_up))
    try:
        await asyncio.shield(copying)
    finally:
        given_up.set()
        if not copying.done():
            await asyncio.wait({copying})


async def _kill(session: Session) -> None:
    for row in await session.rows(_CLONES):
        with contextlib.suppress(Unavailable):  # it has ended by itself
            await session.execute(f"KILL {int(row['id'])}")


def _script(told: Path, folder: Path) -> None:
    """What the copy is to do when it starts."""
    _remove(told)
    make_folder(told)
    statements = [
        f"SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '') INTO OUTFILE '{told / 'executed'}'",
        f"SELECT COALESCE(MAX(line), '') INTO OUTFILE '{told / 'line'}' FROM yoban.line WHERE id = 1",  # noqa: S608 (a path of ours)
        "RESET REPLICA ALL",  # a replica's copy must not know whom it followed
        "SHUTDOWN",
    ]
    script = told / "script.sql"
    script.write_text("".join(f"{statement};\n" for statement in statements))
    os.chown(script, told.stat().st_uid, told.stat().st_gid)


def _list(folder: Path) -> list[BackupItem]:
    """Everything in the copy, folders before what lies in them."""
    found: list[BackupItem] = []
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        at = Path(here)
        relative = at.relative_to(folder)
        if at != folder:
            found.append(DirectoryItem(str(relative)))
        for name in sorted(files):
            if name in _LEFT_OUT or name.endswith(".pem"):
                continue
            status = (at / name).stat()
            path = str(relative / name)
            found.append(FileItem(path, at / name, status.st_size, 0o600, status.st_mtime, inspect=has_pages(path)))
    return found


def _size(data: Path) -> int:
    """Bytes of what CLONE would copy: everything but logs and temporary tables."""
    total = 0
    for here, folders, files in os.walk(data):
        folders[:] = [name for name in folders if name not in ("#innodb_temp", "#innodb_redo")]
        for name in files:
            if not name.startswith(("binlog.", "relay.")):
                with contextlib.suppress(FileNotFoundError):
                    total += (Path(here) / name).stat().st_blocks * 512
    return total


def _clear(ctx: InstanceContext) -> None:
    for folder in (copy_folder(ctx), files_folder(ctx)):
        _remove(folder)


def _remove(folder: Path) -> None:
    empty_folder(folder)
    if folder.is_dir():
        folder.rmdir()


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
