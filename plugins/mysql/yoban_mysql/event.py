"""Events of a binary log, decoded as far as an archive needs: headers, checksums, and what tells of GTIDs. Pure.

Follows the server's own format (MySQL source documentation, "Replication protocol", "Binlog event"): a header of 19 bytes,
a body, and when the file's format description says so a CRC-32 of both. Numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from yoban.errors import IntegrityError

from yoban_mysql.gtid import Gtid, GtidSet, Interval, Source
from yoban_mysql.varint import read_signed, read_unsigned

HEADER_BYTES = 19
CHECKSUM_BYTES = 4

STOP = 3
ROTATE = 4
FORMAT_DESCRIPTION = 15
GTID = 33
ANONYMOUS_GTID = 34
PREVIOUS_GTIDS = 35
GTID_TAGGED = 42

IN_USE = 0x1
"""Flag of a format description: the file was not closed by its server."""

_HEADER = struct.Struct("<IBIIIH")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAGGED_SET = 1
_FLAGS_AT = 17


@dataclass(frozen=True, slots=True)
class Header:
    """Start of an event.

    Attributes:
        kind: type of event.
        server_id: `server_id` of the server that wrote it first.
        size: bytes of the whole event with header and checksum.
        flags: flags of the event.
    """

    kind: int
    server_id: int
    size: int
    flags: int

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Understand the first 19 bytes of an event. Raises IntegrityError when it cannot be one."""
        if len(data) < HEADER_BYTES:
            raise _damaged("an event's header is cut")
        _, kind, server_id, size, _, flags = _HEADER.unpack_from(data)
        if size < HEADER_BYTES:
            raise _damaged(f"an event says that it is {size} bytes long")
        return cls(kind, server_id, size, flags)


@dataclass(frozen=True, slots=True)
class Format:
    """What a file's first event tells.

    Attributes:
        version: version of the server that wrote it.
        checksums: whether events carry a checksum.
        in_use: the file is being written, or its server ended without closing it.
        server_id: `server_id` of that server.
    """

    version: str
    checksums: bool
    in_use: bool = False
    server_id: int = 0

    @classmethod
    def parse(cls, event: bytes) -> Format:
        """Understand a whole FORMAT_DESCRIPTION event; its own checksum is always there and is checked.

        Raises:
            IntegrityError: damaged, or of a server older than 5.6.
        """
        body = event[HEADER_BYTES:]
        if len(body) < 62 or struct.unpack_from("<H", body)[0] != 4 or body[56] != HEADER_BYTES:
            raise _damaged("the file's format is none that is known (binlog version 4)")
        # The server sets the flag when it opens the file and takes it away in place when it closes it, under one checksum.
        (flags,) = struct.unpack_from("<H", event, _FLAGS_AT)
        check(event[:_FLAGS_AT] + struct.pack("<H", flags & ~IN_USE) + body, checksums=True)
        version = body[2:52].rstrip(b"\0").decode("ascii", "replace")
        return cls(
            version,
            checksums=event[-CHECKSUM_BYTES - 1] == 1,
            in_use=bool(flags & IN_USE),
            server_id=Header.parse(event).server_id,
        )


@dataclass(frozen=True, slots=True)
class GtidEvent:
    """Head of a transaction.

    Attributes:
        gtid: the transaction.
        committed: UTC time of the commit where it was run first, with microseconds.
        length: bytes from the start of this event to the end of the transaction.
    """

    gtid: Gtid
    committed: datetime
    length: int


def check(event: bytes, *, checksums: bool) -> None:
    """Compare a whole event with its checksum. Raises IntegrityError when they differ."""
    if checksums and zlib.crc32(event[:-CHECKSUM_BYTES]) != int.from_bytes(event[-CHECKSUM_BYTES:], "little"):
        raise _damaged("an event's checksum does not fit its bytes")


def gtid_event(kind: int, event: bytes, form: Format) -> GtidEvent:
    """Understand a whole GTID event, plain or tagged.

    Raises:
        IntegrityError: damaged.
    """
    check(event, checksums=form.checksums)
    body = event[HEADER_BYTES : len(event) - CHECKSUM_BYTES * form.checksums]
    try:
        return _tagged(body) if kind == GTID_TAGGED else _plain(body)
    except (IndexError, struct.error, ValueError) as error:
        raise _damaged("an event with a GTID cannot be read") from error


