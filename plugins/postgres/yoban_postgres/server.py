"""Facet: initialize, configure, start, stop and observe a PostgreSQL server.

Guarantees: a data directory is complete or absent (it is made beside and renamed), and the rules of `configure` and
`session`. Holds nothing but a connection and caches.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from yoban.errors import DeadlineExceeded, InvalidInput, Unavailable
from yoban.plugins import (
    Configured,
    InstanceContext,
    LogRequest,
    LogVerb,
    Peer,
    Role,
    Server,
    ServerCommand,
    ServerStatus,
    StopMode,
)
from yoban.plugins.files import empty_folder, make_folder, sync_folder

from yoban_postgres import accounts, binaries, status
from yoban_postgres.configure import Configuration
from yoban_postgres.names import SUPERUSER
from yoban_postgres.segments import classify
from yoban_postgres.session import Kept, connect, translated

INITDB_DEADLINE = 600.0
ACCOUNTS_STATEMENT = 60.0
"""Longest time of one statement that changes accounts: a database is made by copying files."""
ACCOUNTS_DEADLINE = 90.0
_SPECIAL = ("RECOVERYXLOG", "RECOVERYHISTORY", "RECOVERYXLOG.probe")


class PostgresServer(Server):
    """The server of one instance."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._configuration = Configuration(kept)

    async def initialized(self, ctx: InstanceContext) -> bool:
        """See `Server.initialized`."""
        return await asyncio.to_thread(
            lambda: (ctx.data / "PG_VERSION").is_file() and (ctx.data / "global" / "pg_control").is_file()
        )

    async def data_version(self, ctx: InstanceContext) -> str:
        """See `Server.data_version`."""
        try:
            return (await asyncio.to_thread((ctx.data / "PG_VERSION").read_text)).strip()
        except FileNotFoundError:
            return ""

    async def binary_version(self, ctx: InstanceContext) -> str:
        """See `Server.binary_version`."""
        done = await ctx.processes.run([binaries.program(ctx, "postgres"), "--version"], deadline=10)
        match = re.search(rb"\(PostgreSQL\) (\d+)", done.stdout)
        if match is None:
            raise Unavailable(
                "the server program does not tell its version", object=ctx.name, cause=_words(done.stderr)
            )
        return match[1].decode()

    async def initialize(self, ctx: InstanceContext) -> None:
        """See `Server.initialize`."""
        making = making_folder(ctx)
        await asyncio.to_thread(clear, ctx)
        done = await ctx.processes.run(initdb_command(ctx, making), deadline=INITDB_DEADLINE)
        if done.code != 0:
            words = _words(done.stderr)
            await asyncio.to_thread(clear, ctx)
            text = f"{words}\n{done.stdout.decode(errors='replace')}"
            if re.search(r"error:|invalid|not supported|unrecognized", text) and "Permission denied" not in text:
                raise InvalidInput(
                    "the server program refuses to make a data directory",
                    object=f"engineConfig of {ctx.database}",
                    cause=words,
                    fix="correct spec.engineConfig",
                )
            raise Unavailable("the data directory could not be made", object=ctx.name, cause=words)
        await asyncio.to_thread(complete, ctx, making)

    async def configure(self, ctx: InstanceContext, role: Role, upstream: Peer | None, *, running: bool) -> Configured:
        """See `Server.configure`."""
        return await self._configuration.apply(ctx, role, upstream, running=running)

    def command(self, ctx: InstanceContext) -> ServerCommand:
        """See `Server.command`."""
        program = binaries.program(ctx, "postgres")
        return ServerCommand(
            argv=(program, "-D", str(ctx.data)),
            env={
                "PATH": f"{Path(program).parent}:/usr/local/bin:/usr/bin:/bin",
                "HOME": str(ctx.run),
                "LANG": "C.UTF-8",
                "LC_ALL": "C.UTF-8",
                "TZ": "UTC",
            },
            cwd=ctx.data,
            # TERM would wait for sessions to end by themselves.
            stop_signals={StopMode.CLEAN: signal.SIGINT, StopMode.IMMEDIATE: signal.SIGQUIT},
        )

    async def status(self, ctx: InstanceContext) -> ServerStatus:
        """See `Server.status`."""
        async with self._kept.use(ctx) as connection:
            return await status.observe(connection, ctx)

    async def probe_write(self, ctx: InstanceContext) -> None:
        """See `Server.probe_write`: a transaction that leaves a message of a few bytes in the log, and nothing else."""
        async with self._kept.use(ctx) as connection:
            await connection.fetchval("select pg_logical_emit_message(true, 'yoban', '')::text")

    async def ensure_accounts(self, ctx: InstanceContext) -> Sequence[str]:
        """See `Server.ensure_accounts`."""
        owner = ctx.accounts.get("owner")
        if owner is None:
            raise InvalidInput(
                "there is no password for the owner",
                object=ctx.database,
                fix="the accounts Secret must have the key owner",
            )
        try:
            async with asyncio.timeout(ACCOUNTS_DEADLINE):
                async with self._kept.use(ctx) as connection:
                    changes = await accounts.plan(connection, owner)
                return await self._change_accounts(ctx, changes) if changes else []
        except TimeoutError as error:
            raise DeadlineExceeded("the accounts were not made in time", object=ctx.name) from error

    async def _change_accounts(self, ctx: InstanceContext, changes: Sequence[accounts.Change]) -> list[str]:
        """On a connection of its own: whoever observes the server must not wait for it."""
        connection = await connect(ctx, statement=ACCOUNTS_STATEMENT, name="yoban-accounts", settings=accounts.UNLOGGED)
        try:
            with translated(ctx):
                return await accounts.apply(connection, changes)
        finally:
            connection.terminate()

    async def close(self, ctx: InstanceContext) -> None:
        """See `Server.close`."""
        await self._kept.close(ctx)

    def interpret(self, ctx: InstanceContext, verb: str, arguments: Sequence[str]) -> LogRequest:
        """See `Server.interpret`: `archive SEGMENT PATH`, `restore SEGMENT PATH`."""
        wrong = InvalidInput("this is no archive or restore command", object=f"request {verb[:20]!r}")
        if verb not in (LogVerb.ARCHIVE.value, LogVerb.RESTORE.value) or len(arguments) != 2:
            raise wrong
        segment, path = arguments
        name = classify(segment).name
        inside = path.removeprefix(f"{ctx.data}/")
        parts = PurePosixPath(inside).parts
        allowed = (name,) if verb == LogVerb.ARCHIVE.value else (name, *_SPECIAL)
        if len(parts) != 2 or parts[0] != "pg_wal" or parts[1] not in allowed:
            raise wrong
        return LogRequest(LogVerb(verb), name, ctx.data / "pg_wal" / parts[1])


