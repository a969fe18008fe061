"""Facet: the binary log of one instance.

Guarantees: a file is offered only when its server has ended it; `tail` never claims a byte that the server has not written,
its time is read before its position, and its position holds only what is committed. What is purged is stored, by the sets at
the heads of the files; what this server wrote as a primary is offered until it is stored, and not purged before, whoever
reigns. A damaged file, or one of another server, is named and not stored.

A server from a copy does not tell the copy's transactions at the heads of its files; they are added (`line.base`).
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yoban.errors import IntegrityError, Unavailable
from yoban.plugins import InstanceContext, LogSource, LogTail, Position, Segment, SegmentName
from yoban.plugins.files import replace_file

from yoban_mysql import line, segments
from yoban_mysql.binlog import BinlogFile
from yoban_mysql.configuration import server_id
from yoban_mysql.gtid import GtidSet
from yoban_mysql.names import AUTO_CNF, STORED_FILE, binlog_name, binlog_number
from yoban_mysql.positions import position_of
from yoban_mysql.session import Kept, Session

logger = logging.getLogger("yoban.mysql")
KEEP_BYTES = 1 << 30
"""Stored log that stays for replicas that were away, at most; less on a small volume."""
KEEP_PART = 10
FULL = 64 << 10
"""Fewer bytes that are free are none."""
PURGE_DEADLINE = 10.0
FLUSH_DEADLINE = 60.0
UNASKED = 2
"""Times that it is told what is stored while nobody asks what is to be; after more nobody is taken to store anything."""

_STATE = (
    "SELECT @@GLOBAL.server_uuid AS uuid, @@GLOBAL.super_read_only AS closed, UTC_TIMESTAMP(6) AS observed,"
    " (SELECT COUNT(*) FROM performance_schema.replication_connection_configuration WHERE channel_name = '') AS follows"
)
_MEND = (
    "fail over to a replica; or make a base backup now and remove the file by PURGE BINARY LOGS: what lies between the"
    " backups before and after it cannot be restored"
)


@dataclass(frozen=True, slots=True)
class File:
    """A file of the binary log: its number, path, size, and everything that was executed before it began."""

    number: int
    path: Path
    size: int
    previous: GtidSet


@dataclass
class _Data:
    """What is remembered of one data directory.

    Attributes:
        identity: what tells it from one that was made anew in its place.
        heads: sets at the heads of files as they are written there, by number; they never change.
        line: line that this server wrote when it was last seen as primary, "" when it was none.
        stored: names of files that are stored.
        told: everything up to here is stored, as we were told last; None when we were not yet.
        scanned: number of a file, the byte up to which its commit times were read, and the latest of them.
        unasked: how often it was told what is stored since somebody asked what is to be.
    """

    identity: str
    heads: dict[int, GtidSet] = field(default_factory=dict)
    line: str = ""
    stored: set[str] | None = None
    told: GtidSet | None = None
    scanned: tuple[int, int, datetime | None] = (0, 0, None)
    unasked: int = 0


class MySqlLog(LogSource):
    """The log as files `binlog.…` in the data directory."""

    lines_overlap = True

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._data: dict[str, _Data] = {}

    def classify(self, name: str) -> SegmentName:
        """See `LogSource.classify`."""
        return segments.classify(name)

    async def segment_bytes(self, ctx: InstanceContext) -> int:
        """See `LogSource.segment_bytes`: a file ends with the transaction that exceeds the limit."""
        return 0

    def pads_to(self, segment_bytes: int) -> int:
        """See `LogSource.pads_to`: a file that was cut is replayed as far as it holds whole transactions."""
        return 0

    def successor(self, name: str, segment_bytes: int) -> str:
        """See `LogSource.successor`."""
        return segments.successor(name)

    def segment_of(self, line: str, position: Position, names: Sequence[str], segment_bytes: int) -> str:
        """See `LogSource.segment_of`."""
        return segments.segment_of(position, names)

    async def pending(self, ctx: InstanceContext) -> Sequence[Segment]:
        """See `LogSource.pending`: on a primary all files but the one being written, and after a clean stop that one, too.

        What is left of earlier reigns of this server comes first, on a replica, too: nobody else has files of these names.
        """
        known = await asyncio.to_thread(self._of, ctx)
        known.unasked = 0
        try:
            async with self._kept.use(ctx) as session:
                known.line = await _writes(session)
            running = True
        except Unavailable:
            running = False
        return await asyncio.to_thread(self._complete, ctx, known, running)

    async def inspect(self, ctx: InstanceContext, segment: Segment) -> None:
        """See `LogSource.inspect`: every event's checksum is verified, and that the file goes on from the one before."""
        await asyncio.to_thread(self._inspect, ctx, segment)

    async def settled(self, ctx: InstanceContext, segment: Segment) -> None:
        """See `LogSource.settled`. It is noted beside the data, so that a new agent does not read old files again."""
        await asyncio.to_thread(self._settle, ctx, segment.name.name)

    async def tail(self, ctx: InstanceContext) -> LogTail | None:
        """See `LogSource.tail`.

        The server tells the set of what is committed before the place up to which it has written: the file may hold more
        than the position says, never less.
        """
        known = await asyncio.to_thread(self._of, ctx)
        if (await asyncio.to_thread(shutil.disk_usage, ctx.data)).free < FULL:
            # A commit waits for room, and everybody who asks for the end of the log waits for that commit.
            raise Unavailable("its volume is full", object=f"server {ctx.name}")
        async with self._kept.use(ctx) as session:
            present, state = await _observed(session)
            known.line = present
            if not present:
                return None
            place = await session.row("SHOW BINARY LOG STATUS")
        position = position_of(GtidSet.parse(place["executed_gtid_set"])) if place else None
        if place is None or position is None:
            return None
        return await asyncio.to_thread(
            self._tail, ctx, known, state, str(place["file"]), int(place["position"]), position
        )

    async def end_segment(self, ctx: InstanceContext, segment: str) -> None:
        """See `LogSource.end_segment`."""
        wanted = segments.parse(segment)
        async with self._kept.use(ctx) as session:
            if await _writes(session) != wanted.line:
                return
            place = await session.row("SHOW BINARY LOG STATUS")
            if place is not None and binlog_number(str(place["file"])) == wanted.number:
                await session.execute("FLUSH LOCAL BINARY LOGS", deadline=FLUSH_DEADLINE)

    async def stored(self, ctx: InstanceContext, position: Position) -> None:
        """See `LogSource.stored`: files that hold nothing else are purged, the newest kept for replicas that were away."""
        known = await asyncio.to_thread(self._of, ctx)
        known.told = GtidSet.parse(position)
        known.unasked += 1
        number = await asyncio.to_thread(self._purgeable, ctx, known, known.told)
        if number:
            async with self._kept.use(ctx) as session:
                await session.execute("PURGE BINARY LOGS TO %s", binlog_name(number), deadline=PURGE_DEADLINE)

    async def relieve(self, ctx: InstanceContext) -> None:
        """See `LogSource.relieve`: the server purges nothing by itself, and needs some room to do it."""
        known = await asyncio.to_thread(self._of, ctx)
        number = await asyncio.to_thread(self._settled_before, ctx, known)
        if number:
            async with self._kept.use(ctx) as session:
                await session.execute("PURGE BINARY LOGS TO %s", binlog_name(number), deadline=PURGE_DEADLINE)

    async def retained_bytes(self, ctx: InstanceContext) -> int:
        """See `LogSource.retained_bytes`: what waits to be stored; on a replica also what may not be purged before its
        primary has stored it, which is everything until it was told of something."""
        waiting = await self.pending(ctx)
        known = await asyncio.to_thread(self._of, ctx)
        if known.line:
            return sum(segment.size for segment in waiting)
        return await asyncio.to_thread(self._unstored, ctx, known)

    # -- in threads --------------------------------------------------------------------------------------------------

    def _of(self, ctx: InstanceContext) -> _Data:
        key, identity = f"{ctx.incarnation}:{ctx.data}", _identity(ctx.data)
        known = self._data.get(key)
        if known is None or known.identity != identity:
            known = self._data[key] = _Data(identity)
        return known

    def _files(self, ctx: InstanceContext, known: _Data) -> list[File]:
        before = line.base(ctx.data)
        found: list[File] = []
        for path in line.log_index(ctx.data):
            number = binlog_number(path.name)
            try:
                size = path.stat().st_size
                previous = known.heads.get(number)
                if previous is None:
                    with path.open("rb") as file:
                        previous = known.heads[number] = BinlogFile(file, size).previous
            except FileNotFoundError:
                continue  # purged meanwhile
            except IntegrityError as error:
                if found and path.name == line.log_index(ctx.data)[-1].name:
                    break  # just made, its head is not written yet
                raise _damaged(path, path.name, error) from error
            # Files are looked at before the base is noted, too: what is remembered of them is without it.
            found.append(File(number, path, size, previous | before))
        for number in list(known.heads):
            if not found or number < found[0].number:
                known.heads.pop(number, None)
        return found

    def _complete(self, ctx: InstanceContext, known: _Data, running: bool) -> list[Segment]:
        lines = line.owned(ctx.data)
        if not known.line and not lines:
            return []
        files = self._files(ctx, known)
        stored = self._stored(ctx, known)
        first = _first(known.line) if known.line else 0
        named = [(file, name) for file, name in _reigned(lines, files) if not first or file.number < first]
        if first:
            if files and (running or _in_use(files[-1].path)):
                files = files[:-1]
            named += [(file, _name(known.line, file)) for file in files if file.number >= first]
        return [Segment(segments.classify(name), file.path, file.size) for file, name in named if name not in stored]

    def _inspect(self, ctx: InstanceContext, segment: Segment) -> None:
        name = segment.name.name
        told = segments.parse(name)
        before = line.base(ctx.data)
        try:
            with segment.path.open("rb") as file:
                log = BinlogFile(file, segment.path.stat().st_size, verify=True)
                found = log.contents()
        except IntegrityError as error:
            raise _damaged(segment.path, name, error) from error
        if found.end != segment.path.stat().st_size:
            raise IntegrityError(
                f"the log file {segment.path.name} ends within a transaction",
                object=name,
                fix=_MEND,
                reason="LogDamaged",
            )
        if log.format.server_id != server_id(ctx.incarnation, ctx.number):
            raise IntegrityError(
                "the log file was written by another server",
                object=name,
                cause=f"its server_id is {log.format.server_id}",
                reason="ForeignSegment",
            )
        if told.number != binlog_number(segment.path.name) or told.before != (found.previous | before).count:
            raise IntegrityError(
                "the log file holds another part of the log than its name says",
                object=name,
                cause=f"it goes on from {(found.previous | before).count} transactions",
                reason="ForeignSegment",
            )
        head = self._of(ctx).heads.get(told.number + 1)
        following = None if head is None else head | before
        if following is not None and following != found.after | before:
            raise IntegrityError(
                f"the log file {binlog_name(told.number + 1)} does not go on from {segment.path.name}",
                object=name,
                cause=f"what differs: {str((following - found.after - before) | ((found.after | before) - following))[:300]}",
                fix="make a base backup: gtid_purged was changed by hand, or a file was exchanged",
                reason="LogGap",
            )

    def _stored(self, ctx: InstanceContext, known: _Data) -> set[str]:
        if known.stored is None:
            try:
                known.stored = set((ctx.data / STORED_FILE).read_text().split())
            except FileNotFoundError:
                known.stored = set()
        return known.stored

    def _settle(self, ctx: InstanceContext, name: str) -> None:
        known = self._of(ctx)
        stored = self._stored(ctx, known)
        oldest = min(known.heads, default=0)
        known.stored = {one for one in stored if segments.parse(one).number >= oldest} | {name}
        try:
            replace_file(ctx.data / STORED_FILE, "".join(f"{one}\n" for one in sorted(known.stored)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # It is stored, and known here. What is purged for it gives the volume room; a new agent reads the file again.
            logger.warning("that %s is stored cannot be noted: %s", name, error)

    def _tail(
        self, ctx: InstanceContext, known: _Data, observed: datetime, name: str, flushed: int, position: Position
    ) -> LogTail:
        number = binlog_number(name)
        files = self._files(ctx, known)
        current = next((file for file in files if file.number == number), None)
        if current is None:
            raise Unavailable("the log has been rotated", object=ctx.name)
        stored = self._stored(ctx, known)
        first = _first(known.line)
        earlier = [_name(known.line, file) for file in files if first <= file.number < number]
        return LogTail(
            line=known.line,
            segment=_name(known.line, current),
            path=current.path,
            flushed=flushed,
            position=position,
            observed_at=observed,
            last_commit=self._last_commit(known, files, current, flushed),
            earlier=tuple(one for one in earlier if one not in stored),
        )

    def _last_commit(self, known: _Data, files: Sequence[File], current: File, flushed: int) -> datetime | None:
        """The latest time of a commit up to a place, None when none is known. Each byte is read once."""
        number, at, last = known.scanned
        if number != current.number:
            last = _last_before(files, current.number, known.scanned)
            at = 0
        last, at = _scan(current.path, at, flushed, last)
        known.scanned = (current.number, at, last)
        return last

    def _left(self, ctx: InstanceContext, known: _Data, files: Sequence[File]) -> set[int]:
        """Numbers of files that this server wrote as a primary and that are not stored, where somebody stores them.

        A mark of its successor does not prove that they are: the successor's own files may begin behind them.
        """
        if known.unasked > UNASKED:
            return set()
        stored = self._stored(ctx, known)
        return {file.number for file, name in _reigned(line.owned(ctx.data), files) if name not in stored}

    def _unstored(self, ctx: InstanceContext, known: _Data) -> int:
        told, files = known.told or GtidSet(), self._files(ctx, known)
        left = self._left(ctx, known, files)
        pairs = itertools.pairwise(files)
        return sum(file.size for file, behind in pairs if file.number in left or not behind.previous <= told)

    def _settled_before(self, ctx: InstanceContext, known: _Data) -> int:
        """The number of the oldest file that is not known to be stored; 0 when there is none to go before it."""
        stored, told, going = self._stored(ctx, known), known.told or GtidSet(), 0
        files = self._files(ctx, known)
        left = self._left(ctx, known, files)
        for file, following in itertools.pairwise(files):
            ours = bool(known.line) and file.number >= _first(known.line)
            settled = ours and _name(known.line, file) in stored
            if file.number in left or not (settled or following.previous <= told):
                break
            going = following.number
        return going

    def _purgeable(self, ctx: InstanceContext, known: _Data, position: GtidSet) -> int:
        """The number of the oldest file that must stay; 0 when none can go."""
        files = self._files(ctx, known)
        left = self._left(ctx, known, files)
        volume = shutil.disk_usage(ctx.data)
        keep = min(KEEP_BYTES, volume.total // KEEP_PART)
        going = 0
        size = sum(file.size for file in files)
        for file, following in itertools.pairwise(files):
            size -= file.size
            if size < keep or file.number in left or not following.previous <= position:
                break
            going = following.number
        return going


def _damaged(path: Path, name: str, error: IntegrityError) -> IntegrityError:
    return IntegrityError(
        f"the log file {path.name} is damaged: {error.message}",
        object=name,
        cause=error.cause,
        fix=_MEND,
        reason="LogDamaged",
    )


def _name(line_name: str, file: File) -> str:
    return segments.segment_name(line_name, file.number, file.previous.count)


def _first(line_name: str) -> int:
    return int(line_name.rpartition(".")[2])


def _reigned(lines: Sequence[str], files: Sequence[File]) -> list[tuple[File, str]]:
    """Complete files of lines that a server wrote, oldest first, with their names. Pure.

    A line's files go as far as the last one that holds anything of its server's own; what follows it wrote as a replica.

    Args:
        lines: names of lines, oldest first.
        files: the files present, oldest first.
    """
    found: list[tuple[File, str]] = []
    pairs = list(itertools.pairwise(files))
    for name, behind in itertools.zip_longest(lines, lines[1:]):
        within = [pair for pair in pairs if _first(name) <= pair[0].number]
        if behind is not None:
            within = [pair for pair in within if pair[0].number < _first(behind)]
        if within:
            uuid = name.partition(".")[0]
            end = line.only(within[-1][1].previous, uuid)
            found += [(file, _name(name, file)) for file, _ in within if line.only(file.previous, uuid) != end]
    return found


def _identity(data: Path) -> str:
    """What tells a data directory from one that is made anew in its place; numbers of files begin again there."""
    try:
        return f"{data.stat().st_ino}:{(data / AUTO_CNF).read_text()}"
    except FileNotFoundError:
        return ""


def _in_use(path: Path) -> bool:
    """Whether a file was not ended by its server."""
    with path.open("rb") as file:
        return BinlogFile(file, path.stat().st_size).format.in_use


def _scan(path: Path, start: int, end: int, last: datetime | None) -> tuple[datetime | None, int]:
    """The latest of `last` and the commits between two bytes of a file, and where the next transaction begins."""
    try:
        with path.open("rb") as file:
            log = BinlogFile(file, end)
            for transaction in log.transactions(start):
                # Not the last one's: it may have been run first on a server whose clock is behind.
                last = max(last or transaction.committed, transaction.committed)
            return last, log.end
    except FileNotFoundError:
        return last, start


def _last_before(files: Sequence[File], current: int, scanned: tuple[int, int, datetime | None]) -> datetime | None:
    """The latest time of a commit in the files before one; None when there is none, or a file of them is damaged.

    What was read before is not read again. Where nothing was, only the newest file that has a commit is.
    """
    number, at, last = scanned
    earlier = [file for file in files if file.number < current]
    try:
        if number:
            for file in earlier:
                if file.number >= number:
                    last, _ = _scan(file.path, at if file.number == number else 0, file.size, last)
            return last
        for file in reversed(earlier):
            last, _ = _scan(file.path, 0, file.size, None)
            if last is not None:
                return last
    except IntegrityError:
        pass
    return None


def newest_commit(data: Path) -> datetime | None:
    """The latest time of a commit in the newest file of the log that has one; None when there is none. Blocking."""
    for path in reversed(line.log_index(data)):
        try:
            found, _ = _scan(path, 0, path.stat().st_size, None)
        except (FileNotFoundError, IntegrityError):
            continue  # purged meanwhile, or just made: its head is not written yet
        if found is not None:
            return found
    return None


async def _observed(session: Session) -> tuple[str, datetime]:
    """The line that the server writes, "" when it is no primary; and the time (UTC) just before."""
    row = await session.row(_STATE)
    assert row is not None
    observed: Any = row["observed"]
    present = await line.read(session)
    # A primary that is about to stop is closed already, and follows nobody.
    writes = not row["closed"] or not row["follows"]
    own = present is not None and present.uuid == str(row["uuid"])
    return present.name if present is not None and own and writes else "", observed.replace(tzinfo=UTC)


async def _writes(session: Session) -> str:
    return (await _observed(session))[0]
