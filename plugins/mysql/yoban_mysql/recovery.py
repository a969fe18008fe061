"""Facet: restore a base backup, apply the archived log to a target, stop exactly there.

The log is fed as relay logs that hold exactly what is to be applied (`relay`), and the server's own applier works through
them, in parallel and in any order that the log allows, with relaxed flushing and without a log of its own. The volume need
not have room for all of it: when `WINDOW` bytes wait, they are applied and removed before more is taken. Guarantees:
- REACHED is said only when the server's set of GTIDs equals what was fed: an applier that has "read everything" proves
  nothing (a file cut within an event is silent).
- An applier that stops is FAILED, with the GTID and the server's words.
- What is left out by `skip` is an empty transaction under its GTID.
- Until `finish` events are off and no user can write.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from yoban.errors import IntegrityError, NotReady, Unavailable
from yoban.plugins import (
    InstanceContext,
    Recovery,
    RecoveryPlan,
    RecoveryProgress,
    RecoveryReached,
    RecoveryState,
    Role,
)
from yoban.plugins.files import remove_file, replace_file

from yoban_mysql import options, relay
from yoban_mysql.configuration import main_text
from yoban_mysql.gtid import GtidSet
from yoban_mysql.line import line_name
from yoban_mysql.names import AUTO_CNF, MAIN_CONF, RECOVERY_FILE, RELAY_LOG
from yoban_mysql.positions import position_of
from yoban_mysql.relay import Fed
from yoban_mysql.server import TABLESPACE
from yoban_mysql.session import Kept, Refused, Session
from yoban_mysql.targets import skipped

DEADLINE = 60.0
WORKERS = (2, 8)
"""Fewest and most appliers: one for each core."""
WINDOW = 1 << 30
"""Bytes of relay logs that are enough at a time; on a small volume a tenth of it."""
WINDOW_PART = 10
SILENT_LOOKS = 4
"""Looks at an applier that has read everything and applies nothing any more; then it is told that something is missing."""

RELAXED: Mapping[str, str] = {
    # Lost in a crash, and then the recovery is made again from the start.
    "innodb_flush_log_at_trx_commit": "0",
    "innodb_doublewrite": "OFF",
    "sync_binlog": "0",
    "sync_relay_log": "0",
    "log_replica_updates": "OFF",
    "relay_log_purge": "OFF",
    "relay_log_recovery": "OFF",
    # Nobody reads before all is applied; waiting for each other costs the appliers a fifth of their time.
    "replica_preserve_commit_order": "OFF",
    # A transaction of a server with our id would be passed over without a word.
    "replicate_same_server_id": "ON",
    "skip_replica_start": "ON",
    "event_scheduler": "OFF",
    "super_read_only": "ON",
}

_POINT = (
    "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'archive', SOURCE_AUTO_POSITION = 0, RELAY_LOG_FILE = %s,"
    " RELAY_LOG_POS = 4"
)
_CHANNEL = """
SELECT a.service_state AS applier,
       (SELECT CONCAT(applying_transaction, last_error_message)
          FROM performance_schema.replication_applier_status_by_worker
         WHERE channel_name = '' AND last_error_number <> 0 ORDER BY last_error_timestamp LIMIT 1) AS worker,
       (SELECT CONCAT(processing_transaction, ' ', last_error_message)
          FROM performance_schema.replication_applier_status_by_coordinator
         WHERE channel_name = '' AND last_error_number <> 0) AS coordinator,
       (SELECT COUNT(*) FROM performance_schema.threads
         WHERE processlist_state LIKE 'Replica has read all relay log%%') AS idle,
       (SELECT COUNT(*) FROM performance_schema.replication_applier_status_by_worker
         WHERE channel_name = '' AND applying_transaction <> '')
       + (SELECT COUNT(*) FROM performance_schema.replication_applier_status_by_coordinator
           WHERE channel_name = '' AND processing_transaction <> '') AS applying
  FROM performance_schema.replication_applier_status AS a WHERE a.channel_name = ''
