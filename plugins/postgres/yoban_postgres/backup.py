"""Facet: base backups of a running server, primary or replica.

Guarantees:
- The server is in backup mode for as long as one connection of ours lives, and no longer: whatever happens to the caller,
  it is released.
- The control file is read last, whole; labels come with the end. A server that changed its role or line in between makes
  the copy worthless, and that is said.
- With checksums on, every page is verified. A page that does not fit is read again; one changed since the backup began is
  written by the log anyway and is let pass, if its place in the log is a real one.

Writes are never held back.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from yoban.errors import IntegrityError, NotReady, Retryable, Unavailable
from yoban.plugins import (
    BackupBegin,
    BackupEnd,
    BackupItem,
    BackupRequest,
    BackupSession,
    BaseBackup,
    BytesItem,
    DirectoryItem,
    FileItem,
    InstanceContext,
)

from yoban_postgres import contents, controlfile
from yoban_postgres.lsn import PAGE, parse_lsn, segment_before
from yoban_postgres.positions import line_name, make
from yoban_postgres.session import Kept, connect, translated
from yoban_postgres.status import data_bytes

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

APPLICATION = "yoban-backup"
START_DEADLINE = 600.0
STOP_DEADLINE = 300.0
SIZE_DEADLINE = 30.0
MOST_RUNNING = 500
_REREADS = 5
_PAUSE = 0.02

_BEGIN = """
select pg_is_in_recovery() as replica, clock_timestamp() as now,
       split_part(current_setting('server_version'), ' ', 1) as version,
       current_setting('server_version_num')::int / 10000 as major,
       (select system_identifier::text from pg_control_system()) as system_id,
       case when pg_is_in_recovery()
            then (select lpad(upper(to_hex(timeline_id)), 8, '0') from pg_control_checkpoint())
            else substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end as line,
       (select setting::bigint from pg_settings where name = 'wal_segment_size') as segment_bytes,
       current_setting('data_checksums') = 'on' as checksums
"""

_END = """
select pg_is_in_recovery() as replica, greatest(clock_timestamp(), pg_last_xact_replay_timestamp()) as now,
       pg_snapshot_xmin(s)::text as oldest, pg_snapshot_xmax(s)::text as following,
       array(select x::text from pg_snapshot_xip(s) as x) as running,
       case when pg_is_in_recovery()
            then (select lpad(upper(to_hex(min_recovery_end_timeline)), 8, '0') from pg_control_recovery())
            else substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end as line
  from (select pg_current_snapshot() as s) as snapshot
"""


class PostgresBackup(BaseBackup):
    """Base backups by the server's backup mode."""

    on_replica = True

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def backup(self, ctx: InstanceContext, request: BackupRequest) -> AbstractAsyncContextManager[BackupSession]:
        """See `BaseBackup.backup`."""
        return _session(ctx, request)

    async def abandon(self, ctx: InstanceContext) -> None:
        """See `BaseBackup.abandon`: sessions of an agent that is gone are ended, and backup mode with them."""
        async with self._kept.use(ctx) as connection:
            await connection.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and usename = 'postgres'",
                APPLICATION,
            )


@asynccontextmanager
async def _session(ctx: InstanceContext, request: BackupRequest) -> AsyncIterator[BackupSession]:
    connection = await connect(ctx, statement=0, name=APPLICATION)
    try:
        with translated(ctx):
            row = await connection.fetchrow(_BEGIN, timeout=60)
            assert row is not None
            total = await data_bytes(connection, timeout=SIZE_DEADLINE)
            # Fast: the checkpoint is not spread over minutes.
            start = "pg_backup_start($1, true)" if row["major"] >= 15 else "pg_start_backup($1, true, false)"
            place = await connection.fetchval(f"select {start}::text", request.id, timeout=START_DEADLINE)
        yield PostgresSession(ctx, connection, row, place, total)
    finally:
        # Ends backup mode if it was not ended; never waits for a server that hangs.
        connection.terminate()


