"""Facet: initialize, configure, start, stop and observe a MySQL server.

Guarantees: a data directory is complete or absent (it is made beside and renamed), with no account that needs no proof; and
the rules of `configure`, `reign` and `session`. Holds nothing but a connection and caches.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from yoban.errors import DeadlineExceeded, InvalidInput, NotReady, Unavailable, YobanError
from yoban.plugins import (
    Configured,
    Finished,
    InstanceContext,
    Peer,
    Role,
    Server,
    ServerCommand,
    ServerStatus,
    StopMode,
)
from yoban.plugins.files import empty_folder, make_folder, replace_file, sync_folder

from yoban_mysql import accounts, binaries, confirm, follow, reign, scheduled, status
from yoban_mysql.configuration import made_with, waits
from yoban_mysql.configure import Configuration, started_role
from yoban_mysql.line import OUR_TABLES
from yoban_mysql.names import AGENT, MAIN_CONF, PID_FILE
from yoban_mysql.session import Kept, connect

INITIALIZE_DEADLINE = 600.0
ACCOUNTS_DEADLINE = 90.0
ACCOUNTS_STATEMENT = 60.0
"""Longest time of one statement that changes accounts: it may wait for replicas."""
SETTLE_DEADLINE = 16.0
TABLESPACE = "mysql.ibd"
INIT_FILE = "yoban-init.sql"
_VERSION_AT = 8
"""Where page 0 of a tablespace tells the server's version: FIL_PAGE_SRV_VERSION in the server's source (fil0types.h)."""
_PROBE = "UPDATE yoban.probe SET at = UTC_TIMESTAMP(6) WHERE id = 1"


class MySqlServer(Server):
    """The server of one instance."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._configuration = Configuration(kept)

    async def initialized(self, ctx: InstanceContext) -> bool:
        """See `Server.initialized`."""
        return await asyncio.to_thread(lambda: (ctx.data / TABLESPACE).is_file() and (ctx.data / "ibdata1").is_file())

    async def data_version(self, ctx: InstanceContext) -> str:
        """See `Server.data_version`: as the dictionary's tablespace tells it."""
        return await asyncio.to_thread(version_of, ctx.data)

    async def binary_version(self, ctx: InstanceContext) -> str:
        """See `Server.binary_version`."""
        done = await ctx.processes.run([binaries.server(), "--no-defaults", "--version"], deadline=10)
        match = re.search(rb"Ver (\d+\.\d+)\.", done.stdout)
        if match is None:
            raise Unavailable("the server program does not tell its version", object=ctx.name, cause=words(done.stderr))
        return match[1].decode()

    async def initialize(self, ctx: InstanceContext) -> None:
        """See `Server.initialize`."""
        making = making_folder(ctx)
        await asyncio.to_thread(clear, ctx)
        await create(ctx, making)
        await asyncio.to_thread(complete, ctx, making)

    async def configure(self, ctx: InstanceContext, role: Role, upstream: Peer | None, *, running: bool) -> Configured:
        """See `Server.configure`. On a running server it also opens or closes it for writes, and makes it follow."""
        return await self._configuration.apply(ctx, role, upstream, running=running)

    def command(self, ctx: InstanceContext) -> ServerCommand:
        """See `Server.command`. IMMEDIATE is a kill: by any other signal the server would end as it does cleanly.

        Without an agent it is killed, too: told to stop, it would acknowledge commits that wait for replicas (see `close`).
        Its settings are crash-safe, and durability may be declared otherwise while it runs.
        """
        program = binaries.server()
        return ServerCommand(
            argv=(program, f"--defaults-file={ctx.data / MAIN_CONF}"),
            env={
                "PATH": f"{Path(program).parent}:/usr/local/bin:/usr/bin:/bin",
                "HOME": str(ctx.run),
                "LANG": "C.UTF-8",
                "LC_ALL": "C.UTF-8",
                "TZ": "UTC",
            },
            cwd=ctx.data,
            stop_signals={StopMode.CLEAN: signal.SIGTERM, StopMode.IMMEDIATE: signal.SIGKILL},
            unattended=StopMode.IMMEDIATE,
        )

    async def status(self, ctx: InstanceContext) -> ServerStatus:
        """See `Server.status`."""
        async with self._kept.use(ctx) as session:
            return await status.observe(session, ctx)

    async def probe_write(self, ctx: InstanceContext) -> None:
        """See `Server.probe_write`: a commit to a table of this server alone, which waits for no replica.

        Raises:
            Unavailable: it did not succeed, or the server is not opened for writes.
        """
        async with self._kept.use(ctx) as session:
            await session.execute("SET SESSION sql_log_bin = OFF")
            await session.execute(_PROBE)
            await session.execute("SET SESSION sql_log_bin = ON")

    async def ensure_accounts(self, ctx: InstanceContext) -> Sequence[str]:
        """See `Server.ensure_accounts`. The first accounts wait for no replica: nobody can have written yet.

        Raises:
            NotReady: it would wait for replicas that are away (reason `AccountsWait`). The server keeps everybody from
                logging in while a change waits, those replicas too.
        """
        owner = ctx.accounts.get("owner")
        if owner is None:
            raise InvalidInput(
                "there is no password for the owner",
                object=ctx.database,
                fix="the accounts Secret must have the key owner",
            )
        try:
            async with asyncio.timeout(ACCOUNTS_DEADLINE):
                async with self._kept.use(ctx) as session:
                    changes = await accounts.plan(session, ctx, owner)
                    first = bool(changes) and waits(ctx.durability) and await accounts.nobody_else(session)
                    away = await confirm.missing(session) if changes and not first else ""
                if away:
                    raise NotReady(
                        "accounts are not changed while commits would wait",
                        object=ctx.name,
                        cause=f"{', '.join(change.words for change in changes)}: {away}",
                        fix="see why the replicas do not follow; accounts are changed when enough of them do",
                        reason="AccountsWait",
                    )
                return await self._change_accounts(ctx, changes, first=first) if changes else []
        except TimeoutError as error:
            raise DeadlineExceeded("the accounts were not made in time", object=ctx.name) from error

    async def _change_accounts(
        self, ctx: InstanceContext, changes: Sequence[accounts.Change], *, first: bool
    ) -> list[str]:
        """On a connection of its own: whoever observes the server must not wait for it."""
        session = await connect(ctx)
        try:
            if not first:
                return await accounts.apply(session, changes, deadline=ACCOUNTS_STATEMENT)
            async with reign.alone(session, ctx):
                made = await accounts.apply(session, changes, deadline=ACCOUNTS_STATEMENT)
            await session.execute("SET GLOBAL read_only = OFF")
            return made
        finally:
            session.drop()

    async def close(self, ctx: InstanceContext) -> None:
        """See `Server.close`. A primary takes no more writes, and its replicas get a moment to have what was written.

        A server with commits that wait for replicas is killed: told to stop, it would acknowledge them, and no replica has
        them. Their sessions end without an answer. So is one that should wait and cannot be asked; only a restore, in which
        nobody commits, is left to end as it does: a kill would lose what it has not flushed. A replica in the middle of a
        long transaction is killed too: it would end when that is applied, in minutes.
        """
        settled: bool | None = None
        role = await asyncio.to_thread(started_role, ctx)
        with contextlib.suppress(YobanError, TimeoutError):
            async with asyncio.timeout(SETTLE_DEADLINE), self._kept.use(ctx) as session:
                settled = await reign.settle(session)
                if role is Role.REPLICA:
                    settled = await follow.halt(session) and settled
        unasked = settled is None and waits(ctx.durability)
        if settled is False or (unasked and role is not Role.RECOVERY):
            await asyncio.to_thread(kill, ctx)
        await self._kept.close(ctx)