def previous_gtids(event: bytes, form: Format) -> GtidSet:
    """Understand a whole PREVIOUS_GTIDS event: all transactions in files before this one, purged ones too.

    Raises:
        IntegrityError: damaged.
    """
    check(event, checksums=form.checksums)
    body = event[HEADER_BYTES : len(event) - CHECKSUM_BYTES * form.checksums]
    try:
        return _encoded_set(body)
    except (IndexError, struct.error, ValueError) as error:
        raise _damaged("the set of GTIDs before the file cannot be read") from error


def _plain(body: bytes) -> GtidEvent:
    """Flags, UUID, number, logical clock (a type byte of 2 and two numbers), times of 7 bytes, length of the transaction."""
    source = _source(body[1:17])
    (number,) = struct.unpack_from("<q", body, 17)
    if body[25] != 2:
        raise ValueError("no logical clock")
    at = 42
    immediate = int.from_bytes(body[at : at + 7], "little")
    original, at = immediate & ~(1 << 55), at + 7
    if immediate & (1 << 55):
        original, at = int.from_bytes(body[at : at + 7], "little"), at + 7
    length, _ = _packed(body, at)
    return GtidEvent(Gtid(source, number), _time(original), length)


def _tagged(body: bytes) -> GtidEvent:
    """Fields by number, each once and in order, those with a default left out."""
    version, at = read_unsigned(body, 0)
    size, at = read_unsigned(body, at)
    if version != 1 or size != len(body):
        raise ValueError("unknown serialization")
    _, at = read_unsigned(body, at)
    uuid, tag, numbers = b"", "", dict[int, int]()
    while at < len(body):
        field, at = read_unsigned(body, at)
        if field == 1:
            octets = []
            for _ in range(16):
                octet, at = read_unsigned(body, at)
                octets.append(octet)
            uuid = bytes(octets)
        elif field == 3:
            length, at = read_unsigned(body, at)
            tag, at = body[at : at + length].decode("ascii"), at + length
        elif field in (2, 4, 5):
            numbers[field], at = read_signed(body, at)
        elif field <= 11:
            numbers[field], at = read_unsigned(body, at)
        else:
            break  # fields of newer servers come last, and may be passed over
    original = numbers.get(7, numbers.get(6, 0))
    if 2 not in numbers or 8 not in numbers:
        raise ValueError("fields are missing")
    return GtidEvent(Gtid(_source(uuid, tag), numbers[2]), _time(original), numbers[8])


@lru_cache(maxsize=1024)
def _source(uuid: bytes, tag: str = "") -> Source:
    """A log names the same few sources in each of its transactions."""
    return Source(str(UUID(bytes=uuid)), tag)


def _encoded_set(body: bytes) -> GtidSet:
    """Number of sources, and for each UUID, tag (when the form has tags), and intervals whose ends are excluded."""
    tagged = body[7] == _TAGGED_SET
    count = int.from_bytes(body[1:7] if tagged else body[:8], "little")
    at = 8
    found: dict[Source, list[Interval]] = {}
    for _ in range(count):
        uuid, tag, at = UUID(bytes=body[at : at + 16]), "", at + 16
        if tagged:
            length, at = read_unsigned(body, at)
            tag, at = body[at : at + length].decode("ascii"), at + length
        (intervals,) = struct.unpack_from("<Q", body, at)
        at += 8
        for _ in range(intervals):
            first, behind = struct.unpack_from("<QQ", body, at)
            found.setdefault(Source(str(uuid), tag), []).append((first, behind - 1))
            at += 16
    if at != len(body):
        raise ValueError("bytes are left")
    return GtidSet(found)


def _packed(body: bytes, at: int) -> tuple[int, int]:
    """A number of the older kind: one byte up to 250, else a byte that tells how many follow."""
    width = {252: 2, 253: 3, 254: 8}.get(body[at], 0)
    if body[at] in (251, 255):
        raise ValueError("not a number")
    if not width:
        return body[at], at + 1
    return int.from_bytes(body[at + 1 : at + 1 + width], "little"), at + 1 + width


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _damaged(message: str) -> IntegrityError:
    return IntegrityError(message, object="binary log", fix="take it from another server that has it, or another copy")
