"""A replica's channel: whom it follows, whether its threads run, and what stopped them.

Guarantees: following is by GTID, over TLS, by certificate both ways. What a replica has received is thrown away only where
it cannot be read; then it is fetched again. An applier that stopped for good is left as it is, for `diagnose`; one that a
backup has stopped is left until the backup's session ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from yoban.errors import Unavailable
from yoban.plugins import InstanceContext, Peer

from yoban_mysql import quiesce
from yoban_mysql.names import REPLICATION_USER
from yoban_mysql.session import Refused, Session, connect

DEADLINE = 30.0
HALT = 7.0
"""Seconds for an applier to stand still before its server is stopped."""
LEAVE = 7.0
"""Seconds for a receiver to leave its source then."""
STATE = f"""
SELECT c.host, c.port, c.auto_position AS auto_position, s.service_state AS receiver, s.last_error_number AS receive_error,
       s.last_error_message AS receive_message, s.received_transaction_set AS received, a.service_state AS applier,
       (SELECT MAX(last_error_number) FROM performance_schema.replication_applier_status_by_coordinator
         WHERE channel_name = '') AS coordinator_error,
       (SELECT MAX(last_error_number) FROM performance_schema.replication_applier_status_by_worker
         WHERE channel_name = '') AS worker_error, {quiesce.HOLDER} AS holder
  FROM performance_schema.replication_connection_configuration AS c
  JOIN performance_schema.replication_connection_status AS s USING (channel_name)
  JOIN performance_schema.replication_applier_status AS a USING (channel_name)
 WHERE c.channel_name = ''
"""  # noqa: S608 (a constant)
UNREADABLE = frozenset({1594, 13121, 13122, 13125})
"""Relay logs that cannot be read: cut or damaged in a crash."""
STALE = frozenset({1201, 1871, 1872, 13117, 13118, 13124})
"""What the server says when its notes name relay logs that are not there: the notes are another server's."""
PASSING = frozenset({0, 1037, 1041, 1053, 1114, 1158, 1159, 1160, 1161, 1205, 1213, 1197, 1290, 1927, 3100, 3572})
"""Errors of an applier that may not come again: no memory, no space, time-outs, deadlocks, a stop in between."""


async def state(session: Session) -> Mapping[str, Any] | None:
    """Return the state of the channel by the names in `STATE`; None when the server follows nobody."""
    return await session.row(STATE)


def applier_error(row: Mapping[str, Any]) -> int:
    """Return the error number by which the applier stopped, 0 when it has none. A worker's is the cause."""
    return int(row["worker_error"] or 0) or int(row["coordinator_error"] or 0)


async def is_replica(session: Session) -> bool:
    """Whether nothing writes here but what is replicated."""
    return bool(await session.value("SELECT @@GLOBAL.super_read_only")) and await state(session) is not None


@asynccontextmanager
async def paused(ctx: InstanceContext, session: Session) -> AsyncIterator[None]:
    """Stop the applier while the body runs; what is received meanwhile is confirmed, and applied later.

    Args:
        ctx: the instance.
        session: of `quiesce.reserved`: by it `ensure` leaves the applier alone, and starts it when that session has
            ended and this has not (the agent died).
    """
    try:
        await session.execute("STOP REPLICA SQL_THREAD", deadline=DEADLINE)
        yield
    finally:
        await asyncio.shield(_resume(ctx))


async def _resume(ctx: InstanceContext) -> None:
    # What fails here is tried again by `ensure`.
    with contextlib.suppress(Unavailable):
        session = await connect(ctx)
        try:
            row = await state(session)
            if row is not None and row["applier"] == "OFF" and applier_error(row) in PASSING:
                await _apply_rest(session)
        finally:
            session.drop()


