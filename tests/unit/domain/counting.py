"""An engine whose log is a count: position "250" lies in the third segment of 100. Pure parts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from yoban.domain.history import History, Mark, StoredBackup, Term
from yoban.errors import InvalidInput, Unsupported
from yoban.plugins import (
    AccountSpec,
    BackupFacts,
    BaseBackup,
    Capability,
    Endpoint,
    Engine,
    EngineVersion,
    Fork,
    Layout,
    LogSource,
    Order,
    Position,
    Positions,
    Reach,
    Recovery,
    RecoveryTarget,
    Replication,
    SegmentKind,
    SegmentName,
    Server,
    ServerFacts,
    SettingClass,
    SettingRule,
    Targets,
    TargetType,
    Window,
)
from yoban.plugins.lines import StoredLine

SIZE = 100


class CountingPositions(Positions):
    def parse(self, text: str) -> Position:
        if not text.isdigit():
            raise InvalidInput("a position is a number", object=text)
        return Position(str(int(text)))

    def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
        left, right = int(a), int(b)
        return Order.EQUAL if left == right else Order.LESS if left < right else Order.GREATER


class CountingTargets(Targets):
    supported = frozenset(TargetType)

    def parse(self, target: RecoveryTarget) -> RecoveryTarget:
        if target.type is TargetType.POSITION:
            CountingPositions().parse(target.value)
        return target

    def reach(self, target: RecoveryTarget, backup: BackupFacts, forks: Sequence[Fork]) -> Reach:
        if target.type is TargetType.POSITION:
            return Reach.YES if int(backup.end) <= int(target.value) else Reach.NO
        if target.type is TargetType.TRANSACTION and "next" in backup.facts:
            return Reach.YES if int(backup.facts["next"]) <= int(target.value) else Reach.NO
        if target.type is TargetType.IMMEDIATE:
            return Reach.YES
        return Reach.UNKNOWN

    def check(self, target: RecoveryTarget, window: Window) -> None:
        if target.type is TargetType.POSITION and int(target.value) > int(window.position):
            raise InvalidInput("the position is not stored", object=target.value, fix="choose an earlier one")


def unused(*_: Any, **__: Any) -> Any:
    raise AssertionError("not a pure part")


class CountingLog(LogSource):
    segment_bytes = pending = inspect = settled = tail = retained_bytes = unused

    def classify(self, name: str) -> SegmentName:
        line, _, number = name.partition("-")
        if not number.isdigit():
            raise InvalidInput("no segment", object=name)
        return SegmentName(name, line, SegmentKind.FULL)

    def pads_to(self, segment_bytes: int) -> int:
        return segment_bytes

    def successor(self, name: str, segment_bytes: int) -> str:
        line, _, number = name.partition("-")
        return f"{line}-{int(number) + 1:04d}"

    def segment_of(self, line: str, position: Position, names: Sequence[str], segment_bytes: int) -> str:
        return segment(line, max(0, (int(position) - 1) // SIZE))


def abstract(base: type) -> Any:
    """An object of an abstract class of which no method may be called."""
    methods = dict.fromkeys(base.__abstractmethods__, unused)
    return type(f"Unused{base.__name__}", (base,), methods)()


class CountingEngine(Engine):
    name = "counting"
    title = "Counting"
    positions = CountingPositions()
    targets: Targets | None = CountingTargets()
    server = abstract(Server)
    log_source: LogSource | None = CountingLog()
    base_backup = abstract(BaseBackup)
    recovery = abstract(Recovery)
    replication = abstract(Replication)

    def versions(self) -> Sequence[EngineVersion]:
        return (EngineVersion("2", "example/counting:2"), EngineVersion("1", "example/counting:1"))

    def layout(self, version: str) -> Layout:
        path = PurePosixPath("/data")
        return Layout(999, 999, "counting", "counting", path, path, None, 4321, "counting")

    def config_schema(self) -> Mapping[str, object]:
        return {"type": "object", "properties": {}, "additionalProperties": False}

    def setting_rule(self, name: str, version: str) -> SettingRule:
        return {
            "listen": SettingRule(SettingClass.FIXED, "the operator decides where it listens"),
            "unsafe": SettingRule(SettingClass.REFUSED),
            "memory": SettingRule(SettingClass.RESTART),
        }.get(name, SettingRule(SettingClass.RELOAD))

    def default_settings(self, facts: ServerFacts) -> Mapping[str, str]:
        return {}

    def accounts(self, database: str) -> Sequence[AccountSpec]:
        return (AccountSpec("owner", "app", "app"),)

    def connection(self, endpoint: Endpoint) -> Mapping[str, str]:
        return {}


class LoglessEngine(CountingEngine):
    """Only base backups, and no targets of its own."""

    name = "logless"
    log_source = None
    targets = None


class SkippingEngine(CountingEngine):
    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities | {Capability.SKIP}


class PickyTargets(CountingTargets):
    def parse(self, target: RecoveryTarget) -> RecoveryTarget:
        raise Unsupported("no", object=target.type.value)


T0 = datetime(2026, 3, 1, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """T0 plus so many minutes; position n is written at minute n."""
    return T0 + timedelta(minutes=minutes)


def segment(line: str, number: int) -> str:
    return f"{line}-{number:04d}"


def backup(id: str, begin: int, end: int, line: str = "1", **facts: str) -> StoredBackup:
    known = BackupFacts(id, line, Position(str(begin)), Position(str(end)), at(begin), at(end), facts)
    first, last = (max(0, (place - 1) // SIZE) for place in (begin, end))
    return StoredBackup(known, segment(line, first), segment(line, last))


def stored(line: str, *runs: tuple[int, int], **tails: int) -> StoredLine:
    """Runs of whole segments by number; tails as `s3=50`."""
    names = tuple((segment(line, first), segment(line, last)) for first, last in runs)
    return StoredLine(line, names, {segment(line, int(key[1:])): size for key, size in tails.items()})


def mark(term: int, line: str, position: int, *, commit: int | None = None, minutes: float | None = None) -> Mark:
    return Mark(
        term=term,
        line=line,
        at=at(position if minutes is None else minutes),
        position=Position(str(position)),
        segment=segment(line, (position - 1) // SIZE),
        flushed=(position - 1) % SIZE + 1,
        last_commit=None if commit is None else at(commit),
    )


def term(number: int, line: str, parent: str = "", fork: int | None = None, started: float | None = None) -> Term:
    return Term(
        number,
        line,
        parent,
        None if fork is None else Position(str(fork)),
        None if started is None else at(started),
        f"db-{number}",
    )


def plain(**more: Any) -> History:
    """One line: backups at 50-120 and 500-650, whole segments 0 to 8, 40 bytes of segment 9, proven to 940."""
    given: dict[str, Any] = {
        "backups": (backup("b1", 50, 120), backup("b2", 500, 650)),
        "terms": (term(1, "1"),),
        "marks": (mark(1, "1", 940, commit=930, minutes=960),),
        "lines": {"1": stored("1", (0, 8), s9=40)},
        "segment_bytes": SIZE,
    }
    return History(**(given | more))


def forked(**more: Any) -> History:
    """Line 2 left line 1 at 450; line 1 goes on to 700 by itself; line 2 is proven to 940."""
    given: dict[str, Any] = {
        "backups": (backup("b1", 50, 120), backup("x1", 460, 560), backup("b2", 600, 650, "2")),
        "terms": (term(1, "1"), term(2, "2", "1", 450, 470)),
        "marks": (mark(1, "1", 700, commit=690), mark(2, "2", 940, commit=930)),
        "lines": {"1": stored("1", (0, 6)), "2": stored("2", (4, 8), s9=40)},
        "segment_bytes": SIZE,
    }
    return History(**(given | more))
