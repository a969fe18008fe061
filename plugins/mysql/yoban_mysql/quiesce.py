"""Quiesce: every write to the server is held back for a bounded time, by FLUSH TABLES WITH READ LOCK.

Guarantees: the lock is not asked for while a statement older than `LONG` runs, since every writer would wait behind that
statement; asking for it is bounded by `lock_wait_timeout`; and the server itself releases it. The lock belongs to an idle
session with a `wait_timeout`: when the agent dies its socket closes and the server ends the session at once, and when the
agent is frozen the server ends the session at the deadline. (`DO SLEEP(n); UNLOCK TABLES` in one request would hold the
deadline, too, but a server that sleeps does not see its client die, and a KILL QUERY leaves out the UNLOCK.)

Does not guarantee that nobody waits: a statement that began just before the lock may run on, and then writers wait for
`lock_wait_timeout`, and whoever uses that statement's tables until it ends.

Whoever holds writes back holds the named lock `NAME` too, from before the applier is stopped. By it others find the session.
Any user can take a lock of that name: it counts only when it is a session of the agent's account that has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from yoban.errors import NotReady, Terminal, Unavailable
from yoban.plugins import InstanceContext

from yoban_mysql.names import AGENT
from yoban_mysql.session import Refused, Session, connect

LONG = 1
"""Age in whole seconds from which on a statement is long."""
LOCK_WAIT = 2
"""`lock_wait_timeout` of the session that asks for the lock, in seconds."""
ASKING = 10.0
"""Deadline of the statement: it may wait for two locks and for tables in use, each bounded by `LOCK_WAIT`."""
NAME = "yoban.quiesce"
HOLDER = (
    "(SELECT processlist_id FROM performance_schema.threads"  # noqa: S608 (constants)
    f" WHERE processlist_id = IS_USED_LOCK('{NAME}') AND processlist_user = '{AGENT}')"
)
"""The agent's connection that holds writes back, or is about to; NULL when there is none."""
MARGIN = 0.5
"""Seconds that we end before the server does, so that a copy that was too slow is told from a lock that was lost."""
_OWNER = (
    "SELECT processlist_id AS id, processlist_user AS user FROM performance_schema.threads"  # noqa: S608 (a constant)
    f" WHERE processlist_id = IS_USED_LOCK('{NAME}')"
)
TIMED_OUT = 1205
ENDING = 5.0

_LONGEST = (
    "SELECT processlist_id AS id, processlist_time AS age FROM performance_schema.threads"
    " WHERE type = 'FOREGROUND' AND processlist_command IN ('Query', 'Execute') AND processlist_time >= %s"
    " AND processlist_id <> CONNECTION_ID() ORDER BY processlist_time DESC LIMIT 1"
)


@dataclass(slots=True)
class Freeze:
    """Writes held back: the session that holds them, and, after the end, for how many seconds."""

    session: Session
    seconds: float = 0.0


@asynccontextmanager
async def reserved(ctx: InstanceContext) -> AsyncIterator[Session]:
    """Lend a session that alone may hold writes back; it ends with this, and what it holds is released.

    Raises:
        NotReady: another one may already.
        Unavailable: the server does not answer.
    """
    session = await connect(ctx)
    try:
        if await session.value(f"SELECT GET_LOCK('{NAME}', 0)") != 1:
            owner = await session.row(_OWNER)
            raise NotReady(
                "writes are held back already",
                object=ctx.name,
                cause=f"connection {owner['id']} of {owner['user']} has the lock {NAME}" if owner else "",
                fix="wait for it, or end that connection; the backup is made again",
                reason="Quiesced",
            )
        yield session
    finally:
        # Closing the socket is enough, and cannot wait for anything.
        session.drop()


@asynccontextmanager
async def frozen(ctx: InstanceContext, session: Session, bound: float) -> AsyncIterator[Freeze]:
    """Hold writes back while the body runs, for `bound` seconds (at least 1) at most.

    Args:
        ctx: the instance.
        session: of `reserved`. It is not to be used by the body: it must be idle for the server to end it.
        bound: seconds, from when the lock is asked for. Both we and the server keep to it; the wait for the lock counts.

    Raises:
        NotReady: a long statement runs (reason `LongStatement`), or the lock was not granted (`LockNotGranted`).
        Terminal: the body took longer (`FreezeTooLong`).
        Unavailable: the lock was lost before the body was done: what it made is worthless.
    """
    await _refuse_long(ctx, session)
    # Until more is known: who is frozen as soon as the lock is granted has waited for three of them, at worst.
    least = max(1, int(bound) - 3 * LOCK_WAIT)
    await session.execute("SET SESSION lock_wait_timeout = %s, wait_timeout = %s", LOCK_WAIT, least)
    asked = time.monotonic()
    freeze = Freeze(session)
    try:
        try:
            await session.execute("FLUSH TABLES WITH READ LOCK", deadline=ASKING)
        except Refused as error:
            if error.number != TIMED_OUT:
                raise
            raise NotReady(
                "the server could not be quiesced in time",
                object=ctx.name,
                cause=error.words,
                fix="see which statements or LOCK TABLES hold locks for long; the backup is made again",
                reason="LockNotGranted",
            ) from error
        left = max(1, int(bound - (time.monotonic() - asked)))
        try:
            # The session's last statement until the end: from here on the server counts.
            await session.execute("SET SESSION wait_timeout = %s", left)
            async with asyncio.timeout(left - MARGIN) as limit:
                yield freeze
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Terminal(
                "the copy takes longer than writes may be held back",
                object=ctx.name,
                cause=f"it was ended after {bound:g} s",
                fix="ALTER TABLE … ENGINE=InnoDB, so that nothing need be held back",
                reason="FreezeTooLong",
            ) from error
        try:
            await session.execute("UNLOCK TABLES")
        except Unavailable as error:
            # The proof that it was held until now: a session that was ended has no answer.
            raise Unavailable(
                "the lock was lost before the copy was complete", object=ctx.name, reason="LockLost"
            ) from error
    except BaseException:
        session.drop()
        raise
    finally:
        freeze.seconds = time.monotonic() - asked


async def release(session: Session) -> None:
    """End whoever holds writes back, and return when it is gone; with nobody there it changes nothing.

    Raises:
        Unavailable: it does not go.
    """
    holder = await session.value(f"SELECT {HOLDER}")
    if holder is None:
        return
    with contextlib.suppress(Refused):  # it has ended by itself
        await session.execute(f"KILL {int(holder)}")
    try:
        async with asyncio.timeout(ENDING):
            while await session.value(f"SELECT {HOLDER}") == holder:  # noqa: ASYNC110 (nobody is told when a session ends)
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise Unavailable("the session that holds writes back does not end", object=f"connection {holder}") from error


async def _refuse_long(ctx: InstanceContext, session: Session) -> None:
    row = await session.row(_LONGEST, LONG)
    if row is None:
        return
    raise NotReady(
        "a long statement runs: every writer would wait behind it",
        object=ctx.name,
        cause=f"connection {row['id']} has been at it for {row['age']} s",
        fix="wait for it or end it; the backup is made again",
        reason="LongStatement",
    )
