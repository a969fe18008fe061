"""The line of the log that a server writes: told in a table of ours, and begun when a server becomes primary.

A line is one stretch of binary logs of one server: `<server uuid>.<number of its first file>`, ten digits. The present line
stands in `yoban.line`, an ordinary replicated table: so a replica, and a copy of the data, know on which line their place is.
Below it stand the lines before, as far as they are remembered: the newest in row 2.

Guarantees: the fork is exactly what both lines share: what had been executed when the line began, before the row that tells
of it. The line's files may reach back before the fork, so it can take over from any place behind its first file; that is the
oldest one present that began after everything this server had written as a primary before. No two lines have one name.

The server leaves what it has from a copy of another one out of the sets at the heads of its files (it knows of those
transactions from its tables only). That set never changes; it is noted beside the data as `base`, and everything here that
tells what was executed before a file adds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from yoban.errors import IntegrityError, Unavailable
from yoban.plugins import Fork, InstanceContext, Position
from yoban.plugins.files import replace_file

from yoban_mysql.binlog import BinlogFile
from yoban_mysql.gtid import GtidSet, Source
from yoban_mysql.names import BASE_FILE, BINLOG, LINES_FILE, binlog_number
from yoban_mysql.session import Session

OUR_TABLES = (
    "CREATE SCHEMA yoban",
    "CREATE TABLE yoban.line (id tinyint unsigned NOT NULL PRIMARY KEY, line varchar(64) CHARACTER SET ascii NOT NULL,"
    " parent varchar(64) CHARACTER SET ascii NOT NULL, fork mediumtext CHARACTER SET ascii NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE yoban.probe (id tinyint unsigned NOT NULL PRIMARY KEY, at datetime(6) NOT NULL) ENGINE=InnoDB",
    "INSERT INTO yoban.probe VALUES (1, UTC_TIMESTAMP(6))",
)
_READ = "SELECT line, parent, fork FROM yoban.line WHERE id = 1"
_ROWS = "SELECT line, parent, fork FROM yoban.line ORDER BY id"
_WRITE = "REPLACE INTO yoban.line (id, line, parent, fork) VALUES "
REMEMBERED = 16
"""Lines that the table holds. Only those of reigns that could not be recorded are ever asked for."""
_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its name, the line that it left ("" for the first), and what both share (empty for the first)."""

    name: str
    parent: str
    fork: GtidSet

    @property
    def uuid(self) -> str:
        """The server that writes it."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file of the binary log: its number, and everything that was executed before it began, the base included."""

    number: int
    previous: GtidSet


def line_name(uuid: str, first: int) -> str:
    """Return the name of the line of a server that begins with that file."""
    return f"{uuid}.{first:0{_DIGITS}d}"


def first_file(files: Sequence[LogFile], executed: GtidSet, uuid: str) -> LogFile | None:
    """Return the file with which a new line of a server begins; None when there is none.

    Args:
        files: the files present, oldest first.
        executed: what the server has executed.
        uuid: the server.
    """
    own = only(executed, uuid)
    return next((file for file in files if own <= file.previous), None)


def only(executed: GtidSet, uuid: str) -> GtidSet:
    """Return what of a set a server ran first, with any tag."""
    found: dict[Source, list[tuple[int, int]]] = {}
    for source, interval in executed:
        if source.uuid == uuid:
            found.setdefault(source, []).append(interval)
    return GtidSet(found)


async def read(session: Session) -> Line | None:
    """Return the line that the data is on; None before its first primary wrote anything."""
    row = await session.row(_READ)
    return Line(row["line"], row["parent"], GtidSet.parse(row["fork"])) if row else None


async def before(session: Session, present: Line) -> tuple[Fork, ...]:
    """Return the forks that lead to the parent of `present`, oldest first, as far as they are remembered."""
    forks: list[Fork] = []
    parent = present.parent
    for one in (await _remembered(session))[1:]:
        if one.name != parent or not one.parent:
            break
        forks.insert(0, Fork(one.name, one.parent, Position(str(one.fork))))
        parent = one.parent
    return tuple(forks)


