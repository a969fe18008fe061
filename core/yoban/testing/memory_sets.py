"""The in-memory engine again, with a log of the other shape; what core can do with it does not hang on counts of bytes.

Each server writes files of its own, of uneven length, whose names tell how much was logged before them; a position is the
set of records that a server has; a line begins with a server's oldest file, which may lie before the fork; a base backup is
consistent by itself; and a recovery is fed. Passes `EngineContract`, as an example of such an engine. Not for use.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from yoban.errors import IntegrityError, InvalidInput, Unsupported
from yoban.plugins import (
    BackupBegin,
    BackupEnd,
    BackupFacts,
    BackupRequest,
    BackupSession,
    Fork,
    InstanceContext,
    LogSource,
    LogTail,
    Order,
    Position,
    Positions,
    Promotion,
    Reach,
    RecoveryPlan,
    RecoveryProgress,
    RecoveryReached,
    RecoveryState,
    RecoveryTarget,
    Role,
    Segment,
    SegmentKind,
    SegmentName,
    ServerStatus,
    TargetType,
    Window,
)
from yoban.testing.memory_data import PER_SEGMENT, RECORD, Data, World, append, encode, load, name
from yoban.testing.memory_data import fork as leave
from yoban.testing.memory_engine import (
    MemoryBackup,
    MemoryEngine,
    MemoryRecovery,
    MemoryReplication,
    MemoryServer,
    MemorySession,
    MemoryTargets,
)

Record = tuple[int, int, datetime, str | None]
"""Line and number by which a record is known, time of its commit, text."""

_PART = re.compile(r"([1-9][0-9]*):([1-9][0-9]*)-([1-9][0-9]*)")
_NAME = re.compile(r"([0-9]{4})\.([0-9]{4})\.([0-9]{8})")


def parse_set(text: str) -> dict[int, tuple[int, int]]:
    """First and last number of the records of each line. Raises InvalidInput."""
    found: dict[int, tuple[int, int]] = {}
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None or int(match[2]) > int(match[3]) or int(match[1]) in found:
            raise InvalidInput(f"{text!r} is no position", fix="give records by line, such as 1:1-7,2:8-9")
        found[int(match[1])] = (int(match[2]), int(match[3]))
    return found


def place(data: Data, count: int) -> Position:
    """The set of the first so many records, which may lie on several lines."""
    parts: list[str] = []
    last = count
    for line, parent, position in [*reversed(data.forks), ("1", "", "")]:
        fork = int(position) // RECORD if parent else 0
        if last > fork:
            parts.insert(0, f"{line}:{fork + 1}-{last}")
            last = fork
    return Position(",".join(parts))


def sum_of(found: Mapping[int, tuple[int, int]]) -> int:
    """How many records are in a set that has no gap."""
    return sum(last - first + 1 for first, last in found.values())


class SetsPositions(Positions):
    """Sets of records."""

    def parse(self, text: str) -> Position:
        found = parse_set(text)
        return Position(",".join(f"{line}:{first}-{last}" for line, (first, last) in sorted(found.items())))

    def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
        one, other = parse_set(a), parse_set(b)
        within, around = _within(one, other), _within(other, one)
        if within and around:
            return Order.EQUAL
        return Order.LESS if within else Order.GREATER if around else Order.INCOMPARABLE


def _within(one: Mapping[int, tuple[int, int]], other: Mapping[int, tuple[int, int]]) -> bool:
    return all(
        line in other and other[line][0] <= first and last <= other[line][1] for line, (first, last) in one.items()
    )


class SetsTargets(MemoryTargets):
    """The same, but for positions."""

    def parse(self, target: RecoveryTarget) -> RecoveryTarget:
        if target.type is not TargetType.POSITION:
            return super().parse(target)
        if target.skip or target.exclusive:
            raise Unsupported("the engine stops behind a position only", fix="leave exclusive and skip out")
        value = SetsPositions().parse(target.value)
        return RecoveryTarget(target.type, value, False, target.line, target.backup)

    def reach(self, target: RecoveryTarget, backup: BackupFacts, forks: Sequence[Fork]) -> Reach:
        if target.type is not TargetType.POSITION:
            return super().reach(target, backup, forks)
        return Reach.YES if SetsPositions().covers(Position(target.value), backup.end) else Reach.NO

    def check(self, target: RecoveryTarget, window: Window) -> None:
        if target.type is not TargetType.POSITION:
            super().check(target, window)
        elif not SetsPositions().covers(window.position, Position(target.value)):
            raise InvalidInput(f"{target.value} is not stored", cause=f"the window ends at {window.position}")


class SetsServer(MemoryServer):
    """Tells positions as sets. New data begin with a record, since nothing at all is no place."""

    async def initialize(self, ctx: InstanceContext) -> None:
        await super().initialize(ctx)
        append(ctx.data, load(ctx.data), [(datetime.now(UTC), None)])

    async def status(self, ctx: InstanceContext) -> ServerStatus:
        found = await super().status(ctx)
        data = self._world.server(ctx.data)

        def as_set(position: Position | None) -> Position | None:
            return None if position is None else place(data, int(position) // RECORD) or None

        return replace(
            found,
            position=as_set(found.position),
            received=as_set(found.received),
            replicas=tuple(
                replace(link, flushed=as_set(link.flushed), replayed=as_set(link.replayed)) for link in found.replicas
            ),
        )


class SetsReplication(MemoryReplication):
    """Tells where a line forks as a set."""

    async def promote(self, ctx: InstanceContext, *, deadline: float) -> Promotion:
        done = await super().promote(ctx, deadline=deadline)
        data = self._world.server(ctx.data)
        forks = [replace(fork, position=place(data, int(fork.position) // RECORD)) for fork in done.ancestors]
        return replace(done, fork=place(data, int(done.fork) // RECORD), ancestors=tuple(forks))

    async def drained_position(self, ctx: InstanceContext) -> Position:
        data = load(ctx.data)
        return place(data, data.count)


def records(data: Data) -> Iterator[Record]:
    """What a server has logged since its data were made."""
    forks = [(int(line), int(position) // RECORD) for line, _, position in data.forks]
    for step, (moment, text) in enumerate(data.records):
        number = data.start + step + 1
        line = max((line for line, fork in forks if number > fork), default=1)
        yield line, number, moment, text


class SetsLog(LogSource):
    """Files `<line>.<number>.<records before it>`, made from the server's records when somebody looks."""

    lines_overlap = True

    def __init__(self, world: World) -> None:
        self._world = world
        self.told: dict[Path, Position] = {}
        """Up to where all is stored, as each instance was told last."""

    async def stored(self, ctx: InstanceContext, position: Position) -> None:
        self.told[ctx.data] = position

    def classify(self, name: str) -> SegmentName:
        match = _NAME.fullmatch(name)
        if match is None:
            raise InvalidInput(f"{name!r} is no segment", fix="give a name such as 0001.0000.00000000")
        return SegmentName(name, str(int(match[1])), SegmentKind.FULL)

    async def segment_bytes(self, ctx: InstanceContext) -> int:
        return 0

    def _files(self, ctx: InstanceContext) -> list[Path]:
        data = self._world.running.get(ctx.data) or load(ctx.data)
        folder = ctx.data / "sets"
        folder.mkdir(exist_ok=True)
        left = list(records(data))
        found: list[Path] = []
        number = 0
        while left or not found:
            some, left = left[: 3 + number % 4], left[3 + number % 4 :]
            before = some[0][1] - 1 if some else data.count
            file = folder / f"{data.line:04d}.{number:04d}.{before:08d}"
            file.write_text("".join(json.dumps([a, b, c.isoformat(), d]) + "\n" for a, b, c, d in some))
            found, number = [*found, file], number + 1
        return found

    async def pending(self, ctx: InstanceContext) -> Sequence[Segment]:
        if self._world.role(ctx.data)[0] is not Role.PRIMARY:
            return []
        return [
            Segment(self.classify(file.name), file, file.stat().st_size)
            for file in self._files(ctx)[:-1]
            if not (ctx.data / f"{file.name}.settled").exists()
        ]

    async def inspect(self, ctx: InstanceContext, segment: Segment) -> None:
        first = json.loads(segment.path.read_text().splitlines()[0])
        if first[1] != int(segment.name.name[-8:]) + 1:
            raise IntegrityError("it holds another part of the log than its name says", object=segment.name.name)

    async def settled(self, ctx: InstanceContext, segment: Segment) -> None:
        (ctx.data / f"{segment.name.name}.settled").touch()

    async def tail(self, ctx: InstanceContext) -> LogTail | None:
        now = datetime.now(UTC)
        data = self._world.server(ctx.data)
        if self._world.role(ctx.data)[0] is not Role.PRIMARY or not data.count:
            return None
        earlier = tuple(segment.name.name for segment in await self.pending(ctx))
        file = self._files(ctx)[-1]
        return LogTail(
            line=str(data.line),
            segment=file.name,
            path=file,
            flushed=file.stat().st_size,
            position=place(data, data.count),
            observed_at=now,
            last_commit=data.records[-1][0] if data.records else None,
            earlier=earlier,
        )

    def pads_to(self, segment_bytes: int) -> int:
        return 0

    def successor(self, name: str, segment_bytes: int) -> str:
        line, number = name.split(".")[:2]
        return f"{line}.{int(number) + 1:04d}."

    def segment_of(self, line: str, position: Position, names: Sequence[str], segment_bytes: int) -> str:
        count = sum_of(parse_set(position))
        before = [name for name in names if int(name[-8:]) < count]
        return before[-1] if before else next((name for name in names if int(name[-8:]) == count), "")

    async def retained_bytes(self, ctx: InstanceContext) -> int:
        return sum(segment.size for segment in await self.pending(ctx))


