"""Facet: the write-ahead log of one instance.

Guarantees: `pending` names only files that the server declared complete; `tail` never claims a byte that is not flushed,
and its time is read before its position. Files are never changed here: the server takes the archive command's yes as leave
to recycle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path

from yoban.errors import IntegrityError, InvalidInput, NotReady, YobanError
from yoban.plugins import Fork, InstanceContext, LogSource, LogTail, Position, Segment, SegmentKind, SegmentName

from yoban_postgres import controldata, status
from yoban_postgres.history import parse
from yoban_postgres.lsn import parse_lsn, segment_after, segment_before, segment_number
from yoban_postgres.positions import make, split
from yoban_postgres.segments import HEADER_BYTES, check_header, classify, read_header
from yoban_postgres.session import Kept

_READY = ".ready"
_ORDER = {SegmentKind.HISTORY: 0, SegmentKind.FULL: 1, SegmentKind.PARTIAL: 1, SegmentKind.MARKER: 2}

_TAIL = f"""
select clock_timestamp() as observed, {status.LAST_COMMIT} as last_commit, pg_is_in_recovery() as recovering
"""

_PLACE = """
select pg_current_wal_insert_lsn()::text as inserted, pg_current_wal_flush_lsn()::text as flushed,
       substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as line,
       (select setting::bigint from pg_settings where name = 'wal_segment_size') as segment_bytes
"""


class PostgresLog(LogSource):
    """The log as segments in `pg_wal`."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._known: dict[str, tuple[str, int]] = {}

    def classify(self, name: str) -> SegmentName:
        """See `LogSource.classify`."""
        return classify(name)

    async def segment_bytes(self, ctx: InstanceContext) -> int:
        """See `LogSource.segment_bytes`."""
        return (await self._identity(ctx))[1]

    async def pending(self, ctx: InstanceContext) -> Sequence[Segment]:
        """See `LogSource.pending`."""
        return await asyncio.to_thread(_ready, ctx, await self._size(ctx))

    async def inspect(self, ctx: InstanceContext, segment: Segment) -> None:
        """See `LogSource.inspect`. Histories and markers are text that any cluster could have written: not checked."""
        if segment.name.kind not in (SegmentKind.FULL, SegmentKind.PARTIAL):
            return
        system_id, _ = await self._identity(ctx)
        head, size = await asyncio.to_thread(_head, segment.path)
        header = read_header(head, segment.name.name)
        check_header(header, segment.name.name, size, system_id, partial=segment.name.kind is SegmentKind.PARTIAL)

    async def settled(self, ctx: InstanceContext, segment: Segment) -> None:
        """Nothing to do: the server asks for each file by its archive command."""

    async def tail(self, ctx: InstanceContext) -> LogTail | None:
        """See `LogSource.tail`.

        When everything that was written is flushed, the position is the end of a record; else it may lie inside one that
        nobody was told to be committed.
        """
        async with self._kept.use(ctx) as connection:
            row = await connection.fetchrow(_TAIL)
            assert row is not None
            if row["recovering"]:
                return None
            place = await connection.fetchrow(_PLACE)
            assert place is not None
        inserted, flushed = parse_lsn(place["inserted"]), parse_lsn(place["flushed"])
        flushed = min(inserted, flushed)
        line, size = place["line"], place["segment_bytes"]
        segment = segment_before(line, flushed, size)
        earlier = await asyncio.to_thread(_ready, ctx, size)
        return LogTail(
            line=line,
            segment=segment,
            path=ctx.data / "pg_wal" / segment,
            flushed=flushed - segment_number(segment, size) * size,
            position=make(line, flushed),
            observed_at=row["observed"].astimezone(UTC),
            last_commit=row["last_commit"],
            earlier=tuple(item.name.name for item in earlier if _needed(item.name, line, segment)),
        )

    async def superseded(self, ctx: InstanceContext, name: str) -> bool:
        """See `LogSource.superseded`: the segment in which a line was left.

        A replica is told to archive it like any other ("walreceiver reached the end of the timeline"), and so is a primary
        that reigned on it. Behind the fork each server's file has other old bytes, so that nobody but the first could store
        it; the new line's segment of that number holds what lies before the fork.
        """
        return await asyncio.to_thread(_superseded, ctx, name, await self._size(ctx))

    async def end_segment(self, ctx: InstanceContext, segment: str) -> None:
        """See `LogSource.end_segment`: the switch is made only while `segment` is the one being written."""
        async with self._kept.use(ctx) as connection:
            if not await connection.fetchval("select pg_is_in_recovery()"):
                await connection.execute(
                    "select pg_switch_wal() where pg_walfile_name(pg_current_wal_insert_lsn()) = $1", segment
                )

    def pads_to(self, segment_bytes: int) -> int:
        """See `LogSource.pads_to`: a short file is fatal to the server, one filled with zeros is not."""
        return segment_bytes

    def successor(self, name: str, segment_bytes: int) -> str:
        """See `LogSource.successor`: names follow from each other."""
        return segment_after(name, segment_bytes)

    def segment_of(self, line: str, position: Position, names: Sequence[str], segment_bytes: int) -> str:
        """See `LogSource.segment_of`."""
        return segment_before(line, split(position)[1], segment_bytes)

    async def retained_bytes(self, ctx: InstanceContext) -> int:
        """See `LogSource.retained_bytes`: what waits for the archive."""
        return sum(segment.size for segment in await self.pending(ctx))

    async def _size(self, ctx: InstanceContext) -> int:
        """Segment size, 0 while it cannot be read: the size of a file may be that of one that was cut short."""
        try:
            return (await self._identity(ctx))[1]
        except YobanError:
            return 0

    async def _identity(self, ctx: InstanceContext) -> tuple[str, int]:
        """System id and segment size of the data; they never change while the data lives."""
        key = f"{ctx.incarnation}:{ctx.data}"
        known = self._known.get(key)
        if known is None:
            try:
                found = await controldata.read(ctx)
            except IntegrityError as error:
                if not await asyncio.to_thread((ctx.data / "global" / "pg_control").exists):
                    raise NotReady("there is no data yet", object=ctx.name) from error
                raise
            known = self._known[key] = (found.system_id, found.segment_bytes)
        return known


