"""Connections of the agent to its own server, over the unix socket, as the superuser.

Guarantees: name resolution is pinned to the system catalogue (nobody's function or operator is ever called), a deadline
on connecting and on every statement, no wait for a synchronous replica, nothing of the owner's settings that would end a
session or keep it from its work, and one kept connection per server that is made anew after an error. asyncpg is imported
with the first connection only.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from yoban.errors import AccessDenied, NotReady, Unavailable, YobanError
from yoban.plugins import InstanceContext, KeptConnection, Peer

from yoban_postgres.names import APPLICATION, REPLICATION_USER, SUPERUSER

if TYPE_CHECKING:
    import asyncpg

CONNECT = 4.0
STATEMENT = 4.0

NO_ACCOUNT = re.compile(rf'role "{REPLICATION_USER}" (does not exist|is not permitted to log in)')
"""What a new primary says for the moment until its agent has made the accounts. English, unless `lc_messages` is set."""

SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "application_name": APPLICATION,
    "synchronous_commit": "local",
    "lock_timeout": "3000",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # A server in recovery refuses every statement of a serializable transaction.
    "default_transaction_isolation": "read committed",
    "DateStyle": "ISO, YMD",
    "default_transaction_read_only": "off",
    "row_security": "off",
    "jit": "off",
}


async def connect(
    ctx: InstanceContext,
    *,
    database: str = "postgres",
    statement: float = STATEMENT,
    name: str = APPLICATION,
    settings: Mapping[str, str] | None = None,
) -> asyncpg.Connection[asyncpg.Record]:
    """Open a connection to the local server.

    Args:
        ctx: the instance.
        database: database to connect to.
        statement: longest time of a statement in seconds, 0 for no limit.
        name: application name, by which leftovers are found again.
        settings: what this session needs beside `SETTINGS`.

    Raises:
        Unavailable: the server does not answer.
    """
    with translated(ctx):
        return await _open(
            host=str(ctx.run),
            port=ctx.port,
            user=SUPERUSER,
            database=database,
            password="",
            passfile=str(ctx.run / "none"),
            ssl=False,
            command_timeout=statement + 1 if statement else None,
            server_settings={
                **SETTINGS,
                **(settings or {}),
                "application_name": name,
                "statement_timeout": str(int(statement * 1000)),
            },
        )


async def connect_peer(ctx: InstanceContext, peer: Peer) -> asyncpg.Connection[asyncpg.Record]:
    """Open a connection to a peer, as the replication user with our client certificate.

    Raises:
        NotReady: its agent has not made the replication account yet.
        Unavailable: it does not answer, or does not let us in.
    """
    import ssl

    def trust() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ctx.tls.ca))
        context.load_cert_chain(ctx.tls.client_certificate, ctx.tls.client_key)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    with translated(ctx, peer):
        try:
            context = await asyncio.to_thread(trust)
        except (OSError, ssl.SSLError) as error:
            raise Unavailable("the certificates cannot be read", object=ctx.name, cause=str(error)) from error
        return await _open(
            host=peer.host,
            port=peer.port,
            user=REPLICATION_USER,
            database="postgres",
            password="",
            passfile=str(ctx.run / "none"),
            ssl=context,
            command_timeout=STATEMENT + 1,
            server_settings={
                **SETTINGS,
                "application_name": f"{APPLICATION}-{ctx.name}",
                "statement_timeout": str(int(STATEMENT * 1000)),
            },
        )


async def _open(**how: Any) -> asyncpg.Connection[asyncpg.Record]:
    import asyncpg

    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(timeout=CONNECT, **how)
    if connection.get_server_version().major >= 17:
        try:
            # Before 17 nobody knows it, and would refuse the connection by it.
            await connection.execute("set transaction_timeout = 0", timeout=CONNECT)
        except BaseException:
            connection.terminate()
            raise
    return connection


@contextlib.contextmanager
def translated(ctx: InstanceContext, peer: Peer | None = None) -> Iterator[None]:
    """Turn the driver's errors into ours: everything a server can say while it comes and goes is Unavailable."""
    import asyncpg

    target = f"server {peer.name}" if peer else f"server {ctx.name}"
    try:
        yield
    except YobanError:
        raise
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        if peer is not None and NO_ACCOUNT.search(str(error)):
            raise NotReady("the primary has not made the replication account yet", object=target) from error
        if peer is not None:  # who may connect may come with its next configuration
            raise Unavailable("it does not let us in", object=target, cause=str(error)) from error
        raise AccessDenied(
            "it does not let the agent in",
            object=target,
            cause=str(error),
            fix="see that the agent runs as the server's user and pg_ident.conf names it",
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise Unavailable("it refused a statement", object=target, cause=f"{type(error).__name__}: {error}") from error
    except TimeoutError as error:
        raise Unavailable("it did not answer in time", object=target) from error
    except OSError as error:
        raise Unavailable("it does not answer", object=target, cause=str(error)) from error


class Kept(KeptConnection["asyncpg.Connection[asyncpg.Record]"]):
    """The agent's own connection to its server. Errors of its users come out as ours."""

    async def connect(self, ctx: InstanceContext) -> asyncpg.Connection[asyncpg.Record]:
        """See `connect`."""
        return await connect(ctx)

    def usable(self, connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        """See `KeptConnection.usable`."""
        return not connection.is_closed()

    def drop(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """See `KeptConnection.drop`."""
        connection.terminate()

    async def leave(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """See `KeptConnection.leave`."""
        try:
            await connection.close(timeout=1.0)
        except Exception:  # noqa: S110 (a server on its way out may do anything; the socket is dropped below)
            pass
        finally:
            connection.terminate()

    def translated(self, ctx: InstanceContext) -> AbstractContextManager[None]:
        """See `translated`."""
        return translated(ctx)
