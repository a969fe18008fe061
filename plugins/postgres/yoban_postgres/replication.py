"""Facet: streaming replicas, and the change of primary.

Guarantees: a clone is complete or absent, and what it needs to go on is held back for it from before the copy. A former
primary follows only after its history was compared with its upstream's; `pg_rewind` is run where they diverged, and what it
cannot mend is to be rebuilt. Peers are reached by certificate only.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yoban.errors import DeadlineExceeded, IntegrityError, NotReady, Unavailable
from yoban.plugins import BrokenReplica, InstanceContext, Peer, Position, ProgressCallback, Promotion, Replication
from yoban.plugins.files import folder_bytes, remove_file

from yoban_postgres import binaries, controldata, follow, history, members
from yoban_postgres.configuration import conninfo
from yoban_postgres.lsn import parse_lsn, segment_name
from yoban_postgres.names import REACHED_FILE, RECOVERY_CONF
from yoban_postgres.positions import line_name, make
from yoban_postgres.server import clear, complete, making_folder, tablespace_folder, wal_folder
from yoban_postgres.session import Kept, connect, connect_peer, translated
from yoban_postgres.status import data_bytes, newest_line
from yoban_postgres.walrecord import end_of

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

CLONE_DEADLINE = 7 * 86400.0
REWIND_DEADLINE = 6 * 3600.0
CHECKPOINT_WAIT = 1.0
SIZE_DEADLINE = 3.0
_MEASURE = 2.0

_UPSTREAM = """
select pg_is_in_recovery() as recovering, (select system_identifier::text from pg_control_system()) as system_id,
       (select timeline_id from pg_control_checkpoint()) as checkpoint_line,
       case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end as line,
       case when not pg_is_in_recovery() then pg_current_wal_flush_lsn()::text end as flushed