async def ensure(session: Session, ctx: InstanceContext, upstream: Peer | None) -> None:
    """Make a replica follow `upstream`, or nobody; with nothing to do it changes nothing."""
    row = await state(session)
    may_apply = row is None or row["holder"] is None
    if upstream is None:
        if row is not None and row["receiver"] != "OFF":
            await session.execute("STOP REPLICA IO_THREAD", deadline=DEADLINE)
        if row is not None and row["applier"] == "OFF" and applier_error(row) in PASSING and may_apply:
            await _apply_rest(session)
        return
    if row is None:
        await _point(session, ctx, upstream)
        await _start(session, ctx, upstream)
        return
    if (row["host"], int(row["port"])) != (upstream.host, upstream.port):
        await quiesce.release(session)
        may_apply = True
        await session.execute("STOP REPLICA IO_THREAD", deadline=DEADLINE)
        await _turn(session, ctx, upstream)
        row = await state(session)
        assert row is not None
    if row["applier"] == "OFF" and applier_error(row) in UNREADABLE:
        await session.execute("STOP REPLICA", deadline=DEADLINE)
        await session.execute("RESET REPLICA", deadline=DEADLINE)
        await _start(session, ctx, upstream)
        return
    if row["applier"] == "OFF" and applier_error(row) in PASSING and may_apply:
        await _start(session, ctx, upstream)
    elif row["receiver"] == "OFF":
        await session.execute("START REPLICA IO_THREAD", deadline=DEADLINE)


async def halt(session: Session) -> bool:
    """Before a clean stop: receive no more, and let the applier end the transaction that it is in, if that takes a moment.

    A server that is told to stop waits for the applier, for minutes where a long transaction changes a table without a
    key. Returns whether it stands still. Where it does not, the server may be killed: what it received is kept whole, and
    the transaction is applied anew.
    """
    if await state(session) is None:
        return True
    await session.execute("STOP REPLICA IO_THREAD", deadline=LEAVE)
    try:
        await session.execute("STOP REPLICA SQL_THREAD", deadline=HALT)
    except Unavailable:
        return False
    return True


async def reconnect(session: Session) -> None:
    """Make the receiver connect anew, where it runs: what it told its source has changed."""
    row = await state(session)
    if row is not None and row["receiver"] != "OFF":
        await session.execute("STOP REPLICA IO_THREAD", deadline=DEADLINE)
        await session.execute("START REPLICA IO_THREAD", deadline=DEADLINE)


async def _turn(session: Session, ctx: InstanceContext, upstream: Peer) -> None:
    """Change the source of a channel, and keep what was received."""
    try:
        await _point(session, ctx, upstream, whole=False)
    except Refused:
        await session.execute("STOP REPLICA", deadline=DEADLINE)
        await session.execute("RESET REPLICA ALL", deadline=DEADLINE)
        await _point(session, ctx, upstream)


async def _apply_rest(session: Session) -> None:
    """Apply what was received before, with nobody to receive from."""
    try:
        await session.execute("START REPLICA SQL_THREAD", deadline=DEADLINE)
    except Refused as error:
        if error.number not in STALE:
            raise


async def _start(session: Session, ctx: InstanceContext, upstream: Peer) -> None:
    try:
        await session.execute("START REPLICA", deadline=DEADLINE)
    except Refused as error:
        if error.number not in STALE:
            raise
        await session.execute("RESET REPLICA ALL", deadline=DEADLINE)
        await _point(session, ctx, upstream)
        await session.execute("START REPLICA", deadline=DEADLINE)


async def _point(session: Session, ctx: InstanceContext, upstream: Peer, *, whole: bool = True) -> None:
    words = {
        "SOURCE_HOST": upstream.host,
        "SOURCE_PORT": upstream.port,
        "SOURCE_USER": REPLICATION_USER,
        "SOURCE_PASSWORD": "",
        "SOURCE_SSL": 1,
        "SOURCE_SSL_CA": str(ctx.tls.ca),
        "SOURCE_SSL_CERT": str(ctx.tls.client_certificate),
        "SOURCE_SSL_KEY": str(ctx.tls.client_key),
        "SOURCE_SSL_VERIFY_SERVER_CERT": 1,
        "SOURCE_TLS_VERSION": "TLSv1.2,TLSv1.3",
        "SOURCE_CONNECT_RETRY": 1,
        "SOURCE_RETRY_COUNT": 0,
        "SOURCE_HEARTBEAT_PERIOD": 2,
    }
    if whole:  # these need an applier that is stopped
        words |= {"SOURCE_AUTO_POSITION": 1, "GTID_ONLY": 1, "REQUIRE_ROW_FORMAT": 1}
    statement = "CHANGE REPLICATION SOURCE TO " + ", ".join(f"{name} = %s" for name in words)
    await session.execute(statement, *words.values(), deadline=DEADLINE)
