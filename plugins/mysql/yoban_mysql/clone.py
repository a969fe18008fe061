"""A copy of a peer's data by the server's own CLONE, over TLS.

Guarantees that a copy is complete or absent: CLONE writes beside the data folder, and what it made takes the folder's name
when it says that it is done (its last stage syncs the files). Who fetches is a server of no account but its own, that nobody
can reach but we, made for the copy and removed with it. So CLONE ends no server of ours, and its progress can be asked for.
A copy has no server uuid, no logs and no options of its donor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from yoban.errors import NotReady, Unavailable
from yoban.plugins import Finished, InstanceContext, Peer, ProgressCallback
from yoban.plugins.files import empty_folder

from yoban_mysql.configuration import plugins
from yoban_mysql.names import REPLICATION_USER
from yoban_mysql.server import INITIALIZE_DEADLINE, clear, complete, making_folder, plain, words
from yoban_mysql.session import Session, connect_root

CLONE_DEADLINE = 7 * 86400.0
START_DEADLINE = 60.0
STOP_DEADLINE = 60.0
_LOOK = 0.5
_PROGRESS = (
    "SELECT COALESCE(SUM(estimate), 0) AS total, COALESCE(SUM(data), 0) AS done FROM performance_schema.clone_progress"
    " WHERE stage IN ('FILE COPY', 'PAGE COPY', 'REDO COPY')"
)
_CLONE = "CLONE INSTANCE FROM %s@%s:%s IDENTIFIED BY %s DATA DIRECTORY = %s REQUIRE SSL"


def fetching_folder(ctx: InstanceContext) -> Path:
    """Return the data folder of the server that fetches."""
    return ctx.data.with_name(f"{ctx.data.name}.fetching")


async def fetch(ctx: InstanceContext, donor: Peer, progress: ProgressCallback) -> None:
    """Fill the empty data folder with a copy of `donor`.

    Raises:
        Unavailable: the donor does not serve now, or the copy failed.
    """
    await asyncio.to_thread(_clear, ctx)
    try:
        done = await ctx.processes.run(
            [*plain(ctx, fetching_folder(ctx)), "--initialize-insecure"], deadline=INITIALIZE_DEADLINE
        )
        if done.code != 0:
            raise Unavailable("a server to copy with could not be made", object=ctx.name, cause=words(done.stderr))
        async with _fetcher(ctx, donor) as (session, observer):
            await _clone(ctx, session, observer, donor, progress)
        await asyncio.to_thread(complete, ctx, making_folder(ctx))
    finally:
        await asyncio.to_thread(shutil.rmtree, fetching_folder(ctx), ignore_errors=True)


async def _clone(
    ctx: InstanceContext, session: Session, observer: Session, donor: Peer, progress: ProgressCallback
) -> None:
    arguments = (REPLICATION_USER, donor.host, donor.port, "", str(making_folder(ctx)))
    copying = asyncio.create_task(session.execute(_CLONE, *arguments, deadline=CLONE_DEADLINE))
    try:
        while not (await asyncio.wait({copying}, timeout=_LOOK))[0]:
            await _tell(observer, progress)
        try:
            copying.result()
        except Unavailable as error:
            raise Unavailable("the copy failed", object=f"server {donor.name}", cause=error.cause) from error
        await _tell(observer, progress)
    finally:
        if not copying.done():
            copying.cancel()
            with contextlib.suppress(asyncio.CancelledError, Unavailable):
                await copying


async def _tell(observer: Session, progress: ProgressCallback) -> None:
    row = await observer.row(_PROGRESS)
    assert row is not None
    done, total = int(row["done"]), int(row["total"])
    # What is written while it copies comes on top of the estimate.
    progress(done, max(done, total) if total else 0)


@asynccontextmanager
async def _fetcher(ctx: InstanceContext, donor: Peer) -> AsyncIterator[tuple[Session, Session]]:
    """The server that fetches, and two connections to it; it is gone at the end."""
    socket = ctx.tmp / "fetching.sock"
    command = [
        *plain(ctx, fetching_folder(ctx)),
        # A recipient must have the plugins that its donor has.
        *(f"--{name.replace('_', '-')}={value}" for name, value in plugins()),
        "--skip-networking",
        "--disable-log-bin",
        f"--socket={socket}",
        f"--pid-file={ctx.tmp / 'fetching.pid'}",
        "--innodb-buffer-pool-size=32M",
        "--innodb-fast-shutdown=2",  # what it holds is thrown away
        f"--clone-valid-donor-list={donor.host}:{donor.port}",
        f"--clone-ssl-ca={ctx.tls.ca}",
        f"--clone-ssl-cert={ctx.tls.client_certificate}",
        f"--clone-ssl-key={ctx.tls.client_key}",
    ]
    server = asyncio.create_task(ctx.processes.run(command, deadline=CLONE_DEADLINE))
    sessions: list[Session] = []
    try:
        for _ in range(2):
            sessions.append(await _answer(ctx, socket, server))
        yield sessions[0], sessions[1]
        sessions[0].drop()
        with contextlib.suppress(Unavailable):  # it may be gone before it has answered
            await sessions[1].execute("SHUTDOWN")
        sessions[1].drop()  # it would wait for us to leave
        await asyncio.wait({server}, timeout=STOP_DEADLINE)
    finally:
        for session in sessions:
            session.drop()
        if not server.done():
            server.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await server


async def _answer(ctx: InstanceContext, socket: Path, server: asyncio.Task[Finished]) -> Session:
    async with asyncio.timeout(START_DEADLINE):
        while True:
            try:
                return await connect_root(ctx, socket)
            except Unavailable:
                if server.done():
                    cause = words(server.result().stderr)
                    raise NotReady("the server to copy with does not start", object=ctx.name, cause=cause) from None
                # It tells nobody when it is ready.
                await asyncio.sleep(0.05)


def _clear(ctx: InstanceContext) -> None:
    clear(ctx)
    empty_folder(fetching_folder(ctx))
    if fetching_folder(ctx).exists():
        fetching_folder(ctx).rmdir()
