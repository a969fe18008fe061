"""An engine whose server is an object in this process and whose disk is a folder: the smallest with every facet.

It stores short texts. Its log is made of records of 128 bytes in segments of 4096; a position is a count of bytes. The log is
kept on lines that fork at a promotion or a recovery. Guarantees what `EngineContract` asks for; exists so that core can be
tested with replicas, backups and recovery without any server, and as an example of a whole engine. Not for use.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from yoban.errors import AccessDenied, IntegrityError, InvalidInput, Unsupported
from yoban.plugins import (
    AccountSpec,
    BackupBegin,
    BackupEnd,
    BackupFacts,
    BackupItem,
    BackupRequest,
    BackupSession,
    BaseBackup,
    BrokenReplica,
    BytesItem,
    Capability,
    Configured,
    DirectoryItem,
    Endpoint,
    Engine,
    EngineVersion,
    FileItem,
    Fork,
    InstanceContext,
    Layout,
    LogRequest,
    LogSource,
    LogTail,
    LogVerb,
    Order,
    Peer,
    Position,
    Positions,
    ProgressCallback,
    Promotion,
    Reach,
    Recovery,
    RecoveryPlan,
    RecoveryProgress,
    RecoveryReached,
    RecoveryState,
    RecoveryTarget,
    ReplicaLink,
    Replication,
    Role,
    Segment,
    SegmentKind,
    SegmentName,
    Server,
    ServerCommand,
    ServerFacts,
    ServerStatus,
    SettingClass,
    SettingProblem,
    SettingRule,
    Targets,
    TargetType,
    Window,
)
from yoban.plugins.server import StopMode
from yoban.testing.engineharness import Driver, Runner
from yoban.testing.memory_data import (
    PER_SEGMENT,
    RECORD,
    SEGMENT,
    Data,
    World,
    append,
    decode,
    encode,
    fork,
    load,
    name,
    save,
)


class MemoryPositions(Positions):
    """Counts of bytes."""

    def parse(self, text: str) -> Position:
        if not (text.isascii() and text.isdigit()):
            raise InvalidInput(f"{text!r} is no position", fix="give a count of bytes, such as 4096")
        return Position(str(int(text)))

    def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
        if a == b:
            return Order.EQUAL
        return Order.LESS if int(a) < int(b) else Order.GREATER


class MemoryTargets(Targets):
    """Latest, time, position, immediate."""

    supported = frozenset({TargetType.LATEST, TargetType.TIME, TargetType.POSITION, TargetType.IMMEDIATE})

    def parse(self, target: RecoveryTarget) -> RecoveryTarget:
        if target.type not in self.supported or target.skip:
            raise Unsupported(f"the engine cannot recover to a {target.type.value}", fix="use a time or a position")
        value = ""
        if target.type is TargetType.TIME:
            try:
                moment = datetime.fromisoformat(target.value)
            except ValueError as error:
                raise InvalidInput(f"{target.value!r} is no time", fix="write 2026-01-31T12:00:00Z") from error
            if moment.tzinfo is None:
                raise InvalidInput(f"{target.value!r} has no offset", fix="write 2026-01-31T12:00:00Z")
            value = moment.astimezone(UTC).isoformat()
        elif target.type is TargetType.POSITION:
            value = MemoryPositions().parse(target.value)
        return RecoveryTarget(target.type, value, target.exclusive, target.line, target.backup)

    def reach(self, target: RecoveryTarget, backup: BackupFacts, forks: Sequence[Fork]) -> Reach:
        if target.type is TargetType.TIME:
            return Reach.YES if datetime.fromisoformat(target.value) >= backup.end_time else Reach.NO
        if target.type is TargetType.POSITION:
            return Reach.YES if int(target.value) >= int(backup.end) else Reach.NO
        return Reach.YES

    def check(self, target: RecoveryTarget, window: Window) -> None:
        outside = False
        if target.type is TargetType.TIME:
            outside = not window.start <= datetime.fromisoformat(target.value) <= window.end
        elif target.type is TargetType.POSITION:
            outside = int(target.value) > int(window.position)
        if outside:
            raise InvalidInput(
                f"{target.value} cannot be recovered",
                cause=f"the window is {window.start.isoformat()} to {window.end.isoformat()}, {window.position}",
                fix="choose a target inside of it",
            )


class MemoryServer(Server):
    """Starts nothing: `MemoryRunner` puts the server into the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def initialized(self, ctx: InstanceContext) -> bool:
        return (ctx.data / "base.json").exists()

    async def data_version(self, ctx: InstanceContext) -> str:
        return "1" if await self.initialized(ctx) else ""

    async def binary_version(self, ctx: InstanceContext) -> str:
        return "1"

    async def initialize(self, ctx: InstanceContext) -> None:
        if ctx.engine_config.get("broken"):
            raise InvalidInput("the server refuses engineConfig.broken", fix="leave it out")
        if ctx.data.exists():
            shutil.rmtree(ctx.data)
        for folder in ("log", "ready"):
            (ctx.data / folder).mkdir(parents=True)
        save(ctx.data, Data(ctx.incarnation, 1, 0, set(), [], []))

    async def configure(self, ctx: InstanceContext, role: Role, upstream: Peer | None, *, running: bool) -> Configured:
        rejected = tuple(SettingProblem(one, "unknown setting") for one in ctx.settings if one != "known")
        if rejected:
            return Configured(rejected=rejected)
        wanted = json.dumps({"role": role.value, "upstream": upstream.name if upstream else "", **ctx.settings})
        file = ctx.data / "role.json"
        if file.exists() and file.read_text() == wanted:
            return Configured()
        file.write_text(wanted)
        return Configured(changed=("role.json",))

    def command(self, ctx: InstanceContext) -> ServerCommand:
        return ServerCommand(("memory-server", str(ctx.data)))

    async def status(self, ctx: InstanceContext) -> ServerStatus:
        data = self._world.server(ctx.data)
        role, _ = self._world.role(ctx.data)
        connected = self._world.follow(ctx.data)
        return ServerStatus(
            role=role,
            accepting=role is not Role.RECOVERY,
            version="1.0",
            system_id=data.system,
            line=str(data.line),
            position=data.position,
            received=data.position if role is Role.REPLICA else None,
            last_commit=data.records[-1][0] if data.records else None,
            lag_seconds=0.0 if connected else None,
            upstream=connected,
            replicas=tuple(self._links(ctx)) if role is Role.PRIMARY else (),
        )

    def _links(self, ctx: InstanceContext) -> Sequence[ReplicaLink]:
        found = []
        for peer in ctx.peers:
            data = self._world.running.get(self._world.folders.get(peer.name, Path("/nowhere")))
            if data is not None:
                found.append(ReplicaLink(peer.name, True, False, data.position, data.position, 0.0))
        return found

    async def probe_write(self, ctx: InstanceContext) -> None:
        self._world.write(ctx, None)

    async def ensure_accounts(self, ctx: InstanceContext) -> Sequence[str]:
        wanted = json.dumps({one.user: _digest(one.password) for one in ctx.accounts.values()})
        file = ctx.data / "accounts.json"
        if file.exists() and file.read_text() == wanted:
            return ()
        file.write_text(wanted)
        return ("set passwords",)

    async def close(self, ctx: InstanceContext) -> None:
        """No connection is kept."""

    def interpret(self, ctx: InstanceContext, verb: str, arguments: Sequence[str]) -> LogRequest:
        segment, path = arguments
        MemoryLog(self._world).classify(segment)
        file = ctx.data / path
        if ctx.data not in file.resolve().parents:
            raise InvalidInput(f"{path} leads outside")
        return LogRequest(LogVerb(verb), segment, file)


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


