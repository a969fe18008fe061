"""Facet: replicas that follow by GTID, and the change of primary.

Guarantees: a copy is complete or absent. Data that holds a transaction which its upstream lacks, or that needs logs which
are gone there, never follows; it is told so, by GTID. A replica is promoted only with everything applied that it received.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yoban.errors import DeadlineExceeded, IntegrityError, NotReady, Terminal, Unavailable
from yoban.plugins import BrokenReplica, InstanceContext, Peer, Position, ProgressCallback, Promotion, Replication

from yoban_mysql import carried, clone, follow, line, quiesce, reign
from yoban_mysql.configure import in_force
from yoban_mysql.gtid import GtidSet
from yoban_mysql.positions import position_of
from yoban_mysql.server import clear
from yoban_mysql.session import Kept, Session, connect, connect_peer
from yoban_mysql.stopped import executed

STEP = 1.0
_LONGEST = 400
_SETS = (
    "SELECT @@GLOBAL.super_read_only AS closed, @@GLOBAL.read_only AS shut, @@GLOBAL.gtid_executed AS executed,"
    " @@GLOBAL.gtid_purged AS purged"
)
_WORDS = """
SELECT last_error_message AS words FROM performance_schema.replication_applier_status_by_worker
 WHERE channel_name = '' AND last_error_number <> 0
 UNION ALL
SELECT last_error_message FROM performance_schema.replication_applier_status_by_coordinator
 WHERE channel_name = '' AND last_error_number <> 0 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A peer as it was just now: whether it takes writes, what it has executed, and what of that is gone from its logs."""

    open: bool
    executed: GtidSet
    purged: GtidSet


class MySqlReplication(Replication):
    """Replicas by GTID auto-position; our agents elect."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def provision(self, ctx: InstanceContext, donor: Peer, progress: ProgressCallback) -> None:
        """See `Replication.provision`.

        Raises:
            Unavailable: the donor does not serve, the copy failed, or tables would be empty in it (`TablesNotCarried`): a
                replica without their rows is no replica, and its backups would lack them.
        """
        await _refuse_empty(ctx, donor)  # a donor that is down is found before anything is made
        await clone.fetch(ctx, donor, progress)
        try:
            await _refuse_empty(ctx, donor)  # one may have been made meanwhile
        except BaseException:
            await asyncio.shield(asyncio.to_thread(clear, ctx))
            raise

    async def prepare_follow(self, ctx: InstanceContext, upstream: Peer) -> BrokenReplica | None:
        """See `Replication.prepare_follow`.

        Raises:
            Unavailable: the upstream does not answer.
            NotReady: it is no primary yet; try again.
        """
        own = await asyncio.to_thread(executed, ctx.data)
        there = await look(ctx, upstream)
        if not there.open:
            raise NotReady("it is no primary yet", object=f"server {upstream.name}")
        return unfit(own.gtids, there, upstream.name) if own is not None else None

    async def diagnose(self, ctx: InstanceContext) -> BrokenReplica | None:
        """See `Replication.diagnose`.

        Broken for good is a replica that has transactions which its upstream lacks, that needs logs which are gone there,
        or that cannot apply a transaction for a reason that does not pass.
        """
        async with self._kept.use(ctx) as session:
            if await reign.writable(session):
                return None
            channel = await follow.state(session)
            if channel is None:
                return None
            # Ours before theirs: what they have later is no reason.
            held = GtidSet.parse(await session.value("SELECT @@GLOBAL.gtid_executed"))
            words = str(await session.value(_WORDS) or "")
        error = follow.applier_error(channel)
        if error and channel["applier"] == "OFF" and error not in follow.PASSING | follow.UNREADABLE:
            return BrokenReplica(f"it cannot apply a transaction: {words[:_LONGEST]}", rebuild=True)
        upstream = _peer(ctx, channel)
        if upstream is None:
            return None
        try:
            there = await look(ctx, upstream)
        except Unavailable:
            return None
        received = held | GtidSet.parse(channel["received"] or "")
        if not held <= there.executed:
            return unfit(held, there, upstream.name)
        return unfit(received & there.executed, there, upstream.name) if channel["receiver"] != "ON" else None

    async def promote(self, ctx: InstanceContext, *, deadline: float) -> Promotion:
        """See `Replication.promote`.

        Raises:
            NotReady: it cannot apply something that it has received.
        """
        session = await connect(ctx)
        try:
            async with asyncio.timeout(deadline):
                if not await reign.writable(session):
                    await quiesce.release(session)  # a backup never delays a promotion
                    await self._apply_everything(ctx, session, deadline)
                    settings = await asyncio.to_thread(in_force, ctx)
                    await reign.open_writes(session, ctx, settings or {})
                present = await line.read(session)
                ancestors = await line.before(session, present) if present is not None else ()
        except TimeoutError as error:
            raise DeadlineExceeded("the server was not promoted in time", object=ctx.name) from error
        finally:
            session.drop()
        if present is None:
            raise IntegrityError("the server has no line", object=ctx.name, fix="rebuild the instance")
        return Promotion(present.name, present.parent, Position(str(present.fork)), ancestors)

    async def _apply_everything(self, ctx: InstanceContext, session: Session, deadline: float) -> None:
        channel = await follow.state(session)
        if channel is None:
            return
        await session.execute("STOP REPLICA IO_THREAD", deadline=deadline)
        channel = await follow.state(session)
        assert channel is not None
        received = str(channel["received"] or "")
        if channel["applier"] == "OFF":
            await session.execute("START REPLICA SQL_THREAD", deadline=deadline)
        while await session.value("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", received, STEP, deadline=STEP + 5):
            channel = await follow.state(session)
            assert channel is not None
            if channel["applier"] == "OFF":
                missing = GtidSet.parse(received) - GtidSet.parse(await session.value("SELECT @@GLOBAL.gtid_executed"))
                if not missing:
                    return
                raise NotReady(
                    "it cannot apply what it has received",
                    object=f"server {ctx.name}",
                    cause=f"{str(await session.value(_WORDS) or '')[:_LONGEST]}; missing {shortened(missing)}",
                    fix="promote another replica, or rebuild this one",
                )

    async def manage_members(self, ctx: InstanceContext, members: Sequence[Peer]) -> Sequence[str]:
        """See `Replication.manage_members`. A source keeps nothing for each replica; how many confirm is configured."""
        return []

    async def drained_position(self, ctx: InstanceContext) -> Position:
        """See `Replication.drained_position`: everything up to the end of the log, which the stop has written.

        Raises:
            NotReady: the server was not stopped cleanly.
        """
        found = await asyncio.to_thread(executed, ctx.data)
        position = position_of(found.gtids) if found is not None else None
        if found is None or position is None:
            raise IntegrityError("there is nothing in its log", object=ctx.name)
        if not found.clean:
            raise NotReady("the server was not stopped cleanly", object=ctx.name, cause="its log has no end")
        return position


