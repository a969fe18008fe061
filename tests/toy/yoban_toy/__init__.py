"""A toy engine: one file, no log, no replicas. It shows how little an engine needs, and keeps the contract honest."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from yoban import plugins as api
from yoban.errors import IntegrityError, InvalidInput, Unavailable, Unsupported

YOBAN_PLUGIN_API = (1, 0)
# The whole server: it says every half second that it lives, and ends when it is told to.
PROGRAM = (
    'trap "exit 0" TERM; trap "exit 3" QUIT; while :; do echo "$1" > alive.new; mv alive.new alive; sleep 0.5; done'
)


class ToyPositions(api.Positions):
    """A position is how often the file was replaced by us: a number."""

    def parse(self, text: str) -> api.Position:
        if not text.isascii() or not text.isdigit():
            raise InvalidInput("a position of the toy is a number", object=text, fix="write it like 42")
        return api.Position(str(int(text)))

    def compare(self, a: api.Position, b: api.Position, forks: Sequence[api.Fork] = ()) -> api.Order:
        return api.Order.EQUAL if a == b else api.Order.LESS if int(a) < int(b) else api.Order.GREATER


class ToyTargets(api.Targets):
    """Without a log only what a backup holds can be reached."""

    supported = frozenset({api.TargetType.LATEST, api.TargetType.IMMEDIATE})

    def parse(self, target: api.RecoveryTarget) -> api.RecoveryTarget:
        if target.type not in self.supported or target.exclusive or target.skip:
            raise Unsupported("the toy restores backups only", object=target.type.value, fix="use the type latest")
        return target

    def reach(self, target: api.RecoveryTarget, backup: api.BackupFacts, forks: Sequence[api.Fork]) -> api.Reach:
        return api.Reach.YES

    def check(self, target: api.RecoveryTarget, window: api.Window) -> None:
        return None


class ToyServer(api.Server):
    """`data/store` is the database, `data/writes` counts our own commits, `data/settings` is the configuration."""

    async def initialized(self, ctx: api.InstanceContext) -> bool:
        return (ctx.data / "store").is_file()

    async def data_version(self, ctx: api.InstanceContext) -> str:
        return "1" if await self.initialized(ctx) else ""

    async def binary_version(self, ctx: api.InstanceContext) -> str:
        return "1"

    async def initialize(self, ctx: api.InstanceContext) -> None:
        ctx.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace(ctx.data / "store", str(ctx.engine_config.get("greeting", "")))

    async def configure(
        self, ctx: api.InstanceContext, role: api.Role, upstream: api.Peer | None, *, running: bool
    ) -> api.Configured:
        bad = tuple(api.SettingProblem(name, "no such setting") for name in ctx.settings if name != "colour")
        if bad:
            return api.Configured(rejected=bad)
        text = "".join(f"{name}={value}\n" for name, value in sorted(ctx.settings.items()))
        if read(ctx.data / "settings") == text:
            return api.Configured()
        replace(ctx.data / "settings", text)
        return api.Configured(changed=tuple(ctx.settings))

    def command(self, ctx: api.InstanceContext) -> api.ServerCommand:
        return api.ServerCommand(("sh", "-c", PROGRAM, "toy", "alive"), {"PATH": os.defpath}, ctx.data)

    async def status(self, ctx: api.InstanceContext) -> api.ServerStatus:
        alive = ctx.data / "alive"
        if not alive.exists() or time.time() - alive.stat().st_mtime > 3:
            raise Unavailable("the toy does not answer", object=ctx.name)
        return api.ServerStatus(api.Role.PRIMARY, True, version="1.0", position=api.Position(writes(ctx)))

    async def probe_write(self, ctx: api.InstanceContext) -> None:
        await self.status(ctx)
        replace(ctx.data / "writes", str(int(writes(ctx)) + 1))

    async def ensure_accounts(self, ctx: api.InstanceContext) -> Sequence[str]:
        return ()

    async def close(self, ctx: api.InstanceContext) -> None:
        return None


class ToySession(api.BackupSession):
    """A hard link holds the file as it was: writers replace it."""

    def __init__(self, ctx: api.InstanceContext, held: Path) -> None:
        self._ctx, self._held = ctx, held
        self.begin = api.BackupBegin(api.Position(writes(ctx)), "", datetime.now(UTC), "", "1.0")
        self.total_bytes = held.stat().st_size

    async def items(self) -> AsyncIterator[api.BackupItem]:
        yield api.FileItem("store", self._held, self.total_bytes)

    async def finish(self) -> api.BackupEnd:
        return api.BackupEnd(self.begin.position, "", self.begin.time)


class ToyBackup(api.BaseBackup):
    """Backups of the one file."""

    @asynccontextmanager
    async def backup(self, ctx: api.InstanceContext, request: api.BackupRequest) -> AsyncIterator[api.BackupSession]:
        held = ctx.data / f"held-{request.id}"
        held.unlink(missing_ok=True)
        os.link(ctx.data / "store", held)
        try:
            yield ToySession(ctx, held)
        finally:
            held.unlink()

    async def abandon(self, ctx: api.InstanceContext) -> None:
        for held in ctx.data.glob("held-*"):
            held.unlink()


class ToyRecovery(api.Recovery):
    """Nothing is replayed: the restored file is the target."""

    def place(self, ctx: api.InstanceContext, path: str) -> Path:
        if path != "store":
            raise IntegrityError("no file of the toy's", object=path)
        return ctx.data / path

    async def placed(self, ctx: api.InstanceContext) -> None:
        return None

    async def prepare(self, ctx: api.InstanceContext, plan: api.RecoveryPlan) -> None:
        replace(ctx.data / "writes", plan.backup_end)

    async def progress(self, ctx: api.InstanceContext, plan: api.RecoveryPlan) -> api.RecoveryProgress:
        return api.RecoveryProgress(api.RecoveryState.REACHED, api.Position(writes(ctx)))

    async def finish(self, ctx: api.InstanceContext, plan: api.RecoveryPlan) -> api.RecoveryReached:
        return api.RecoveryReached(api.Position(writes(ctx)), None, "", "")


class ToyEngine(api.Engine):
    """The facets, and what the operator must know."""

    name, title = "toy", "Toy (one file)"
    positions, server, targets = ToyPositions(), ToyServer(), ToyTargets()
    base_backup, recovery = ToyBackup(), ToyRecovery()

    def versions(self) -> Sequence[api.EngineVersion]:
        return [api.EngineVersion("1", "debian:bookworm-slim")]

    def layout(self, version: str) -> api.Layout:
        path = PurePosixPath
        return api.Layout(1999, 1999, "toy", "toy", path("/tmp"), path("/var/lib/toy"), None, 7000, "toy")

    def config_schema(self) -> Mapping[str, object]:
        greeting = {"type": "string", "maxLength": 80, "description": "First content of the file"}
        return {"type": "object", "additionalProperties": False, "properties": {"greeting": greeting}}

    def setting_rule(self, name: str, version: str) -> api.SettingRule:
        return api.SettingRule(api.SettingClass.RELOAD)

    def default_settings(self, facts: api.ServerFacts) -> Mapping[str, str]:
        return {"colour": "blue"}

    def accounts(self, database: str) -> Sequence[api.AccountSpec]:
        return [api.AccountSpec("owner", "toy")]

    def connection(self, endpoint: api.Endpoint) -> Mapping[str, str]:
        return {"uri": f"toy://{endpoint.host}:{endpoint.port}"}


def read(file: Path) -> str:
    """Return a file's text, "" when it is not there."""
    return file.read_text() if file.exists() else ""


def replace(file: Path, text: str) -> None:
    """Replace a file as a whole."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def writes(ctx: api.InstanceContext) -> str:
    """Return how often we committed."""
    return read(ctx.data / "writes") or "0"


@api.hookimpl
def yoban_engines() -> Iterable[api.Engine]:
    """Declare the engine."""
    return [ToyEngine()]
