"""A primary is opened and closed for writes.

Guarantees: between `super_read_only` and the first user's write the line of the log is begun and commits wait for replicas
as declared. What the agent itself writes to open a server (the line, events, accounts) waits for no replica, and no user can
write meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from yoban.errors import Unavailable
from yoban.plugins import InstanceContext

from yoban_mysql import accounts, line, quiesce, scheduled
from yoban_mysql.configuration import waits
from yoban_mysql.line import Line
from yoban_mysql.session import Session
from yoban_mysql.settings import truth, variable

logger = logging.getLogger("yoban.mysql")
SENT_ALL = ("Source has sent all binlog to replica; waiting for more updates", "Master has sent all binlog to slave")
SETTLE = 10.0
ACCOUNTS = 10.0
"""Deadline of a statement that changes accounts and waits for no replica."""
_STATE = (
    "SELECT @@GLOBAL.super_read_only AS closed, @@GLOBAL.read_only AS shut,"
    " @@GLOBAL.rpl_semi_sync_source_enabled AS waits, @@GLOBAL.event_scheduler AS events, @@GLOBAL.offline_mode AS away"
)
_CHANNEL = "SELECT COUNT(*) FROM performance_schema.replication_connection_configuration WHERE channel_name = ''"
_SENDING = (
    "SELECT processlist_state AS state FROM performance_schema.threads WHERE processlist_command LIKE 'Binlog Dump%'"
)


async def writable(session: Session) -> bool:
    """Whether users can write."""
    row = await session.row(_STATE)
    return row is not None and not row["closed"] and not row["shut"]


async def open_writes(session: Session, ctx: InstanceContext, settings: Mapping[str, str]) -> Line | None:
    """Let users write, as declared; with nothing to do it changes nothing. The caller holds the primary's Lease.

    Returns the line when it was looked at, None when the server was open already.
    """
    row = await session.row(_STATE)
    assert row is not None
    begun: Line | None = None
    if row["closed"] or row["shut"]:
        await forget_source(session)
        async with alone(session, ctx):
            begun = await line.begin(session, ctx)
            await scheduled.take_over(session)
            if waits(ctx.durability):
                await _change_accounts(session, ctx)
        await session.execute("SET GLOBAL read_only = OFF")
    elif bool(row["waits"]) is not waits(ctx.durability):
        await _wait(session, ctx)
    if row["away"]:
        await session.execute("SET GLOBAL offline_mode = OFF")
    scheduler = next((value for name, value in settings.items() if variable(name) == "event_scheduler"), "ON")
    switch = truth(scheduler)
    if switch is not None and str(row["events"]) != "DISABLED" and truth(str(row["events"])) is not switch:
        await session.execute("SET GLOBAL event_scheduler = %s", "ON" if switch else "OFF")
    return begun


async def close_writes(session: Session) -> None:
    """Let nobody write but replication; with nothing to do it changes nothing."""
    row = await session.row(_STATE)
    assert row is not None
    if not row["closed"]:
        await quiesce.release(session)  # it would be waited for
        await session.execute("SET GLOBAL super_read_only = ON")
    if row["waits"]:
        await session.execute("SET GLOBAL rpl_semi_sync_source_enabled = OFF")
    if truth(str(row["events"])):
        await session.execute("SET GLOBAL event_scheduler = OFF")


@asynccontextmanager
async def alone(session: Session, ctx: InstanceContext) -> AsyncIterator[None]:
    """Let only the agent write, without waiting for replicas; `read_only` stays on at the end, for the caller to take off.

    An agent that dies within leaves a server to which no user can write, and which its next agent opens.
    """
    await session.execute("SET GLOBAL read_only = ON")
    await session.execute("SET GLOBAL rpl_semi_sync_source_enabled = OFF")
    await session.execute("SET GLOBAL super_read_only = OFF")
    yield
    await _wait(session, ctx)


async def forget_source(session: Session) -> None:
    """Forget whom the server followed, and its relay logs. What it has executed stays."""
    if await session.value(_CHANNEL):
        await session.execute("STOP REPLICA", deadline=30.0)
        await session.execute("RESET REPLICA ALL", deadline=30.0)


async def settle(session: Session) -> bool:
    """Before a clean stop: take no more writes, let replicas have what was written as far as that goes in a moment, and
    send everybody away who is no agent. A server that is not stopped then is opened by the next configuration.

    Returns whether a clean stop may follow: a server that is told to stop acknowledges commits that wait for replicas.
    """
    row = await session.row(_STATE)
    if row is None or row["closed"]:
        return True
    try:
        await quiesce.release(session)
        # It is on when no commit is under way any more.
        await session.execute("SET GLOBAL super_read_only = ON")
    except Unavailable:
        return not row["waits"]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE):
            # The server sends no event when a replica has everything.
            while any(not str(row["state"]).startswith(SENT_ALL) for row in await session.rows(_SENDING)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    # A stop would wait eight seconds for replicas to leave by themselves.
    await session.execute("SET GLOBAL offline_mode = ON")
    return True


async def _wait(session: Session, ctx: InstanceContext) -> None:
    await session.execute("SET GLOBAL rpl_semi_sync_source_enabled = %s", "ON" if waits(ctx.durability) else "OFF")


async def _change_accounts(session: Session, ctx: InstanceContext) -> None:
    """Once commits wait, a change of an account keeps everybody from logging in until replicas have it (`confirm`).

    What fails is left to `ensure_accounts`, which tells of it.
    """
    owner = ctx.accounts.get("owner")
    if owner is None:
        return
    try:
        changes = await accounts.plan(session, ctx, owner)
        made = await accounts.apply(session, changes, deadline=ACCOUNTS)
    except Unavailable as error:
        logger.warning("accounts are not changed before the server is opened: %s", error)
        return
    for words in made:
        logger.info("accounts: %s", words)