async def _refuse_empty(ctx: InstanceContext, donor: Peer) -> None:
    session = await connect_peer(ctx, donor)
    try:
        tables = await carried.survey(session)
    except Terminal as error:
        names, fix = error.object, error.fix
    else:
        names, fix = carried.named([f"{one.schema}.{one.name} ({one.engine})" for one in tables]), carried.FIX
    finally:
        await session.leave()
    if names:
        raise Unavailable("tables would be empty in a new replica", object=names, fix=fix, reason="TablesNotCarried")


async def look(ctx: InstanceContext, peer: Peer) -> Upstream:
    """Ask a peer where it is. Raises Unavailable."""
    session = await connect_peer(ctx, peer)
    try:
        row = await session.row(_SETS)
        assert row is not None
    finally:
        await session.leave()
    return Upstream(not row["closed"] and not row["shut"], GtidSet.parse(row["executed"]), GtidSet.parse(row["purged"]))


def unfit(own: GtidSet, there: Upstream, name: str) -> BrokenReplica | None:
    """Return why data with these transactions cannot follow; None when it can. Pure."""
    if errant := own - there.executed:
        return BrokenReplica(f"it holds transactions that {name} lacks: {shortened(errant)}", rebuild=True)
    if gone := there.purged - own:
        return BrokenReplica(
            f"{name} no longer has the log of transactions that it needs: {shortened(gone)}", rebuild=True
        )
    return None


def shortened(gtids: GtidSet) -> str:
    """Return a set for a message: its begin, where it is long."""
    text = str(gtids)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({gtids.count} transactions)"


def _peer(ctx: InstanceContext, channel: Mapping[str, Any]) -> Peer | None:
    place = (channel["host"], int(channel["port"]))
    return next((peer for peer in ctx.peers if (peer.host, peer.port) == place), None)