class MemoryReplication(Replication):
    """Replicas copy records when somebody looks."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def provision(self, ctx: InstanceContext, donor: Peer, progress: ProgressCallback) -> None:
        source = self._world.server(self._world.folders.get(donor.name, Path("/nowhere")))
        if ctx.data.exists():
            shutil.rmtree(ctx.data)
        for folder in ("log", "ready"):
            (ctx.data / folder).mkdir(parents=True)
        whole = Data(source.system, source.line, source.count, source.texts, [], [*source.forks])
        progress(0, len(whole.rows))
        # Its log begins where the copy ends; the segment that holds that place is filled up with what was before.
        begin = source.count % PER_SEGMENT
        records = [(moment, None) for moment, _ in source.records[len(source.records) - begin :]] if begin else []
        padding = [(datetime.now(UTC), None)] * (begin - len(records))
        file = ctx.data / "log" / name(source.line, source.count // PER_SEGMENT)
        file.write_bytes(b"".join(encode(*record) for record in [*padding, *records]))
        accounts = self._world.folders[donor.name] / "accounts.json"
        if accounts.exists():
            shutil.copy(accounts, ctx.data)
        save(ctx.data, whole)
        progress(len(whole.rows), len(whole.rows))

    async def prepare_follow(self, ctx: InstanceContext, upstream: Peer) -> BrokenReplica | None:
        data, source = load(ctx.data), self._world.server(self._world.folders.get(upstream.name, Path("/nowhere")))
        if data.system != source.system:
            return BrokenReplica("it holds another database", rebuild=True)
        for line, _, position in source.forks:
            if int(line) > data.line and int(position) < int(data.position):
                return BrokenReplica(f"it wrote past {position}, where line {line} begins", rebuild=True)
        return BrokenReplica("it is ahead", rebuild=True) if data.count > source.count else None

    async def diagnose(self, ctx: InstanceContext) -> BrokenReplica | None:
        return None

    async def promote(self, ctx: InstanceContext, *, deadline: float) -> Promotion:
        data = self._world.server(ctx.data)
        if self._world.role(ctx.data)[0] is Role.REPLICA:
            fork(ctx.data, data)
            (ctx.data / "role.json").write_text(json.dumps({"role": Role.PRIMARY.value, "upstream": ""}))
        if not data.forks:
            return Promotion(str(data.line), "", Position("0"))
        *before, (line, parent, position) = data.forks
        ancestors = tuple(Fork(child, left, Position(at)) for child, left, at in before)
        return Promotion(line, parent, Position(position), ancestors)

    async def manage_members(self, ctx: InstanceContext, members: Sequence[Peer]) -> Sequence[str]:
        return ()

    async def drained_position(self, ctx: InstanceContext) -> Position:
        return load(ctx.data).position


class MemorySession(BackupSession):
    """The rows as they were, and the log's files as they are."""

    inspect_block = RECORD

    def __init__(self, folder: Path, data: Data) -> None:
        self._folder = folder
        self._data = data
        self._base = json.dumps(
            {
                "system": data.system,
                "line": data.line,
                "start": data.count,
                "rows": sorted(data.texts),
                "forks": data.forks,
            }
        ).encode()
        self.begin = BackupBegin(data.position, str(data.line), datetime.now(UTC), data.system, "1.0")
        self.total_bytes = len(self._base)

    async def items(self) -> AsyncIterator[BackupItem]:
        for folder in ("log", "ready"):
            yield DirectoryItem(folder)
        for file in sorted((self._folder / "log").iterdir()):
            yield FileItem(f"log/{file.name}", file, file.stat().st_size, may_vanish=True, inspect=True)
        yield BytesItem("base.json", self._base, last=True)

    def inspect(self, item: FileItem, offset: int, data: memoryview) -> None:
        try:
            decode(bytes(data))
        except ValueError as error:
            raise IntegrityError("a record cannot be read", object=str(item.source)) from error

    async def finish(self) -> BackupEnd:
        begin, end = int(self.begin.position) // SEGMENT, max(self._data.count - 1, 0) // PER_SEGMENT
        line = self._data.line
        return BackupEnd(
            position=self._data.position,
            line=str(line),
            time=datetime.now(UTC),
            items=(BytesItem("label.json", json.dumps({"begin": self.begin.position}).encode()),),
            first_segment=name(line, begin),
            last_segment=name(line, max(begin, end)),
        )