def _needed(name: SegmentName, line: str, segment: str) -> bool:
    """Whether what `segment` holds of `line` cannot be restored without this file."""
    if name.kind is SegmentKind.HISTORY:
        return name.line <= line
    return name.kind is SegmentKind.FULL and name.name < segment


def _superseded(ctx: InstanceContext, name: str, size: int) -> bool:
    try:
        return is_left(classify(name), size, _forks(ctx.data / "pg_wal"))
    except InvalidInput:
        return False


def _forks(folder: Path) -> list[Fork]:
    """The forks that lead to the newest line that this server knows: the one that it writes or follows."""
    newest = max((file.name for file in folder.glob("*.history")), default="")
    try:
        return parse((folder / newest).read_text(), newest[:8]) if newest else []
    except (FileNotFoundError, ValueError):
        return []


def is_left(name: SegmentName, size: int, forks: Sequence[Fork]) -> bool:
    """Whether a line was left within this segment, or before it. Pure.

    Args:
        name: of a file of the log.
        size: bytes of a segment; 0 when that is not known, and then nothing is taken for left.
        forks: that lead to the line that counts.
    """
    if name.kind is not SegmentKind.FULL or not size:
        return False
    number = segment_number(name.name, size)
    return any(fork.parent == name.line and number >= split(fork.position)[1] // size for fork in forks)


def _ready(ctx: InstanceContext, size: int) -> list[Segment]:
    folder = ctx.data / "pg_wal"
    found: list[Segment] = []
    try:
        notes = list((folder / "archive_status").iterdir())
    except FileNotFoundError:
        return []
    for note in notes:
        if not note.name.endswith(_READY):
            continue
        try:
            name = classify(note.name.removesuffix(_READY))
            found.append(Segment(name, folder / name.name, (folder / name.name).stat().st_size))
        except (InvalidInput, FileNotFoundError):
            continue
    if any(segment.name.kind is SegmentKind.FULL for segment in found):
        forks = _forks(folder)
        found = [segment for segment in found if not is_left(segment.name, size, forks)]
    return sorted(found, key=lambda segment: (_ORDER[segment.name.kind], segment.name.name))


def _head(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES), path.stat().st_size