def kill(ctx: InstanceContext) -> None:
    """Kill the server of an instance, if it runs. Blocking."""
    try:
        pid = int((ctx.run / PID_FILE).read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ValueError):
        return
    if f"--defaults-file={ctx.data / MAIN_CONF}".encode() in words:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def making_folder(ctx: InstanceContext) -> Path:
    """Return where a data directory is made before it takes its name."""
    return ctx.data.with_name(f"{ctx.data.name}.making")


def clear(ctx: InstanceContext) -> None:
    """Remove what a failed attempt to make data has left."""
    making = making_folder(ctx)
    for folder in (making, ctx.data):
        empty_folder(folder)
    if making.exists():
        making.rmdir()


def complete(ctx: InstanceContext, made: Path) -> None:
    """Give finished data its name, durably."""
    if ctx.data.exists():
        ctx.data.rmdir()
    made.rename(ctx.data)
    sync_folder(ctx.data.parent)


async def create(ctx: InstanceContext, folder: Path) -> None:
    """Make a complete data directory, with our accounts and none other.

    Raises:
        InvalidInput: `engineConfig` asks for what the server program refuses.
        Unavailable: it could not be made.
    """
    done = await ctx.processes.run([*plain(ctx, folder), "--initialize-insecure"], deadline=INITIALIZE_DEADLINE)
    _made(ctx, done)
    # Plugins are not loaded while a directory is initialized: accounts are made by a first start, which nobody can reach.
    script = ctx.tmp / INIT_FILE
    await asyncio.to_thread(_write_script, script)
    try:
        first = [*plain(ctx, folder), "--plugin-load-add=auth_socket.so", "--skip-networking", "--disable-log-bin"]
        first += [
            f"--init-file={script}",
            f"--socket={ctx.tmp / 'making.sock'}",
            f"--pid-file={ctx.tmp / 'making.pid'}",
        ]
        done = await ctx.processes.run(first, deadline=INITIALIZE_DEADLINE)
    finally:
        await asyncio.to_thread(script.unlink, missing_ok=True)
    _made(ctx, done)


