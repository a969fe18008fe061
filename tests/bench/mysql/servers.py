"""MySQL servers without an agent, all with one configuration: that of a recovery, on copies of a base backup or on new data.

They flush as a recovery does (`yoban_mysql.recovery.RELAXED`) and write no log of their own, whoever feeds them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from yoban.plugins import RecoveryPlan, RecoveryTarget, Role, StopMode, TargetType
from yoban_mysql.configuration import plugins
from yoban_mysql.engine import MySqlEngine
from yoban_mysql.gtid import GtidSet
from yoban_mysql.names import SOCKET
from yoban_mysql.server import plain

from tests.bench.machine import BenchError, run
from tests.bench.mysql.ours import SETTINGS
from tests.bench.mysql.programs import sql
from tests.integration.mysql.world import Instance, Templates, World
from tests.integration.servers import make_certificates

__all__ = ["Instance", "Servers"]

NOTHING = RecoveryPlan(RecoveryTarget(TargetType.IMMEDIATE), "", None, "", has_log=False)
"""A recovery that applies nothing."""


class Servers:
    """Servers in one folder, one at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        self._world = World(folder, make_certificates(folder / "tls"), Templates(folder))

    @property
    def engine(self) -> MySqlEngine:
        """The engine."""
        return self._world.engine

    async def adopt(self, base: Path) -> None:
        """Let this process into the servers of a restored base backup: accounts of agents go by the user they run as."""
        made = self._world.instance()
        await self.engine.recovery.placed(replace(made.ctx, data=base))
        script = made.ctx.tmp / "adopt.sql"
        user = pwd.getpwuid(os.geteuid()).pw_name
        script.write_text(f"ALTER USER yoban@localhost IDENTIFIED WITH auth_socket AS '{user}';\nSHUTDOWN;\n")
        script.chmod(0o644)
        command = [
            *plain(made.ctx, base),
            *(f"--{name.replace('_', '-')}={value}" for name, value in plugins()),
            "--skip-networking",
            "--disable-log-bin",
            f"--init-file={script}",
            f"--socket={made.ctx.tmp / 'server.sock'}",
            f"--pid-file={made.ctx.tmp / 'server.pid'}",
        ]
        done = await made.ctx.processes.run(command, deadline=120)
        if done.code:
            raise BenchError(f"the base backup does not start: {done.stderr.decode(errors='replace')[-1500:]}")

    @contextlib.asynccontextmanager
    async def server(self, base: Path | None, plan: RecoveryPlan | None = None) -> AsyncIterator[Instance]:
        """Make a server, not started yet, and remove it at the end.

        Args:
            base: folder with a restored base backup that was adopted, which is copied; None for new data.
            plan: of the recovery that it is configured for; None for one that applies nothing.
        """
        world = self._world
        made = world.instance(settings=SETTINGS, incarnation="ba9876543210")
        made.change(cpus=float(os.cpu_count() or 1), peers=())
        try:
            if base is None:
                await world.engine.server.initialize(made.ctx)
            else:
                await run(["cp", "-a", "--reflink=auto", str(base), str(made.ctx.data)])
                await world.engine.recovery.placed(made.ctx)
            configured = await world.engine.server.configure(made.ctx, Role.RECOVERY, None, running=False)
            if configured.rejected:
                raise BenchError(f"settings are refused: {configured.rejected}")
            await world.engine.recovery.prepare(made.ctx, plan or NOTHING)
            yield made
        finally:
            await made.stop(StopMode.IMMEDIATE)
            # Its folder's number is not used again.
            await run(["rm", "-rf", str(made.ctx.data.parent)])


def socket_of(made: Instance) -> Path:
    """The socket of a server."""
    return Path(made.ctx.run, SOCKET)


async def ask(made: Instance, text: str) -> str:
    """Run SQL at a server; return its rows."""
    return await sql(socket_of(made), text, ours=True)


async def open_for_writes(made: Instance) -> None:
    """Let a server be written to."""
    await ask(made, "SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF")


async def executed(made: Instance) -> GtidSet:
    """What a server has executed."""
    return GtidSet.parse((await ask(made, "SELECT @@GLOBAL.gtid_executed")).replace("\\n", ""))


async def checksums(made: Instance, tables: Sequence[str]) -> str:
    """The checksums of tables."""
    return await ask(made, f"CHECKSUM TABLE {', '.join(tables)}")
