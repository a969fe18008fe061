"""What the repository's tests share: an engine's log and positions with numbers, and backup sessions over real files."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from yoban.errors import InvalidInput
from yoban.plugins import (
    BackupBegin,
    BackupEnd,
    BackupItem,
    BackupSession,
    BytesItem,
    FileItem,
    Fork,
    LogSource,
    Order,
    Position,
    Positions,
    SegmentKind,
    SegmentName,
)
from yoban.repository import BackupMeta, BackupSummary, Manifest, Repository, WriterOptions

SEGMENT = 100
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = "shop/orders/0123456789ab"
META = BackupMeta(engine="numbers", incarnation="0123456789ab", instance="orders-1", term=1, trace="t1")
SMALL = WriterOptions(threads=2, lanes=3, object_bytes=6 << 20, bundle_below=64 << 10, put_bytes=5 << 20)


def at(minutes: float) -> datetime:
    return EPOCH + timedelta(minutes=minutes)


def segment(line: str, number: int) -> str:
    return f"{line}-{number:08d}"


class NumberLog(LogSource):
    """Segments `<line>-<number>` of 100 bytes, histories `<line>.history`."""

    def classify(self, name: str) -> SegmentName:
        if match := re.fullmatch(r"(\w+)-(\d{8})", name):
            return SegmentName(name, match[1], SegmentKind.FULL)
        if match := re.fullmatch(r"(\w+)\.history", name):
            return SegmentName(name, match[1], SegmentKind.HISTORY)
        if match := re.fullmatch(r"(\w+)-(\d{8})\.note", name):
            return SegmentName(name, match[1], SegmentKind.MARKER)
        raise InvalidInput("no name of this log", object=name)

    def _parts(self, name: str) -> tuple[str, int]:
        if self.classify(name).kind is not SegmentKind.FULL:
            raise InvalidInput("not a full segment", object=name)
        line, number = name.split("-")
        return line, int(number)

    def pads_to(self, segment_bytes: int) -> int:
        return segment_bytes

    def successor(self, name: str, segment_bytes: int) -> str:
        line, number = self._parts(name)
        return segment(line, number + 1)

    def segment_of(self, line: str, position: Position, names: Sequence[str], segment_bytes: int) -> str:
        return segment(line, max(0, int(position) - 1) // SEGMENT)

    async def segment_bytes(self, ctx: Any) -> int:
        return SEGMENT

    async def pending(self, ctx: Any) -> Any:
        return ()

    async def inspect(self, ctx: Any, segment: Any) -> None:
        return None

    async def settled(self, ctx: Any, segment: Any) -> None:
        return None

    async def tail(self, ctx: Any) -> None:
        return None

    async def retained_bytes(self, ctx: Any) -> int:
        return 0


class NumberPositions(Positions):
    def parse(self, text: str) -> Position:
        return Position(str(int(text)))

    def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
        if int(a) == int(b):
            return Order.EQUAL
        return Order.LESS if int(a) < int(b) else Order.GREATER


class Session(BackupSession):
    """A session over given items."""

    def __init__(self, items: Iterable[BackupItem], *, block: int = 1, total: int = 0) -> None:
        self._items = list(items)
        self.begin = BackupBegin(Position("150"), "1", at(1), "sys", "17.2")
        self.total_bytes = total
        self.inspect_block = block
        self.inspected: list[tuple[str, int, int]] = []
        self.finished = False

    async def items(self) -> AsyncIterator[BackupItem]:
        for item in self._items:
            yield item

    def inspect(self, item: FileItem, offset: int, data: memoryview) -> None:
        assert offset % self.inspect_block == 0
        self.inspected.append((item.path, offset, len(data)))

    async def finish(self) -> BackupEnd:
        self.finished = True
        return end()


def end(**changes: Any) -> BackupEnd:
    values: dict[str, Any] = {
        "position": Position("250"),
        "line": "1",
        "time": at(2),
        "items": (BytesItem("label", b"the label"),),
        "first_segment": segment("1", 1),
        "last_segment": segment("1", 2),
        "frozen_seconds": 0.5,
        "facts": {"next": "777"},
    }
    return BackupEnd(**(values | changes))


def noise(size: int) -> bytes:
    return os.urandom(size)


def mixed(size: int) -> bytes:
    """Bytes that compress to about a third."""
    return b"".join(os.urandom(1 << 10) + bytes(2 << 10) for _ in range(size // (3 << 10) + 1))[:size]


def file_item(folder: Path, path: str, data: bytes, **changes: Any) -> FileItem:
    source = folder / path
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(data)
    return FileItem(path, source, changes.pop("size", len(data)), **changes)


async def back_up(
    repo: Repository, items: Iterable[BackupItem], id: str = "b1", options: WriterOptions = SMALL, **changes: Any
) -> Manifest:
    async with repo.backups.writer(id, META, options=options) as writer:
        session = Session(items)
        await writer.store(session)
        finished = await session.finish()
        await writer.add(finished.items)
        return await writer.complete(session.begin, end(**changes), segment_bytes=SEGMENT)


def summary(id: str, *, end_minute: float, first: int, last: int, line: str = "1", **changes: Any) -> BackupSummary:
    values: dict[str, Any] = {
        "id": id,
        "engine": "numbers",
        "begin_line": line,
        "begin_position": str(first * SEGMENT + 10),
        "begin_time": at(end_minute - 1),
        "line": line,
        "end_position": str(last * SEGMENT + 90),
        "end_time": at(end_minute),
        "first_segment": segment(line, first),
        "last_segment": segment(line, last),
        "segment_bytes": SEGMENT,
        "started": at(end_minute - 1),
        "completed": at(end_minute),
    }
    return BackupSummary(**(values | changes))


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder: content of files, target of links, "" for folders."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else ""
    return found