async def _remembered(session: Session) -> list[Line]:
    """The present line and those before it, newest first."""
    rows = await session.rows(_ROWS)
    return [Line(row["line"], row["parent"], GtidSet.parse(row["fork"])) for row in rows]


async def begin(session: Session, ctx: InstanceContext) -> Line:
    """Begin a line of this server's, unless it writes one already; return it. The server must take the agent's writes.

    That it is the server's own is noted beside the data first: who follows later must know which of its files were this
    line's.

    Raises:
        IntegrityError: no file of its log can begin a line.
    """
    row = await session.row("SELECT @@GLOBAL.server_uuid AS uuid, @@GLOBAL.gtid_executed AS executed")
    assert row is not None
    uuid = str(row["uuid"])
    present = await read(session)
    if present is not None and present.uuid == uuid:
        await asyncio.to_thread(_own, ctx.data, present.name)
        return present
    executed = GtidSet.parse(row["executed"])
    await note_base(session, ctx)
    files = await asyncio.to_thread(log_files, ctx.data)
    first = first_file(files, executed, uuid)
    if first is None:
        raise IntegrityError(
            "no file of its log can begin a line",
            object=f"server {ctx.name}",
            cause=f"{len(files)} files are there",
            fix="rebuild the instance",
        )
    if present is None:
        # The founder's line has no parent, whatever has been executed before its first file.
        made = Line(line_name(uuid, first.number), "", GtidSet())
    else:
        made = Line(line_name(uuid, first.number), present.name, executed)
    await asyncio.to_thread(_own, ctx.data, made.name)
    # In one statement: nobody sees one half of it.
    lines = [made, *await _remembered(session)][:REMEMBERED]
    values = [value for id, one in enumerate(lines, 1) for value in (id, one.name, one.parent, str(one.fork))]
    await session.execute(_WRITE + ", ".join(["(%s, %s, %s, %s)"] * len(lines)), *values)
    return made


def log_index(data: Path) -> list[Path]:
    """Return the files of the binary log in the order of its index; empty when there is no index. Blocking."""
    try:
        text = (data / f"{BINLOG}.index").read_text()
    except FileNotFoundError:
        return []
    return [data / Path(entry).name for entry in text.splitlines() if entry]


def log_files(data: Path) -> list[LogFile]:
    """Read the heads of the files of the binary log, oldest first. Blocking. Raises as `BinlogFile`."""
    before = base(data)
    return [LogFile(number, previous | before) for number, previous in _heads(log_index(data))]


def owned(data: Path) -> tuple[str, ...]:
    """Return the names of the lines that a server has written, oldest first, as noted. Blocking."""
    try:
        return tuple(sorted((data / LINES_FILE).read_text().split()))
    except FileNotFoundError:
        return ()


def _own(data: Path, name: str) -> None:
    names = owned(data)
    if name not in names:
        replace_file(data / LINES_FILE, "".join(f"{one}\n" for one in (*names, name)))


def base(data: Path) -> GtidSet:
    """Return what a server has from a copy, as noted; empty for one that began from nothing. Blocking."""
    try:
        return GtidSet.parse((data / BASE_FILE).read_text())
    except FileNotFoundError:
        return GtidSet()


async def note_base(session: Session, ctx: InstanceContext) -> None:
    """Note what a server has from a copy, unless it is noted already. For a running server.

    Raises:
        Unavailable: there is no file of its log.
    """
    if await asyncio.to_thread((ctx.data / BASE_FILE).exists):
        return
    purged = GtidSet.parse(await session.value("SELECT @@GLOBAL.gtid_purged"))

    def note() -> None:
        # What was purged from the log stands at the head of its oldest file; what is more was never in it.
        oldest = log_index(ctx.data)[:1]
        if not oldest:
            raise Unavailable("its log has no file", object=f"server {ctx.name}")
        ((_, previous),) = _heads(oldest)
        replace_file(ctx.data / BASE_FILE, str(purged - previous))

    await asyncio.to_thread(note)


def _heads(paths: Iterable[Path]) -> Iterable[tuple[int, GtidSet]]:
    for path in paths:
        with path.open("rb") as file:
            yield binlog_number(path.name), BinlogFile(file, path.stat().st_size).previous