"""


class PostgresReplication(Replication):
    """Replicas by streaming replication; our agents elect."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def provision(self, ctx: InstanceContext, donor: Peer, progress: ProgressCallback) -> None:
        """See `Replication.provision`. The slot holds back log from before the copy, so that it can be followed up.

        Raises:
            NotReady: the donor has no account for us yet, or our slot is in use still.
        """
        total, spaces, slot = await self._donor(ctx, donor)
        making = making_folder(ctx)
        await asyncio.to_thread(clear, ctx)
        words = [
            binaries.program(ctx, "pg_basebackup"),
            f"--dbname={conninfo(ctx, donor, application_name='yoban-clone')}",
            f"--pgdata={making}",
            "--wal-method=stream",
            f"--slot={slot}",
            "--checkpoint=fast",
            "--no-password",
        ]
        if (log := wal_folder(ctx)) is not None:
            words.append(f"--waldir={log}")
        for oid, location in spaces:
            old, new = _mapped(location), _mapped(str(tablespace_folder(ctx) / oid))
            words.append(f"--tablespace-mapping={old}={new}")
        copied = 0
        copying = asyncio.create_task(ctx.processes.run(words, deadline=CLONE_DEADLINE))
        try:
            roots = [folder for folder in (making, wal_folder(ctx), tablespace_folder(ctx)) if folder is not None]
            while not (await asyncio.wait({copying}, timeout=_MEASURE))[0]:
                # The total is the donor's when the copy began, which goes on growing.
                copied = await asyncio.to_thread(folder_bytes, *roots)
                progress(copied, max(copied, total) if total else 0)
            done = copying.result()
        finally:
            if not copying.done():
                copying.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await copying
        if done.code != 0:
            raise Unavailable(
                "the copy failed",
                object=f"server {donor.name}",
                cause=done.stderr.decode(errors="replace").strip()[-800:],
            )

        def finish() -> None:
            members.forget(making)
            for name in (REACHED_FILE, RECOVERY_CONF):
                remove_file(making / name)
            complete(ctx, making)

        await asyncio.to_thread(finish)
        total = total or copied
        progress(total, total)

    async def prepare_follow(self, ctx: InstanceContext, upstream: Peer) -> BrokenReplica | None:
        """See `Replication.prepare_follow`.

        Raises:
            Unavailable: the upstream does not answer.
            NotReady: it is no primary yet, or its first checkpoint on its line is not done; try again.
        """
        there = await self._upstream(ctx, upstream)
        own = await self._own(ctx)
        await asyncio.to_thread(members.forget, ctx.data)
        way, why = follow.choose(own, there)
        if way is follow.Way.FOLLOW:
            return None
        if way is follow.Way.REBUILD:
            return BrokenReplica(why, rebuild=True)
        source = conninfo(
            ctx,
            upstream,
            dbname="postgres",
            application_name="yoban-rewind",
            # It turns the other limits of its session off by itself.
            options="-c idle_session_timeout=0",
        )
        done = await ctx.processes.run(
            [
                binaries.program(ctx, "pg_rewind"),
                f"--target-pgdata={ctx.data}",
                f"--source-server={source}",
                "--restore-target-wal",
            ],
            deadline=REWIND_DEADLINE,
        )
        if done.code == 0:
            await asyncio.to_thread(members.forget, ctx.data)
            return None
        output = done.stderr.decode(errors="replace").strip()
        errors = re.findall(r"(?:error|fatal): (.*)", output)
        return BrokenReplica(f"{why}; it cannot be rewound: {(errors or [output[-300:]])[-1]}", rebuild=True)

    async def diagnose(self, ctx: InstanceContext) -> BrokenReplica | None:
        """See `Replication.diagnose`.

        Broken for good is a replica whose next segment is gone on its upstream and proven absent in the archive, or that
        has more than its upstream's history.
        """
        async with self._kept.use(ctx) as connection:
            row = await connection.fetchrow(
                """
                select pg_is_in_recovery() as recovering, exists(select from pg_stat_wal_receiver) as receiving,
                       greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text as reached,
                       greatest(c.timeline_id, r.min_recovery_end_timeline) as line,
                       (select setting::bigint from pg_settings where name = 'wal_segment_size') as segment_bytes,
                       (select system_identifier::text from pg_control_system()) as system_id
                  from pg_control_checkpoint() as c, pg_control_recovery() as r
                """
            )
        assert row is not None
        if not row["recovering"] or row["receiving"] or row["reached"] is None:
            return None
        upstream = await self._configured_upstream(ctx)
        if upstream is None:
            return None
        try:
            there = await self._upstream(ctx, upstream, settled=False)
        except (Unavailable, NotReady):
            return None
        reached = parse_lsn(row["reached"])
        newest = await asyncio.to_thread(newest_line, ctx.data, reached, row["segment_bytes"])
        own = follow.Own(row["system_id"], max(line_name(row["line"]), newest), reached, primary=False)
        way, why = follow.choose(own, there)
        if way is not follow.Way.FOLLOW:
            return BrokenReplica(why, rebuild=way is follow.Way.REBUILD)
        number = reached // row["segment_bytes"]
        for line in (there.line, own.line):
            name = segment_name(line, number, row["segment_bytes"])
            if await self._has(ctx, upstream, name) or not await self._absent_in_archive(ctx, name):
                return None
        return BrokenReplica(f"segment {name} is gone on {upstream.name} and is not in the archive", rebuild=True)

    async def promote(self, ctx: InstanceContext, *, deadline: float) -> Promotion:
        """See `Replication.promote`."""
        try:
            async with asyncio.timeout(deadline):
                async with self._kept.use(ctx) as connection:
                    if await connection.fetchval("select pg_is_in_recovery()"):
                        await connection.fetchval("select pg_promote(false)")
                    while await connection.fetchval("select pg_is_in_recovery()"):  # noqa: ASYNC110 (the server sends no event)
                        await asyncio.sleep(0.02)
                    promotion = await history.current(connection, ctx)
        except TimeoutError as error:
            raise DeadlineExceeded("the server was not promoted in time", object=ctx.name) from error
        await _ask_checkpoint(ctx)
        return promotion

    async def manage_members(self, ctx: InstanceContext, members_: Sequence[Peer]) -> Sequence[str]:
        """See `Replication.manage_members`. Synchronous names are part of the configuration."""
        async with self._kept.use(ctx) as connection:
            return await members.manage(connection, members_)

    async def drained_position(self, ctx: InstanceContext) -> Position:
        """See `Replication.drained_position`: the end of the checkpoint that the stop has written.

        Raises:
            NotReady: the server was not stopped cleanly.
        """
        found = await controldata.read(ctx)
        if found.state != "shut down":
            raise NotReady("the server was not stopped cleanly as a primary", object=ctx.name, cause=found.state)
        line = line_name(found.line)
        end = await asyncio.to_thread(end_of, ctx.data, line, found.checkpoint, found.segment_bytes)
        if end is None:
            raise IntegrityError("the last checkpoint is not in the log", object=ctx.name)
        return make(line, end)

    async def _donor(self, ctx: InstanceContext, donor: Peer) -> tuple[int, list[tuple[str, str]], str]:
        """Bytes in all (0 when unknown), tablespaces, and the slot that is reserved for us from now on."""
        connection = await connect_peer(ctx, donor)
        try:
            with translated(ctx, donor):
                total = await data_bytes(connection, timeout=SIZE_DEADLINE)
                rows = await connection.fetch(
                    "select oid::text as oid, pg_tablespace_location(oid) as location from pg_tablespace"
                    " where pg_tablespace_location(oid) <> ''"
                )
                slot = await members.reserve(connection, ctx.name)
        finally:
            connection.terminate()
        return total, [(row["oid"], row["location"]) for row in rows], slot

    async def _upstream(self, ctx: InstanceContext, upstream: Peer, *, settled: bool = True) -> follow.Upstream:
        connection = await connect_peer(ctx, upstream)
        try:
            with translated(ctx, upstream):
                row = await connection.fetchrow(_UPSTREAM)
                assert row is not None
                if row["recovering"]:
                    raise NotReady("it is no primary yet", object=f"server {upstream.name}")
                if settled and line_name(row["checkpoint_line"]) != row["line"]:
                    raise NotReady("its first checkpoint on its line is not done", object=f"server {upstream.name}")
                text = ""
                if row["line"] != line_name(1):
                    data = await connection.fetchval(
                        "select pg_read_binary_file($1)",
                        f"pg_wal/{row['line']}.history",
                    )
                    text = bytes(data).decode(errors="replace")
        finally:
            connection.terminate()
        return follow.Upstream(
            row["system_id"], row["line"], history.parse(text, row["line"]), parse_lsn(row["flushed"])
        )

    async def _own(self, ctx: InstanceContext) -> follow.Own:
        found = await controldata.read(ctx)
        if found.state == "shut down":
            line = line_name(found.line)
            end = await asyncio.to_thread(end_of, ctx.data, line, found.checkpoint, found.segment_bytes)
            return follow.Own(found.system_id, line, end, primary=True)
        if found.state in ("shut down in recovery", "in archive recovery"):
            # A replica holds nothing that its upstream did not have; how far it is, its minimum recovery point tells.
            line = line_name(max(found.minimum_line, found.line))
            return follow.Own(found.system_id, line, found.minimum or found.redo, primary=False)
        return follow.Own(found.system_id, line_name(found.line), None, primary=True)

    async def _configured_upstream(self, ctx: InstanceContext) -> Peer | None:
        async with self._kept.use(ctx) as connection:
            text = await connection.fetchval("select current_setting('primary_conninfo')")
        match = re.search(r"host='([^']+)'", text or "")
        return next(
            (peer for peer in ctx.peers if match and peer.host == match[1] and f"port='{peer.port}'" in text), None
        )

    async def _has(self, ctx: InstanceContext, upstream: Peer, name: str) -> bool:
        connection = await connect_peer(ctx, upstream)
        try:
            with translated(ctx, upstream):
                return bool(
                    await connection.fetchval(
                        "select size is not null from pg_stat_file($1, true)",
                        f"pg_wal/{name}",
                    )
                )
        finally:
            connection.terminate()

    async def _absent_in_archive(self, ctx: InstanceContext, name: str) -> bool:
        """Ask as the server would; only a proven "absent" counts."""
        probe = ctx.data / "pg_wal" / "RECOVERYXLOG.probe"
        done = await ctx.processes.run([*ctx.ask, "restore", name, f"pg_wal/{probe.name}"], deadline=60, cwd=ctx.data)
        await asyncio.to_thread(remove_file, probe)
        return done.code == 1


async def _ask_checkpoint(ctx: InstanceContext) -> None:
    """Ask for a checkpoint and do not wait for it: others can rejoin only when the new line is in the control file."""
    try:
        connection = await connect(ctx, statement=0, name="yoban-checkpoint")
    except Unavailable:
        return
    try:
        with translated(ctx):
            await connection.execute("checkpoint", timeout=CHECKPOINT_WAIT)
    except Unavailable:
        pass  # it goes on without us
    finally:
        connection.terminate()


def _mapped(path: str) -> str:
    return path.replace("\\", "\\\\").replace("=", "\\=")
