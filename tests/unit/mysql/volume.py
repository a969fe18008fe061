"""A data directory with binary logs, and a server that answers what the log's facet asks, both made up.

Files have real heads and checksums; a transaction in them is its GTID event and nothing else.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from yoban.plugins import InstanceContext
from yoban_mysql import event
from yoban_mysql.binlog import MAGIC
from yoban_mysql.configuration import server_id
from yoban_mysql.gtid import Gtid, GtidSet
from yoban_mysql.names import AUTO_CNF, BINLOG, binlog_name

A, B = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MADE = b64decode((Path(__file__).parent / "binlogs" / "binlog.000001.base64").read_text())


def _event(kind: int, body: bytes, server: int) -> bytes:
    size = event.HEADER_BYTES + len(body) + event.CHECKSUM_BYTES
    data = struct.pack("<IBIIIH", 0, kind, server, size, 0, 0) + body
    return data + zlib.crc32(data).to_bytes(4, "little")


def _head(previous: GtidSet, server: int) -> bytes:
    size = event.Header.parse(_MADE[len(MAGIC) :]).size
    form = _MADE[len(MAGIC) + event.HEADER_BYTES : len(MAGIC) + size - event.CHECKSUM_BYTES]
    found = struct.pack("<Q", len(previous.sources))
    for source, intervals in itertools.groupby(previous, lambda one: one[0]):
        some = [interval for _, interval in intervals]
        found += UUID(source.uuid).bytes + struct.pack("<Q", len(some))
        found += b"".join(struct.pack("<QQ", first, last + 1) for first, last in some)
    return MAGIC + _event(event.FORMAT_DESCRIPTION, form, server) + _event(event.PREVIOUS_GTIDS, found, server)


def _transaction(gtid: Gtid, at: datetime, server: int) -> bytes:
    microseconds = round((at - _EPOCH).total_seconds() * 1_000_000)
    body = b"\0" + UUID(gtid.source.uuid).bytes + struct.pack("<qBqq", gtid.number, 2, 0, 1)
    body += microseconds.to_bytes(7, "little")
    length = event.HEADER_BYTES + len(body) + 1 + event.CHECKSUM_BYTES
    return _event(event.GTID, body + bytes([length]), server)


@dataclass
class Volume:
    """The data directory of an instance.

    Attributes:
        ctx: the instance.
        base: what the server has from a copy: its files do not tell.
        uuid: of its server.
        logged: what stands in its files.
        newest: number of the file being written; 0 before the first.
    """

    ctx: InstanceContext
    base: GtidSet = field(default_factory=GtidSet)
    uuid: str = A
    logged: GtidSet = field(default_factory=GtidSet)
    newest: int = 0

    def __post_init__(self) -> None:
        self.data.mkdir(parents=True)
        (self.data / AUTO_CNF).write_text(f"[auto]\nserver-uuid={self.uuid}\n")
        self.rotate()

    @property
    def data(self) -> Path:
        return self.ctx.data

    @property
    def executed(self) -> GtidSet:
        return self.base | self.logged

    @property
    def present(self) -> list[str]:
        """Names of the files that are there."""
        return [Path(name).name for name in self._index.read_text().split()]

    def rotate(self) -> None:
        """End the file being written and begin the next."""
        if self.newest:
            with self._path(self.newest).open("ab") as file:
                file.write(_event(event.ROTATE, struct.pack("<Q", 4) + b"next", self._server))
        self.newest += 1
        self._path(self.newest).write_bytes(_head(self.logged, self._server))
        with self._index.open("a") as file:
            file.write(f"./{binlog_name(self.newest)}\n")

    def commit(self, text: str, at: datetime = NOON) -> None:
        """Log the transactions of a set, all committed at a moment."""
        for source, (first, last) in GtidSet.parse(text):
            for number in range(first, last + 1):
                gtid = Gtid(source, number)
                with self._path(self.newest).open("ab") as file:
                    file.write(_transaction(gtid, at, self._server))
                self.logged |= GtidSet.of([gtid])

    def files(self, *sets: str) -> None:
        """A file for each set of transactions; the last one is left for what comes then."""
        for text in sets:
            self.commit(text)
            self.rotate()

    def purge(self, name: str) -> None:
        """Remove the files before one."""
        left = self.present[self.present.index(name) :]
        for gone in self.present[: -len(left)]:
            (self.data / gone).unlink()
        self._index.write_text("".join(f"./{one}\n" for one in left))

    @property
    def _index(self) -> Path:
        return self.data / f"{BINLOG}.index"

    @property
    def _server(self) -> int:
        return server_id(self.ctx.incarnation, self.ctx.number)

    def _path(self, number: int) -> Path:
        return self.data / binlog_name(number)


class ToldServer:
    """The server on a volume, and the agent's only connection to it.

    Attributes:
        volume: its data directory.
        line: what stands in the table of lines: name, parent, fork; None before the first primary.
        follows: it is a replica.
    """

    def __init__(self, volume: Volume, line: tuple[str, str, str] | None = None, *, follows: bool = False) -> None:
        self.volume, self.line, self.follows = volume, line, follows
        self.before: list[tuple[str, str, str]] = []

    @asynccontextmanager
    async def use(self, ctx: InstanceContext) -> AsyncIterator[ToldServer]:
        yield self

    async def row(self, statement: str, *arguments: object, deadline: float = 0) -> dict[str, Any] | None:
        volume = self.volume
        if "UTC_TIMESTAMP" in statement:
            return {"uuid": volume.uuid, "closed": self.follows, "observed": NOON, "follows": self.follows}
        if "FROM yoban.line" in statement:
            return dict(zip(("line", "parent", "fork"), self.line, strict=True)) if self.line else None
        if "@@GLOBAL.gtid_executed AS executed" in statement:
            return {"uuid": volume.uuid, "executed": str(volume.executed)}
        if statement == "SHOW BINARY LOG STATUS":
            path = volume.data / volume.present[-1]
            return {"file": path.name, "position": path.stat().st_size, "executed_gtid_set": str(volume.executed)}
        raise AssertionError(statement)

    async def rows(self, statement: str, *arguments: object, deadline: float = 0) -> list[dict[str, Any]]:
        assert "FROM yoban.line ORDER BY id" in statement
        told = [self.line, *self.before] if self.line else []
        return [dict(zip(("line", "parent", "fork"), one, strict=True)) for one in told]

    async def value(self, statement: str, *arguments: object, deadline: float = 0) -> object:
        assert statement == "SELECT @@GLOBAL.gtid_purged"
        return str(self.volume.base)

    async def execute(self, statement: str, *arguments: object, deadline: float = 0) -> int:
        if statement.startswith("PURGE BINARY LOGS TO"):
            self.volume.purge(str(arguments[0]))
        elif statement.startswith("REPLACE INTO yoban.line"):
            assert arguments[::4] == tuple(range(1, len(arguments) // 4 + 1))
            told = [tuple(map(str, arguments[at + 1 : at + 4])) for at in range(0, len(arguments), 4)]
            self.line, *self.before = told  # type: ignore[assignment]
            self.volume.commit(f"{self.volume.uuid}:{self._next()}")
        else:
            raise AssertionError(statement)
        return 0

    def _next(self) -> int:
        own = [last for source, (_, last) in self.volume.executed if source.uuid == self.volume.uuid]
        return max(own, default=0) + 1


def names(found: Sequence[Any]) -> list[int]:
    """Numbers of segments that are offered."""
    return [int(segment.path.name.rsplit(".", 1)[1]) for segment in found]