def making_folder(ctx: InstanceContext) -> Path:
    """Return where a data directory is made before it takes its name."""
    return ctx.data.with_name(f"{ctx.data.name}.making")


def wal_folder(ctx: InstanceContext) -> Path | None:
    """Return where the log lives when it has a volume of its own."""
    return ctx.log / "pg_wal" if ctx.log is not None else None


def tablespace_folder(ctx: InstanceContext) -> Path:
    """Return where a clone keeps tablespaces: on the data volume, beside the data."""
    return ctx.data.with_name("tablespaces")


def clear(ctx: InstanceContext) -> None:
    """Remove what a failed attempt to make data has left, then make the folders it needs."""
    making = making_folder(ctx)
    for folder in (making, ctx.data, wal_folder(ctx), tablespace_folder(ctx)):
        if folder is not None:
            empty_folder(folder)
    if making.exists():
        making.rmdir()
    make_folder(making)
    log = wal_folder(ctx)
    if log is not None:
        make_folder(log)


def complete(ctx: InstanceContext, making: Path) -> None:
    """Give finished data its name, durably."""
    if ctx.data.exists():
        ctx.data.rmdir()
    making.rename(ctx.data)
    sync_folder(ctx.data.parent)


def initdb_command(ctx: InstanceContext, folder: Path) -> list[str]:
    """Return how to make a data directory by `engineConfig`. Raises InvalidInput for what this version lacks."""
    config = ctx.engine_config
    version = int(ctx.version.split(".")[0])
    words = [
        binaries.program(ctx, "initdb"),
        f"--pgdata={folder}",
        f"--username={SUPERUSER}",
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
        f"--encoding={config.get('encoding', 'UTF8')}",
        f"--locale={config.get('locale', 'C.UTF-8')}",
        f"--wal-segsize={config.get('walSegmentSize', 16)}",
        "--no-instructions",
    ]
    if config.get("dataChecksums", True):
        words.append("--data-checksums")
    elif version >= 18:
        words.append("--no-data-checksums")
    if icu := config.get("icuLocale"):
        if version < 15:
            raise InvalidInput(
                "icuLocale needs PostgreSQL 15 or newer",
                object=f"engineConfig of {ctx.database}",
                fix="remove icuLocale",
            )
        words += ["--locale-provider=icu", f"--icu-locale={icu}"]
    log = wal_folder(ctx)
    if log is not None:
        words.append(f"--waldir={log}")
    return words


def _words(output: bytes) -> str:
    return output.decode(errors="replace").strip()[-800:]