class MemoryBackup(BaseBackup):
    """Base backups of any running server."""

    def __init__(self, world: World) -> None:
        self._world = world

    @asynccontextmanager
    async def backup(self, ctx: InstanceContext, request: BackupRequest) -> AsyncIterator[BackupSession]:
        yield MemorySession(ctx.data, self._world.server(ctx.data))

    async def abandon(self, ctx: InstanceContext) -> None:
        """Nothing is ever held back."""


class MemoryLog(LogSource):
    """Segments `<line>-<number>`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def classify(self, name: str) -> SegmentName:
        line, _, number = name.partition("-")
        if not (len(line) == 4 and len(number) == 8 and (line + number).isdigit() and name.isascii()):
            raise InvalidInput(f"{name!r} is no segment", fix="give a name such as 0001-00000000")
        return SegmentName(name, str(int(line)), SegmentKind.FULL)

    async def segment_bytes(self, ctx: InstanceContext) -> int:
        return SEGMENT

    async def pending(self, ctx: InstanceContext) -> Sequence[Segment]:
        names = sorted(file.name for file in (ctx.data / "ready").iterdir())
        return [Segment(self.classify(one), ctx.data / "log" / one, SEGMENT) for one in names]

    async def inspect(self, ctx: InstanceContext, segment: Segment) -> None:
        if len(decode(segment.path.read_bytes())) != PER_SEGMENT:
            raise IntegrityError("the segment is not complete", object=segment.name.name)

    async def settled(self, ctx: InstanceContext, segment: Segment) -> None:
        (ctx.data / "ready" / segment.name.name).unlink(missing_ok=True)

    async def tail(self, ctx: InstanceContext) -> LogTail | None:
        now = datetime.now(UTC)
        data = self._world.server(ctx.data)
        if self._world.role(ctx.data)[0] is not Role.PRIMARY or data.count == 0:
            return None
        number = (data.count - 1) // PER_SEGMENT
        segment = name(data.line, number)
        earlier = tuple(one.name.name for one in await self.pending(ctx) if one.name.name < segment)
        return LogTail(
            line=str(data.line),
            segment=segment,
            path=ctx.data / "log" / segment,
            flushed=(data.count - number * PER_SEGMENT) * RECORD,
            position=data.position,
            observed_at=now,
            last_commit=data.records[-1][0] if data.records else None,
            earlier=earlier,
        )

    async def end_segment(self, ctx: InstanceContext, segment: str) -> None:
        data = self._world.server(ctx.data)
        if data.count % PER_SEGMENT and segment == name(data.line, data.count // PER_SEGMENT):
            append(ctx.data, data, [(datetime.now(UTC), None)] * (PER_SEGMENT - data.count % PER_SEGMENT))

    def pads_to(self, segment_bytes: int) -> int:
        return segment_bytes

    def successor(self, name: str, segment_bytes: int) -> str:
        line, number = (int(part) for part in name.split("-"))
        return f"{line:04d}-{number + 1:08d}"

    def segment_of(self, line: str, position: Position, names: Sequence[str], segment_bytes: int) -> str:
        return name(int(line), max(int(position) - 1, 0) // segment_bytes)

    async def retained_bytes(self, ctx: InstanceContext) -> int:
        return len(await self.pending(ctx)) * SEGMENT


class MemoryRecovery(Recovery):
    """Replays by asking for segments until the target."""

    def __init__(self, world: World) -> None:
        self._world = world

    def place(self, ctx: InstanceContext, path: str) -> Path:
        given = PurePosixPath(path)
        if not path or given.is_absolute() or ".." in given.parts:
            raise IntegrityError("the path leads outside", object=path)
        return ctx.data / given

    async def placed(self, ctx: InstanceContext) -> None:
        for folder in ("log", "ready"):
            (ctx.data / folder).mkdir(exist_ok=True)

    async def prepare(self, ctx: InstanceContext, plan: RecoveryPlan) -> None:
        (ctx.data / "recovery.json").write_text("{}")

    async def progress(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryProgress:
        data = self._world.server(ctx.data)
        if plan.has_log:
            failed = await self._fetch(ctx, data)
            if failed:
                return RecoveryProgress(RecoveryState.FAILED, data.position, None, failed)
        fresh = load(ctx.data)
        kept = [one for number, one in enumerate(fresh.records) if self._wanted(plan, fresh.start + number, one[0])]
        reached = len(kept) < len(fresh.records) or fresh.count * RECORD >= int(plan.end or plan.backup_end)
        last = kept[-1][0] if kept else None
        if not reached:
            message = f"the log ends at {fresh.position}, before {plan.end}"
            return RecoveryProgress(RecoveryState.FAILED, fresh.position, last, message)
        fresh.records = kept
        self._world.running[ctx.data] = fresh
        return RecoveryProgress(RecoveryState.REACHED, fresh.position, last)

    async def _fetch(self, ctx: InstanceContext, data: Data) -> str:
        """Ask for every segment from the backup's on; returns why it could not be looked for, "" otherwise."""
        segment = data.start // PER_SEGMENT
        while True:
            asked = name(data.line, segment)
            done = await ctx.processes.run([*ctx.ask, "restore", asked, f"log/{asked}.new"], deadline=30)
            if done.code not in (0, 1):
                return f"segment {asked} could not be fetched"
            if done.code == 1:
                return ""
            (ctx.data / "log" / f"{asked}.new").replace(ctx.data / "log" / asked)
            segment += 1

    @staticmethod
    def _wanted(plan: RecoveryPlan, number: int, moment: datetime) -> bool:
        """Whether the record of that number belongs to the result."""
        end = int(plan.target.value) if plan.target.type is TargetType.POSITION else 0
        if plan.target.type is TargetType.IMMEDIATE:
            end = int(plan.backup_end)
        if plan.target.type in (TargetType.POSITION, TargetType.IMMEDIATE):
            return (number + (2 if plan.target.exclusive else 1)) * RECORD <= end
        if plan.target.type is TargetType.TIME:
            bound = datetime.fromisoformat(plan.target.value)
            return moment < bound if plan.target.exclusive else moment <= bound
        return True

    async def finish(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryReached:
        file = ctx.data / "recovery.json"
        data = self._world.server(ctx.data)
        if not json.loads(file.read_text()):
            last = data.records[-1][0].isoformat() if data.records else ""
            kept = data.records
            fork(ctx.data, data)
            for old in (ctx.data / "log").iterdir():
                if int(old.name.split("-")[1]) * PER_SEGMENT >= data.count:
                    old.unlink()
            data.records = kept
            file.write_text(json.dumps({"last": last, "forks": data.forks[-1]}))
        found = json.loads(file.read_text())
        line, parent, position = found["forks"]
        last_commit = datetime.fromisoformat(found["last"]) if found["last"] else None
        return RecoveryReached(Position(position), last_commit, line, parent)


class MemoryEngine(Engine):
    """The engine `memory`. Engines that share a world can follow each other's servers."""

    name = "memory"
    title = "In memory, for tests"

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.positions: Positions = MemoryPositions()
        self.targets: MemoryTargets = MemoryTargets()
        self.server = MemoryServer(self.world)
        self.replication = MemoryReplication(self.world)
        self.base_backup = MemoryBackup(self.world)
        self.log_source: LogSource = MemoryLog(self.world)
        self.recovery = MemoryRecovery(self.world)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities | {Capability.LOG_VOLUME}

    def versions(self) -> Sequence[EngineVersion]:
        return (EngineVersion("1", "example.invalid/memory:1"),)

    def layout(self, version: str) -> Layout:
        home = PurePosixPath("/var/lib/memory")
        return Layout(999, 999, "memory", "memory", home, home, PurePosixPath("/var/log/memory"), 1234, "memory")

    def config_schema(self) -> Mapping[str, object]:
        broken = {"type": "boolean", "description": "Makes the server refuse to initialise."}
        return {"type": "object", "additionalProperties": False, "properties": {"broken": broken}}

    def setting_rule(self, name: str, version: str) -> SettingRule:
        return SettingRule(SettingClass.RESTART if name == "known" else SettingClass.RELOAD)

    def default_settings(self, facts: ServerFacts) -> Mapping[str, str]:
        return {"known": str(facts.memory // 4)}

    def accounts(self, database: str) -> Sequence[AccountSpec]:
        return (AccountSpec("owner", "app", database),)

    def connection(self, endpoint: Endpoint) -> Mapping[str, str]:
        user, password = quote(endpoint.user, safe=""), quote(endpoint.password, safe="")
        return {"uri": f"memory://{user}:{password}@{endpoint.host}:{endpoint.port}/{endpoint.database}"}


class MemoryRunner(Runner):
    """Starts servers in the engine's world."""

    def __init__(self, engine: MemoryEngine) -> None:
        super().__init__()
        self._world = engine.world

    async def start(self, ctx: InstanceContext, command: ServerCommand) -> None:
        """Put the server into the world."""
        self._world.start(ctx)

    async def stop(self, ctx: InstanceContext, mode: StopMode = StopMode.CLEAN) -> None:
        """Take it out; a clean stop sends replicas the rest first."""
        if mode is StopMode.CLEAN:
            for folder in list(self._world.running):
                if folder != ctx.data:
                    self._world.follow(folder)
        self._world.stop(ctx)


class MemoryDriver(Driver):
    """Writes and reads with the owner's password."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._world = engine.world

    def _log_in(self, ctx: InstanceContext) -> None:
        known = json.loads((ctx.data / "accounts.json").read_text())
        owner = ctx.accounts["owner"]
        if known.get(owner.user) != _digest(owner.password):
            raise AccessDenied("wrong password", object=owner.user)

    async def write(self, ctx: InstanceContext, text: str) -> None:
        """Commit a text."""
        self._log_in(ctx)
        self._world.write(ctx, text)

    async def read(self, ctx: InstanceContext) -> set[str]:
        """Return all texts."""
        return self._world.server(ctx.data).texts