"""
_EXECUTED = "SELECT @@GLOBAL.gtid_executed"


class MySqlRecovery(Recovery):
    """Restores into an empty instance."""

    feeds = True

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._silent: dict[str, tuple[int, int]] = {}

    def place(self, ctx: InstanceContext, path: str) -> Path:
        """See `Recovery.place`."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or "\x00" in path or any(part in ("..", ".") for part in path.split("/")):
            raise IntegrityError("the backup names a file outside its folder", object=f"path {path[:200]!r}")
        return ctx.data / PurePosixPath(path)

    async def placed(self, ctx: InstanceContext) -> None:
        """See `Recovery.placed`: the copy was stopped cleanly and is whole; it gets an identity when it starts."""

        def look() -> None:
            if not (ctx.data / TABLESPACE).is_file() or not (ctx.data / "ibdata1").is_file():
                raise IntegrityError("the base backup has no dictionary", object=str(ctx.data))
            remove_file(ctx.data / AUTO_CNF)

        await asyncio.to_thread(look)

    async def prepare(self, ctx: InstanceContext, plan: RecoveryPlan) -> None:
        """See `Recovery.prepare`."""
        await asyncio.to_thread(_prepare, ctx, plan)

    async def feed(self, ctx: InstanceContext, plan: RecoveryPlan, name: str, path: Path) -> bool:
        """See `Recovery.feed`."""
        fed = await asyncio.to_thread(_read, ctx)
        if fed.full:
            async with self._kept.use(ctx) as session:
                executed = GtidSet.parse(await session.value(_EXECUTED))
                if not fed.have <= executed:
                    raise NotReady("what was fed before is not applied yet", object=ctx.name)
                await _unpoint(session)
            fed = fed.applied()

        def take() -> bool:
            if not fed.files:
                relay.clear(ctx.data)
            window = min(WINDOW, shutil.disk_usage(ctx.data).total // WINDOW_PART)
            taken = relay.feed(ctx.data, plan, name, path, fed, window)
            relay.write_index(ctx.data, taken.files)
            replace_file(ctx.data / RECOVERY_FILE, taken.text())
            return not taken.full

        return await asyncio.to_thread(take)

    async def progress(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryProgress:
        """See `Recovery.progress`. The first look after something was fed starts the applier."""
        fed = await asyncio.to_thread(_read, ctx)
        if not fed.full and (why := relay.met(plan, fed)):
            return RecoveryProgress(RecoveryState.FAILED, None, None, why)
        try:
            async with self._kept.use(ctx) as session:
                return await self._look(ctx, session, plan, fed)
        except Refused as error:
            return RecoveryProgress(RecoveryState.FAILED, None, None, f"the server refused: {error.words}")

    async def _look(self, ctx: InstanceContext, session: Session, plan: RecoveryPlan, fed: Fed) -> RecoveryProgress:
        channel = await session.row(_CHANNEL)
        if channel is None:
            if why := _consumed(plan, fed.had, GtidSet.parse(await session.value(_EXECUTED))):
                return RecoveryProgress(RecoveryState.FAILED, None, None, why)
            await _leave_out(session, plan, fed)
            if fed.files:
                await session.execute(_POINT, f"{RELAY_LOG}.{1:06d}", deadline=DEADLINE)
                await session.execute("START REPLICA SQL_THREAD", deadline=DEADLINE)
                channel = await session.row(_CHANNEL)
        executed = GtidSet.parse(await session.value(_EXECUTED))
        position = position_of(executed)
        if stray := executed - fed.have:
            text = f"the server holds transactions that it should not: {str(stray)[:400]}"
            return RecoveryProgress(RecoveryState.FAILED, position, None, text)
        if fed.have <= executed:
            state = RecoveryState.WAITING if fed.full else RecoveryState.REACHED
            return RecoveryProgress(state, position, fed.last_commit)
        if why := self._stopped(ctx, channel, fed.have - executed):
            return RecoveryProgress(RecoveryState.FAILED, position, None, why)
        return RecoveryProgress(RecoveryState.REPLAYING, position)

    def _stopped(self, ctx: InstanceContext, channel: Mapping[str, Any] | None, missing: GtidSet) -> str:
        """Why the applier will not go on, "" while it may."""
        if channel is None:
            return f"nothing was fed that holds {str(missing)[:400]}"
        words = channel["worker"] or channel["coordinator"]
        if channel["applier"] == "OFF" and words:
            return f"the log cannot be applied: {str(words)[:600]}"
        key = str(ctx.data)
        left, looks = self._silent.get(key, (0, 0))
        # Who distributes transactions has read everything while others still apply the last of them.
        idle = bool(channel["idle"]) and not channel["applying"]
        still = (idle or channel["applier"] == "OFF") and left == missing.count
        looks = looks + 1 if still else 0
        self._silent[key] = (missing.count, looks)
        if looks < SILENT_LOOKS:
            return ""
        return f"the server has read everything and lacks {missing.count} transactions: {str(missing)[:400]}"

    async def finish(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryReached:
        """See `Recovery.finish`. The line begins when the server is opened for writes: with its first log file.

        Raises:
            NotReady: the target is not reached.
        """
        fed = await asyncio.to_thread(_read, ctx)
        async with self._kept.use(ctx) as session:
            executed = GtidSet.parse(await session.value(_EXECUTED))
            if fed.full or executed != fed.have:
                raise NotReady("the target is not reached", object=ctx.name)
            await _unpoint(session)
            await session.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
            uuid = str(await session.value("SELECT @@GLOBAL.server_uuid"))
        position = position_of(executed)
        if position is None:
            raise Unavailable("the server holds nothing", object=ctx.name)
        return RecoveryReached(position, fed.last_commit, line_name(uuid, 1), plan.line)


def _consumed(plan: RecoveryPlan, had: GtidSet, executed: GtidSet) -> str:
    """Why the log cannot be applied to data in this state, "" when it can. Pure.

    A GTID that is taken for executed before its transaction was applied would be passed over without a word.
    """
    known = "its base backup" if had == GtidSet.parse(plan.backup_end) else "its base backup and what was applied since"
    if stray := executed - had - skipped(plan.target):
        return f"the data holds transactions that {known} does not: {str(stray)[:400]}"
    if lost := had - executed:
        return f"the data lacks transactions of {known}: {str(lost)[:400]}"
    return ""


async def _unpoint(session: Session) -> None:
    """Stop the applier, if there is one, and have the server forget its relay logs."""
    if await session.row(_CHANNEL) is not None:
        await session.execute("STOP REPLICA", deadline=DEADLINE)
        await session.execute("RESET REPLICA ALL", deadline=DEADLINE)


async def _leave_out(session: Session, plan: RecoveryPlan, fed: Fed) -> None:
    """Commit an empty transaction for each one that is left out."""
    executed = GtidSet.parse(await session.value(_EXECUTED))
    wanted = (skipped(plan.target) & fed.have) - executed
    if not wanted:
        return
    # Under super_read_only not even an empty transaction can be committed; nobody else can reach the server with it off.
    await session.execute("SET GLOBAL super_read_only = OFF")
    try:
        for source, (first, last) in wanted:
            tag = f":{source.tag}" if source.tag else ""
            for number in range(first, last + 1):
                await session.execute("SET GTID_NEXT = %s", f"{source.uuid}{tag}:{number}")
                await session.execute("BEGIN")
                await session.execute("COMMIT")
        await session.execute("SET GTID_NEXT = 'AUTOMATIC'")
    finally:
        await session.execute("SET GLOBAL super_read_only = ON")


def _prepare(ctx: InstanceContext, plan: RecoveryPlan) -> None:
    relay.clear(ctx.data)
    values = options.parse((ctx.data / MAIN_CONF).read_text())
    for name in ("plugin_load_add", "log_bin"):
        values.pop(name, None)
    workers = {"replica_parallel_workers": str(max(WORKERS[0], min(int(ctx.cpus), WORKERS[1])))}
    text = main_text(values, {**RELAXED, **workers}, Role.RECOVERY) + "skip_log_bin\n"
    replace_file(ctx.data / MAIN_CONF, text)
    replace_file(ctx.data / RECOVERY_FILE, relay.start(plan).text())


def _read(ctx: InstanceContext) -> Fed:
    try:
        return Fed.parse((ctx.data / RECOVERY_FILE).read_text())
    except FileNotFoundError as error:
        raise NotReady("no recovery was prepared", object=ctx.name) from error
