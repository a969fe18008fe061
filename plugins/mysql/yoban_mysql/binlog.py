"""A file of the binary log: which transactions it holds whole, and where each begins and ends.

Guarantees never to name a transaction of which a byte is missing, and with `verify` none of which a byte is wrong. Work is
blocking: call it in a thread. Memory is that of the largest event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from yoban.errors import IntegrityError, Unsupported

from yoban_mysql import event
from yoban_mysql.event import HEADER_BYTES, Format, Header
from yoban_mysql.gtid import Gtid, GtidSet

MAGIC = b"\xfebin"
MAGIC_ENCRYPTED = b"\xfdbin"


@dataclass(frozen=True, slots=True)
class Transaction:
    """A whole transaction in a file: its GTID, time of its first commit (UTC), first byte, and the byte behind it."""

    gtid: Gtid
    committed: datetime
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds.

    Attributes:
        version: version of the server that wrote it.
        previous: all transactions in files before it.
        gtids: transactions that are whole in it.
        count: number of those.
        first, last: UTC times of the first and last commit in it, in log order; None when there is no transaction.
        end: the byte behind the last whole transaction, or behind the last event when the file is closed.
        closed: its server has ended it: nothing will be added.
    """

    version: str
    previous: GtidSet
    gtids: GtidSet
    count: int
    first: datetime | None
    last: datetime | None
    end: int
    closed: bool

    @property
    def after(self) -> GtidSet:
        """All transactions in this file and those before it."""
        return self.previous | self.gtids


class BinlogFile:
    """One file, opened by the caller, from its first byte to `size` (of a growing file: what is flushed)."""

    def __init__(self, file: BinaryIO, size: int, *, verify: bool = False) -> None:
        """Read the file's head.

        Args:
            file: the file, seekable.
            size: bytes to look at.
            verify: read every event and check its checksum, instead of stepping from transaction to transaction.

        Raises:
            IntegrityError: not a binary log, damaged, or cut within its head.
            Unsupported: it is encrypted.
        """
        self._file, self._size, self._verify = file, size, verify
        file.seek(0)
        magic = file.read(len(MAGIC))
        if magic == MAGIC_ENCRYPTED:
            raise Unsupported(
                "the binary log is encrypted by its server",
                object="binary log",
                fix="leave binlog_encryption off: what is archived can be encrypted in the object store",
            )
        if magic != MAGIC:
            raise IntegrityError("this is no binary log", object="binary log", fix="look for what overwrote the file")
        self.format, self.previous, self._head = self._read_head()
        self.closed = False
        self.end = self._head

    @property
    def head(self) -> int:
        """The byte behind the head, where the first transaction begins."""
        return self._head

    def transactions(self, start: int = 0) -> Iterator[Transaction]:
        """Go through the whole transactions in order; afterwards `closed` and `end` tell of the file's end.

        Args:
            start: where to begin: the end of a transaction seen before; 0 for the first one.

        Raises:
            IntegrityError: an event is damaged, or lies where none may be; a file cut within a transaction just ends.
            Unsupported: a transaction has no GTID.
        """
        at = self.end = max(start, self._head)
        while (header := self._header(at)) is not None:
            if header.kind in (event.ROTATE, event.STOP):
                event.check(self._read(at, header.size), checksums=self.format.checksums)
                self.closed, self.end = True, at + header.size
                if self.end != self._size:
                    raise self._stray(self.end)
                return
            if header.kind == event.ANONYMOUS_GTID:
                raise Unsupported(
                    "a transaction has no GTID", object="binary log", fix="set gtid_mode=ON before archiving"
                )
            if header.kind not in (event.GTID, event.GTID_TAGGED):
                raise self._stray(at)
            head = event.gtid_event(header.kind, self._read(at, header.size), self.format)
            end = at + head.length
            if end > self._size:
                return
            self._pass(at + header.size, end)
            yield Transaction(head.gtid, head.committed, at, end)
            at = self.end = end

    def contents(self) -> Contents:
        """Read the whole file and sum it up. Raises as `transactions`."""
        gtids: list[Gtid] = []
        first = last = None
        for transaction in self.transactions():
            gtids.append(transaction.gtid)
            first, last = first or transaction.committed, transaction.committed
        return Contents(
            version=self.format.version,
            previous=self.previous,
            gtids=GtidSet.of(gtids),
            count=len(gtids),
            first=first,
            last=last,
            end=self.end,
            closed=self.closed,
        )

    def _read_head(self) -> tuple[Format, GtidSet, int]:
        """The format description and the set of what came before, with which each file begins."""
        at = len(MAGIC)
        header = self._header(at)
        if header is None or header.kind != event.FORMAT_DESCRIPTION:
            raise self._stray(at)
        form = Format.parse(self._read(at, header.size))
        at += header.size
        header = self._header(at)
        if header is None or header.kind != event.PREVIOUS_GTIDS:
            raise self._stray(at)
        return form, event.previous_gtids(self._read(at, header.size), form), at + header.size

    def _header(self, at: int) -> Header | None:
        """The header of the event at an offset; None when the event does not end within the size."""
        if at + HEADER_BYTES > self._size:
            return None
        header = Header.parse(self._read(at, HEADER_BYTES))
        return header if at + header.size <= self._size else None

    def _pass(self, at: int, end: int) -> None:
        """Go over the events of a transaction behind its head."""
        while self._verify and at < end:
            header = self._header(at)
            if header is None or at + header.size > end:
                raise self._stray(at)
            event.check(self._read(at, header.size), checksums=self.format.checksums)
            at += header.size

    def _read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        data = self._file.read(size)
        if len(data) < size:
            raise IntegrityError(
                f"the file ends before byte {at + size}", object="binary log", fix="look for what cut the file"
            )
        return data

    def _stray(self, at: int) -> IntegrityError:
        return IntegrityError(
            f"what lies at byte {at} may not be there",
            object="binary log",
            fix="take it from another server that has it, or another copy",
        )