class PostgresSession(BackupSession):
    """A backup under way."""

    inspect_block = PAGE

    def __init__(
        self, ctx: InstanceContext, connection: Connection, row: asyncpg.Record, place: str, total: int
    ) -> None:
        self._ctx = ctx
        self._connection = connection
        self._row = row
        self._start = parse_lsn(place)
        self._lock = threading.Lock()
        self._excused: list[tuple[str, int, int]] = []
        self.total_bytes = total
        self.begin = BackupBegin(
            position=make(row["line"], place),
            line=row["line"],
            time=row["now"].astimezone(UTC),
            system_id=row["system_id"],
            version=row["version"],
        )

    async def items(self) -> AsyncIterator[BackupItem]:
        """See `BackupSession.items`. The control file comes with `finish`."""
        data, checksums = self._ctx.data, bool(self._row["checksums"])
        waiting: list[tuple[Path, str]] = [(data, "")]
        while waiting:
            folder, path = waiting.pop()
            items, below = await asyncio.to_thread(contents.folder_items, folder, path, checksums=checksums)
            for item in items:
                yield item
            waiting += reversed(below)
        for oid, folder in await asyncio.to_thread(lambda: list(contents.tablespaces(data))):
            yield DirectoryItem(f"pg_tblspc/{oid}")
            waiting = [(folder, f"pg_tblspc/{oid}")]
            while waiting:
                inner, path = waiting.pop()
                items, below = await asyncio.to_thread(contents.folder_items, inner, path, checksums=checksums)
                for item in items:
                    yield item
                waiting += reversed(below)

    def inspect(self, item: FileItem, offset: int, data: memoryview) -> None:
        """See `BackupSession.inspect`."""
        from yoban_postgres import pages

        found = contents.relation(item.path.rsplit("/", 1)[-1])
        first = (found[2] * pages.BLOCKS_PER_FILE if found else 0) + offset // PAGE
        for index in pages.mismatches(data, first):
            self._judge(item, first + index, offset + index * PAGE)

    def _judge(self, item: FileItem, block: int, offset: int) -> None:
        """Read a page again until it fits; raise when it is damaged."""
        from yoban_postgres import pages

        page = b""
        for attempt in range(_REREADS):
            if attempt:
                time.sleep(_PAUSE)
            try:
                with item.source.open("rb") as file:
                    file.seek(offset)
                    page = file.read(PAGE)
            except FileNotFoundError:
                return  # dropped meanwhile: replay drops it too
            if len(page) < PAGE or not pages.mismatches(page, block):
                return
        lsn = pages.page_lsn(page)
        if lsn <= self._start:
            raise _damaged(item.path, block)
        with self._lock:
            self._excused.append((item.path, block, lsn))

    async def finish(self) -> BackupEnd:
        """See `BackupSession.finish`."""
        ctx, row = self._ctx, self._row
        control = await asyncio.to_thread(controlfile.read_whole, ctx.data / contents.CONTROL)
        stop = "pg_backup_stop(false)" if row["major"] >= 15 else "pg_stop_backup(false, false)"
        try:
            with translated(ctx):
                done = await self._connection.fetchrow(
                    f"select lsn::text as lsn, labelfile, spcmapfile from {stop}",  # noqa: S608
                    timeout=STOP_DEADLINE,
                )
                end = await self._connection.fetchrow(_END, timeout=60)
        except Unavailable as error:
            raise Retryable("the backup was lost", object=ctx.name, cause=error.cause or error.message) from error
        assert done is not None
        assert end is not None
        if end["replica"] != row["replica"] or end["line"] != row["line"]:
            raise Retryable(
                "the server changed its role or line during the backup",
                object=ctx.name,
                cause=f"line {row['line']}, then {end['line']}",
                fix="the backup is made again",
                reason="PromotedDuringBackup",
            )
        stopped = parse_lsn(done["lsn"])
        for path, block, lsn in self._excused:
            if lsn > stopped:
                raise _damaged(path, block)
        line, first = _label(done["labelfile"])
        if line != row["line"]:
            raise NotReady("the backup began on another line than it ended", object=ctx.name, cause=line)
        items = [BytesItem(contents.CONTROL, control), BytesItem("backup_label", done["labelfile"].encode())]
        if done["spcmapfile"]:
            items.append(BytesItem("tablespace_map", done["spcmapfile"].encode()))
        moment: datetime = end["now"]
        facts = {
            "next_xid": end["following"],
            "oldest_xid": end["oldest"],
            "segment_bytes": str(row["segment_bytes"]),
            "version": row["version"],
            "system_id": row["system_id"],
            "checksums": "on" if row["checksums"] else "off",
            "from": "replica" if row["replica"] else "primary",
        }
        # The snapshot of a replica does not tell who is running: its list is empty whoever is.
        if not end["replica"] and len(end["running"]) <= MOST_RUNNING:
            facts["running_xids"] = ",".join(end["running"])
        return BackupEnd(
            position=make(row["line"], stopped),
            line=row["line"],
            time=moment.astimezone(UTC),
            items=tuple(items),
            first_segment=first,
            last_segment=segment_before(row["line"], stopped, row["segment_bytes"]),
            frozen_seconds=0.0,
            facts=facts,
        )


def _label(text: str) -> tuple[str, str]:
    """Return line and first segment of a backup label."""
    file = re.search(r"^START WAL LOCATION: \S+ \(file ([0-9A-F]{24})\)", text, re.MULTILINE)
    line = re.search(r"^START TIMELINE: (\d+)", text, re.MULTILINE)
    if file is None or line is None:
        raise IntegrityError(
            "the server gave a backup label that cannot be read", object="backup_label", cause=text[:200]
        )
    return line_name(int(line[1])), file[1]


def _damaged(path: str, block: int) -> IntegrityError:
    return IntegrityError(
        f"page {block} is damaged",
        object=f"file {path}",
        cause="its checksum does not fit",
        fix="fail over to a replica, or restore a backup from before the damage",
        reason="DataCorrupted",
    )
