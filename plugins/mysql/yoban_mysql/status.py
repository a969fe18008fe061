"""Observes the local server: what it is, how far it is, who follows it.

Guarantees one answer from one connection, in a bounded time, without a lock that a waiting commit holds: a primary whose
commits wait for replicas still answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from yoban.plugins import InstanceContext, ReplicaLink, Role, ServerStatus

from yoban_mysql import follow, line
from yoban_mysql.configure import pending_restart, started_role
from yoban_mysql.gtid import GtidSet
from yoban_mysql.positions import position_of
from yoban_mysql.session import Session

_COMMON = """
SELECT VERSION() AS version, @@GLOBAL.super_read_only AS closed, @@GLOBAL.gtid_executed AS executed,
       @@GLOBAL.rpl_semi_sync_source_enabled AS waits,
       (SELECT variable_value FROM performance_schema.global_status
         WHERE variable_name = 'Rpl_semi_sync_source_status') AS waiting
"""

_DUMPS = """
SELECT MAX(IF(v.variable_name IN ('replica_uuid', 'slave_uuid'), CONVERT(v.variable_value USING ascii), NULL)) AS uuid,
       MAX(v.variable_name IN ('rpl_semi_sync_replica', 'rpl_semi_sync_slave')) AS confirms
  FROM performance_schema.threads AS t
  JOIN performance_schema.user_variables_by_thread AS v USING (thread_id)
 WHERE t.processlist_command LIKE 'Binlog Dump%' GROUP BY t.thread_id
"""

_APPLIED = """
SELECT MAX(UNIX_TIMESTAMP(last_applied_transaction_original_commit_timestamp)) AS applied,
       MIN(NULLIF(UNIX_TIMESTAMP(applying_transaction_original_commit_timestamp), 0)) AS applying
  FROM performance_schema.replication_applier_status_by_worker WHERE channel_name = ''
"""


async def observe(session: Session, ctx: InstanceContext) -> ServerStatus:
    """Return the status of the server behind `session`."""
    common = await session.row(_COMMON)
    assert common is not None
    started, pending = await asyncio.to_thread(lambda: (started_role(ctx), pending_restart(ctx)))
    executed = GtidSet.parse(common["executed"])
    present = await line.read(session)
    told = ServerStatus(
        role=started,
        accepting=True,
        version=str(common["version"]).partition("-")[0],
        line=present.name if present else "",
        position=position_of(executed),
        pending_restart=pending,
    )
    if started is Role.RECOVERY and common["closed"]:
        return told
    if not common["closed"] or started is Role.PRIMARY:
        return await _primary(session, ctx, told, common)
    return await _replica(session, told, executed)


async def _primary(
    session: Session, ctx: InstanceContext, told: ServerStatus, common: Mapping[str, Any]
) -> ServerStatus:
    problem = ""
    if common["waits"] and str(common["waiting"]).upper() != "ON":
        problem = "commits no longer wait for replicas, though durability is synchronous"
    names = {peer.name for peer in ctx.peers}
    registered = {row["replica_uuid"]: row["host"] for row in await session.rows("SHOW REPLICAS")}
    links = [
        ReplicaLink(
            name=registered[row["uuid"]],
            streaming=True,
            synchronous=bool(row["confirms"]) and bool(common["waits"]),
            flushed=None,
            replayed=None,
            lag_seconds=None,
        )
        for row in await session.rows(_DUMPS)
        if registered.get(row["uuid"]) in names
    ]
    return replace(
        told,
        role=Role.PRIMARY,
        lag_seconds=0.0,
        replicas=tuple(sorted(links, key=lambda link: link.name)),
        problem=problem,
    )


async def _replica(session: Session, told: ServerStatus, executed: GtidSet) -> ServerStatus:
    channel = await follow.state(session)
    if channel is None:
        return replace(told, role=Role.REPLICA, received=told.position)
    received = executed | GtidSet.parse(channel["received"] or "")
    times = await session.row(_APPLIED)
    last = _time(times["applied"]) if times else None
    oldest = _time(times["applying"]) if times else None
    connected = channel["receiver"] == "ON"
    problem = ""
    if error := follow.applier_error(channel):
        problem = f"it cannot apply what it received (error {error})"
    elif channel["receive_error"] and not connected:
        problem = str(channel["receive_message"])[:300]
    return replace(
        told,
        role=Role.REPLICA,
        received=position_of(received),
        last_commit=last,
        lag_seconds=_lag(connected and received == executed, oldest or last),
        upstream=connected,
        problem=problem,
    )


def _lag(everything: bool, since: datetime | None) -> float | None:
    """Seconds since the commit that is being applied, or the last one applied; nothing when it has everything."""
    if everything:
        return 0.0
    return max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else None


def _time(seconds: Decimal | float | None) -> datetime | None:
    return datetime.fromtimestamp(float(seconds), UTC) if seconds else None