def plain(ctx: InstanceContext, folder: Path, *, secure_file_priv: str = "NULL") -> list[str]:
    """Return how to run the server program on a data directory without any configuration but `engineConfig`."""
    options = made_with(ctx) | {
        "auto_generate_certs": "OFF",
        "datadir": str(folder),
        "enforce_gtid_consistency": "ON",
        "gtid_mode": "ON",
        "log_timestamps": "UTC",
        "mysqlx": "OFF",
        "persisted_globals_load": "OFF",
        "secure_file_priv": secure_file_priv,
        "tmpdir": str(ctx.tmp),
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in sorted(options.items())]
    return [binaries.server(), "--no-defaults", *words]


def agent_statements(user: str) -> list[str]:
    """Return the statements that make the agent's account, for a user of the operating system."""
    quoted = user.replace("\\", "\\\\").replace("'", "\\'")
    return [
        f"CREATE USER '{AGENT}'@'localhost' IDENTIFIED WITH auth_socket AS '{quoted}'",
        f"GRANT ALL ON *.* TO '{AGENT}'@'localhost' WITH GRANT OPTION",
    ]


def version_of(data: Path) -> str:
    """Return the version that wrote a data directory, "" when it is empty. Blocking."""
    try:
        with (data / TABLESPACE).open("rb") as file:
            head = file.read(_VERSION_AT + 4)
    except FileNotFoundError:
        return ""
    number = int.from_bytes(head[_VERSION_AT:], "big")
    return f"{number // 10000}.{number // 100 % 100}" if len(head) == _VERSION_AT + 4 else ""


def words(output: bytes) -> str:
    """Return the end of a program's output."""
    return output.decode(errors="replace").strip()[-800:]


def _write_script(script: Path) -> None:
    statements = [
        *agent_statements(pwd.getpwuid(os.geteuid()).pw_name),
        *accounts.REPLICATION_STATEMENTS,
        *OUR_TABLES,
        scheduled.TABLE,
        "DROP USER 'root'@'localhost'",
        "SHUTDOWN",
    ]
    make_folder(script.parent)
    replace_file(script, "".join(f"{statement};\n" for statement in statements))


def _made(ctx: InstanceContext, done: Finished) -> None:
    errors = re.findall(r"\[ERROR\] \[MY-\d+\] \[[^]]*\] (.*)", done.stderr.decode(errors="replace"))
    if done.code == 0 and not errors:
        return
    text = "; ".join(dict.fromkeys(errors)) or words(done.stderr)
    if re.search(r"character set|collation|Error while setting value|unknown variable|lower_case", text, re.IGNORECASE):
        raise InvalidInput(
            "the server program refuses to make a data directory",
            object=f"engineConfig of {ctx.database}",
            cause=text[:800],
            fix="correct spec.engineConfig",
        )
    raise Unavailable("the data directory could not be made", object=ctx.name, cause=text[:800])
