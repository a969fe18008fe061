"""Observes the local server: what it is, how far it is, who follows it.

Guarantees one consistent answer from one connection, in a bounded time. Positions carry the timeline as far as the server
knows it: a replica names the one that it receives.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from yoban.plugins import InstanceContext, ReplicaLink, Role, ServerStatus

from yoban_postgres.configure import UNREPORTED
from yoban_postgres.lsn import parse_lsn, segment_before
from yoban_postgres.names import RECOVERY_CONF
from yoban_postgres.positions import line_name, make

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

_COMMON = """
select pg_is_in_recovery() as recovering,
       split_part(current_setting('server_version'), ' ', 1) as version,
       (select system_identifier::text from pg_control_system()) as system_id,
       (select array_agg(name order by name) from pg_settings
         where pending_restart and not name like any($1::text[])) as pending,
       (select string_agg(format('%s in database %s', checksum_failures, datname), ', ')
          from pg_stat_database where checksum_failures > 0) as damage,
       -- What a role or database sets for its sessions is stronger than what the server is configured with.
       (select string_agg(coalesce('role ' || r.rolname, 'all roles') || coalesce(' in database ' || d.datname, ''), ', ')
          from pg_db_role_setting as s left join pg_roles as r on r.oid = s.setrole
               left join pg_database as d on d.oid = s.setdatabase
         where current_setting('synchronous_standby_names') <> ''
           and exists (select from unnest(s.setconfig) as c
                        where c ~* '^synchronous_commit=' and not c ~* '=(on|remote_apply|true|yes|1)$')) as weak
"""

LAST_COMMIT = """
case when current_setting('track_commit_timestamp')::bool then
  (select max(t) from (
     select (pg_last_committed_xact()).timestamp as t
     union all
     -- Commits that ended close together may be noted in another order than their times.
     select pg_xact_commit_timestamp((n % 4294967296)::text::xid)
       from generate_series(greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 32, 3),
                            pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1) as n
      where n % 4294967296 >= 3) as recent)
end
"""
"""Time of the last commit on a primary, an upper bound among those that ended together."""

_PRIMARY = f"""
select pg_current_wal_flush_lsn()::text as flushed,
       substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as line,
       {LAST_COMMIT} as last_commit
"""

_REPLICAS = """
select application_name as name, state = 'streaming' as streaming, sync_state in ('sync', 'quorum') as synchronous,
       flush_lsn::text as flushed, replay_lsn::text as replayed,
       extract(epoch from replay_lag)::float8 as lag
  from pg_stat_replication where application_name = any($1::text[]) order by 1
"""

_STANDBY = """
select pg_last_wal_receive_lsn()::text as received, pg_last_wal_replay_lsn()::text as replayed,
       pg_last_xact_replay_timestamp() as last_commit, pg_get_wal_replay_pause_state() = 'paused' as paused,
       w.status = 'streaming' as upstream, w.latest_end_lsn::text as upstream_end, w.received_tli,
       greatest(c.timeline_id, r.min_recovery_end_timeline) as known_line,
       (select setting::bigint from pg_settings where name = 'wal_segment_size') as segment_bytes,
       -- Since its start it has asked for a stream, or waits because all that it has is replayed.
       pg_last_wal_receive_lsn() is not null or coalesce(
         (select wait_event in ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval')
            from pg_stat_activity where backend_type = 'startup'), false) as received_known
  from pg_control_checkpoint() as c, pg_control_recovery() as r left join pg_stat_wal_receiver as w on true
"""


async def data_bytes(connection: Connection, *, timeout: float) -> int:
    """Return the bytes of all databases, 0 when they are not known in time. The connection stays usable.

    The server looks at every file, and there may be very many: only for what is told of progress.
    """
    import asyncpg

    try:
        found = await connection.fetchval(
            "select coalesce(sum(pg_database_size(oid)), 0)::bigint from pg_database", timeout=timeout
        )
    except (asyncpg.PostgresError, TimeoutError):
        return 0
    return int(found)


async def observe(connection: Connection, ctx: InstanceContext) -> ServerStatus:
    """Return the status of the server behind `connection`."""
    common = await connection.fetchrow(_COMMON, list(UNREPORTED))
    assert common is not None
    pending = tuple(common["pending"] or ())
    problems = []
    if common["damage"]:
        what = f"damaged pages were read: {common['damage']}"
        problems.append(f"{what}; make the instance anew from a sound one by deleting its volume, or restore a backup")
    if not common["recovering"]:
        row = await connection.fetchrow(_PRIMARY)
        assert row is not None
        if common["weak"]:
            weak = f"commits of {common['weak']} wait for no replica, though durability is synchronous"
            problems.append(f"{weak}: synchronous_commit is set there by ALTER ROLE or ALTER DATABASE")
        links = await connection.fetch(_REPLICAS, [peer.name for peer in ctx.peers])
        return ServerStatus(
            role=Role.PRIMARY,
            accepting=True,
            version=common["version"],
            system_id=common["system_id"],
            line=row["line"],
            position=make(row["line"], row["flushed"]),
            last_commit=row["last_commit"],
            lag_seconds=0.0,
            replicas=tuple(_link(link, row["line"]) for link in links),
            pending_restart=pending,
            problem="; ".join(problems),
        )
    row = await connection.fetchrow(_STANDBY)
    assert row is not None
    replayed = parse_lsn(row["replayed"]) if row["replayed"] else None
    line = line_name(row["received_tli"] or row["known_line"])
    if replayed and not row["received_tli"]:
        line = max(line, await asyncio.to_thread(newest_line, ctx.data, replayed, row["segment_bytes"]))
    received = parse_lsn(row["received"]) if row["received"] else None
    if replayed is not None:
        received = max(received or 0, replayed)
    upstream = bool(row["upstream"])
    return ServerStatus(
        role=Role.RECOVERY if (ctx.data / RECOVERY_CONF).exists() else Role.REPLICA,
        accepting=True,
        version=common["version"],
        system_id=common["system_id"],
        line=line,
        position=make(line, replayed) if replayed is not None else None,
        received=make(line, received) if received is not None else None,
        received_known=row["received_known"],
        last_commit=row["last_commit"],
        lag_seconds=_lag(row["upstream_end"] if upstream else None, replayed, row["last_commit"]),
        upstream=upstream,
        pending_restart=pending,
        problem="; ".join(problems),
    )


def newest_line(data: Path, replayed: int, segment_bytes: int) -> str:
    """Return the newest line of which the segment that was replayed last is there; "" when none is.

    The control file tells a replica's line only as of its last restart point.
    """
    wanted = segment_before("", replayed, segment_bytes)
    try:
        names = [path.name for path in (data / "pg_wal").iterdir()]
    except FileNotFoundError:
        return ""
    return max((name[:8] for name in names if len(name) == 24 and name[8:] == wanted), default="")


def _link(row: asyncpg.Record, line: str) -> ReplicaLink:
    return ReplicaLink(
        name=row["name"],
        streaming=row["streaming"],
        synchronous=row["synchronous"],
        flushed=make(line, row["flushed"]) if row["flushed"] else None,
        replayed=make(line, row["replayed"]) if row["replayed"] else None,
        lag_seconds=row["lag"] or (0.0 if row["streaming"] else None),
    )


def _lag(upstream_end: str | None, replayed: int | None, last_commit: datetime | None) -> float | None:
    if upstream_end and replayed is not None and replayed >= parse_lsn(upstream_end):
        return 0.0
    if last_commit is None:
        return None
    return max(0.0, (datetime.now(UTC) - last_commit).total_seconds())
