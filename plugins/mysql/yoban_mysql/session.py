"""Connections of the agent to its own server, over the unix socket, and to its peers, by certificate.

Guarantees a deadline on connecting and on every statement, known session settings whatever the server's are, and one kept
connection per server that is made anew after an error or a cancellation (the driver closes it then, since an answer may
still be on its way). The driver is imported with the first connection only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from yoban.errors import AccessDenied, Unavailable, YobanError
from yoban.plugins import Account, InstanceContext, KeptConnection, Peer

from yoban_mysql import driver
from yoban_mysql.names import AGENT, REPLICATION_USER, SOCKET

if TYPE_CHECKING:
    from pathlib import Path

    from asyncmy.connection import Connection

CONNECT = 4.0
STATEMENT = 4.0
DENIED = (1045, 1698)
"""Error numbers of a login that failed."""
EXPIRED = (1820, 1862)
"""Error numbers of a password that must be changed first."""

CROWDED = (1203, 1226)
"""Error numbers of a login that was right, and one more than the account may have."""

_SETTINGS = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', lock_wait_timeout = 3,"
    " innodb_lock_wait_timeout = 3, transaction_isolation = 'READ-COMMITTED', sql_require_primary_key = OFF,"
    " max_execution_time = 0, big_tables = OFF, sql_auto_is_null = OFF, foreign_key_checks = ON, autocommit = ON,"
    " transaction_read_only = OFF, sql_select_limit = 18446744073709551615, completion_type = 'NO_CHAIN'"
)


class Refused(Unavailable):
    """The server refused a statement. `number` is its error number, `words` are its words."""

    def __init__(self, target: str, number: int, words: str) -> None:
        super().__init__("it refused a statement", object=target, cause=f"{words} ({number})")
        self.number = number
        self.words = words


class Session:
    """One connection. Arguments are quoted by the driver; every statement has a deadline."""

    def __init__(self, connection: Connection, target: str) -> None:
        self._connection = connection
        self._target = target

    @property
    def usable(self) -> bool:
        """Whether statements can be sent."""
        return bool(self._connection.connected)

    async def execute(self, statement: str, *arguments: object, deadline: float = STATEMENT) -> int:
        """Run a statement; return how many rows it changed.

        Raises:
            Refused: the server says no.
            Unavailable: it does not answer in time, or is gone.
        """
        with translated(self._target):
            async with asyncio.timeout(deadline), self._connection.cursor() as cursor:
                return int(await cursor.execute(statement, arguments or None) or 0)

    async def rows(self, statement: str, *arguments: object, deadline: float = STATEMENT) -> list[dict[str, Any]]:
        """Run a query; return its rows by column name in lower case. Raises as `execute`."""
        with translated(self._target):
            async with asyncio.timeout(deadline), self._connection.cursor() as cursor:
                await cursor.execute(statement, arguments or None)
                names = [str(column[0]).lower() for column in cursor.description or ()]
                return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def row(self, statement: str, *arguments: object, deadline: float = STATEMENT) -> Mapping[str, Any] | None:
        """Run a query; return its first row, None when there is none. Raises as `execute`."""
        found = await self.rows(statement, *arguments, deadline=deadline)
        return found[0] if found else None

    async def value(self, statement: str, *arguments: object, deadline: float = STATEMENT) -> Any:
        """Run a query; return the first column of its first row, None when there is none. Raises as `execute`."""
        found = await self.row(statement, *arguments, deadline=deadline)
        return next(iter(found.values())) if found else None

    def drop(self) -> None:
        """Drop the connection without a word to the server. May be called again.

        Closing it would wait for the server's last word where it is encrypted, for half a minute when that is frozen.
        """
        transport: Any = getattr(self._connection, "_transport", None)  # the driver has no other way to abort
        if transport is not None:
            transport.abort()
        self._connection.close()

    async def leave(self) -> None:
        """Close the connection as a client should, in a bounded time."""
        try:
            async with asyncio.timeout(1.0):
                await self._connection.ensure_closed()
        except Exception:  # noqa: S110 (a server on its way out may do anything; the socket is dropped below)
            pass
        finally:
            self.drop()


async def connect(ctx: InstanceContext) -> Session:
    """Open a connection to the local server as the agent's account.

    Raises:
        Unavailable: the server does not answer.
        AccessDenied: the agent runs as another user of the operating system than the account is for.
    """
    target = f"server {ctx.name}"
    return await _open(target, unix_socket=str(ctx.run / SOCKET), user=AGENT, settings=_SETTINGS)


async def connect_root(ctx: InstanceContext, socket: Path) -> Session:
    """Open a connection to a server that was just made and has no account but `root`, by a socket that only we reach.

    Raises:
        Unavailable: the server does not answer.
    """
    return await _open(f"server {ctx.name}", unix_socket=str(socket), user="root", settings=_SETTINGS)


async def password_works(ctx: InstanceContext, account: Account) -> bool:
    """Whether an account lets itself in with its password, by the local socket. Raises Unavailable."""
    try:
        session = await _open(
            f"server {ctx.name}",
            unix_socket=str(ctx.run / SOCKET),
            user=account.user,
            password=account.password.encode(),
        )
    except AccessDenied:
        return False
    except Refused as error:
        if error.number not in EXPIRED + CROWDED:
            raise
        return error.number in CROWDED
    await session.leave()
    return True


def identifier(name: str) -> str:
    """Return a name quoted for a statement."""
    return "`" + name.replace("`", "``") + "`"


async def connect_peer(ctx: InstanceContext, peer: Peer) -> Session:
    """Open a connection to a peer as the replication user with our client certificate.

    Raises:
        Unavailable: it does not answer, or does not let us in.
    """
    import ssl

    def trust() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(ctx.tls.ca))
        context.load_cert_chain(ctx.tls.client_certificate, ctx.tls.client_key)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    try:
        context = await asyncio.to_thread(trust)
    except (OSError, ssl.SSLError) as error:
        raise Unavailable("the certificates cannot be read", object=ctx.name, cause=str(error)) from error
    target = f"server {peer.name}"
    try:
        return await _open(target, host=peer.host, port=peer.port, user=REPLICATION_USER, ssl=context)
    except AccessDenied as error:  # who may connect may come with its data
        raise Unavailable("it does not let us in", object=target, cause=error.cause) from error


async def _open(target: str, *, password: bytes = b"", settings: str | None = None, **place: Any) -> Session:
    # asyncmy and not aiomysql: both speak caching_sha2_password and TLS to 9.7 and close a connection whose query was
    # cancelled; aiomysql turns notes of the server into Python warnings, takes twice as long, and had one release in a year.
    made: Any = driver.load().connection.Connection  # its types do not tell of the deadline
    connection = made(
        **place,
        password=password,
        charset="utf8mb4",
        autocommit=True,
        init_command=settings,
        program_name="yoban",
    )
    # Python 3.11's `wait_for`, by which the driver keeps its own deadline, loses a cancellation in the moment in which the
    # connection is made (gh-86296). Without one it awaits as anybody does, and the deadline is ours.
    connection._connect_timeout = None
    with translated(target):
        async with asyncio.timeout(CONNECT):
            await connection.connect()
    return Session(connection, target)


@contextlib.contextmanager
def translated(target: str) -> Iterator[None]:
    """Turn the driver's errors into ours: everything a server can say while it comes and goes is Unavailable."""
    errors = driver.load().errors
    try:
        yield
    except YobanError:
        raise
    except errors.MySQLError as error:
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        words = str(error.args[-1]) if error.args else type(error).__name__
        if number in DENIED:
            raise AccessDenied(
                "it does not let the agent in",
                object=target,
                cause=words,
                fix="see that the agent runs as the server's user, and that the account yoban is as it was made",
            ) from error
        if 1000 <= number < 2000 or number >= 3000:
            raise Refused(target, number, words) from error
        raise Unavailable("the connection failed", object=target, cause=f"{words} ({number})") from error
    except TimeoutError as error:
        raise Unavailable("it did not answer in time", object=target) from error
    except OSError as error:
        raise Unavailable("it does not answer", object=target, cause=str(error)) from error


class Kept(KeptConnection[Session]):
    """The agent's own connection to its server."""

    async def connect(self, ctx: InstanceContext) -> Session:
        """See `connect`."""
        return await connect(ctx)

    def usable(self, connection: Session) -> bool:
        """See `Session.usable`."""
        return connection.usable

    def drop(self, connection: Session) -> None:
        """See `Session.drop`."""
        connection.drop()

    async def leave(self, connection: Session) -> None:
        """See `Session.leave`."""
        await connection.leave()