class SetsSession(MemorySession):
    """The rows alone would do: nothing of the log is needed to make them consistent."""

    def __init__(self, folder: Path, data: Data) -> None:
        super().__init__(folder, data)
        self._end = BackupEnd(place(data, data.count), str(data.line), datetime.now(UTC))
        self.begin = BackupBegin(self._end.position, str(data.line), self._end.time, data.system, "1.0")

    async def finish(self) -> BackupEnd:
        return self._end


class SetsBackup(MemoryBackup):
    """Base backups of any running server."""

    @asynccontextmanager
    async def backup(self, ctx: InstanceContext, request: BackupRequest) -> AsyncIterator[BackupSession]:
        yield SetsSession(ctx.data, self._world.server(ctx.data))


class SetsRecovery(MemoryRecovery):
    """Takes the records of the history out of what it is fed."""

    feeds = True

    async def placed(self, ctx: InstanceContext) -> None:
        await super().placed(ctx)
        for file in (ctx.data / "log").iterdir():
            file.unlink()  # the rows have it all
        data = load(ctx.data)
        padding = [encode(datetime.now(UTC), None)] * (data.start % PER_SEGMENT)
        (ctx.data / "log" / name(data.line, data.start // PER_SEGMENT)).write_bytes(b"".join(padding))

    async def feed(self, ctx: InstanceContext, plan: RecoveryPlan, name: str, path: Path) -> bool:
        """A segment at a time: the next one when it was looked at that this one is replayed."""
        await self._take(ctx, plan, name, path)
        hungry = ctx.data / "hungry"
        if name != plan.segments[-1]:
            hungry.touch()
        else:
            hungry.unlink(missing_ok=True)
        return False

    async def _take(self, ctx: InstanceContext, plan: RecoveryPlan, name: str, path: Path) -> None:
        if (ctx.data / "target-passed").exists():
            return
        data = self._world.running.get(ctx.data) or load(ctx.data)
        line = int(name[:4])
        fork = next((fork.position for fork in plan.forks if int(fork.parent) == line), None)
        texts = (await asyncio.to_thread(path.read_text)).splitlines(keepends=True)
        for text in texts:
            if not text.endswith("\n"):
                return  # cut: the rest was never proven to be stored
            origin, number, moment, value = json.loads(text)
            if number <= data.count or (fork is not None and number > sum_of(parse_set(fork))):
                continue
            if number != data.count + 1:
                raise IntegrityError(f"record {data.count + 1} is missing", object=name)
            if not self._belongs(plan, origin, number, datetime.fromisoformat(moment)):
                (ctx.data / "target-passed").touch()
                return
            while origin > data.line:
                leave(ctx.data, data)
            append(ctx.data, data, [(datetime.fromisoformat(moment), value)])

    @staticmethod
    def _belongs(plan: RecoveryPlan, line: int, number: int, moment: datetime) -> bool:
        target = plan.target
        if target.type is TargetType.POSITION:
            first, last = parse_set(target.value).get(line, (0, -1))
            return first <= number <= last
        if target.type is TargetType.TIME:
            bound = datetime.fromisoformat(target.value)
            return moment < bound if target.exclusive else moment <= bound
        return target.type is not TargetType.IMMEDIATE

    async def progress(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryProgress:
        data = self._world.server(ctx.data)
        here = place(data, data.count)
        last = data.records[-1][0] if data.records else None
        if (ctx.data / "hungry").exists():
            return RecoveryProgress(RecoveryState.WAITING, here, last)
        wanted = plan.end or plan.backup_end
        if plan.target.type is TargetType.POSITION:
            wanted = Position(plan.target.value)
        whole = plan.target.type in (TargetType.LATEST, TargetType.POSITION)
        if whole and not SetsPositions().covers(here, wanted):
            return RecoveryProgress(RecoveryState.FAILED, here, last, f"the log ends at {here}, before {wanted}")
        return RecoveryProgress(RecoveryState.REACHED, here, last)

    async def finish(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryReached:
        done = await super().finish(ctx, plan)
        data = self._world.server(ctx.data)
        return RecoveryReached(place(data, int(done.position) // RECORD), done.last_commit, done.line, done.parent)


class SetsEngine(MemoryEngine):
    """The engine `memory-sets`."""

    name = "memory-sets"
    title = "In memory, with sets as positions, for tests"

    def __init__(self, world: World | None = None) -> None:
        super().__init__(world)
        self.positions = SetsPositions()
        self.targets = SetsTargets()
        self.server = SetsServer(self.world)
        self.replication = SetsReplication(self.world)
        self.base_backup = SetsBackup(self.world)
        self.log_source = SetsLog(self.world)
        self.recovery = SetsRecovery(self.world)
