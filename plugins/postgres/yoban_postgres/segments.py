"""Files of the log: what their names say, and what the first page of a segment says. Pure.

Guarantees that a segment of another cluster, of another place in the log, or cut short is told from the right one. What
lies behind the first page is not looked at: each record has a checksum that replay verifies.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from yoban.errors import IntegrityError, InvalidInput
from yoban.plugins import SegmentKind, SegmentName

from yoban_postgres.lsn import format_lsn, segment_number

_SHAPES = (
    (re.compile(r"[0-9A-F]{24}"), SegmentKind.FULL),
    (re.compile(r"[0-9A-F]{24}\.partial"), SegmentKind.PARTIAL),
    (re.compile(r"[0-9A-F]{8}\.history"), SegmentKind.HISTORY),
    (re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup"), SegmentKind.MARKER),
)

MAGICS = {0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
_LONG = struct.Struct("<HHIQI4xQII")
_FIRST_IS_LONG = 0x0002
HEADER_BYTES = _LONG.size


def classify(name: str) -> SegmentName:
    """Understand a file name of the log. Raises InvalidInput for any other."""
    for shape, kind in _SHAPES:
        if shape.fullmatch(name):
            return SegmentName(name, name[:8], kind)
    raise InvalidInput("this is no file name of the log", object=f"file {name[:80]!r}")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """First page of a segment: magic of the version, flags, timeline, place, system id, sizes."""

    magic: int
    info: int
    timeline: int
    address: int
    system_id: int
    segment_bytes: int
    page_bytes: int


def read_header(data: bytes, name: str) -> SegmentHeader:
    """Understand a segment's first bytes.

    Raises:
        IntegrityError: they are no header of a segment.
    """
    if len(data) < HEADER_BYTES:
        raise IntegrityError("the segment is cut short", object=name, cause=f"it has {len(data)} bytes")
    magic, info, timeline, address, _, system_id, segment_bytes, page_bytes = _LONG.unpack_from(data)
    header = SegmentHeader(magic, info, timeline, address, system_id, segment_bytes, page_bytes)
    if magic & 0xFF00 != 0xD100 or not info & _FIRST_IS_LONG:
        raise IntegrityError("this is no segment of the log", object=name, cause=f"magic {magic:#06x}")
    return header


def check_header(header: SegmentHeader, name: str, size: int, system_id: str, *, partial: bool = False) -> None:
    """Check a segment against its name and its cluster.

    Args:
        header: its first page.
        name: its name.
        size: bytes of the file.
        system_id: id of the cluster that it should come from.
        partial: it is the last segment of a line that ended (same size, may end anywhere).

    Raises:
        IntegrityError: something does not fit.
    """
    if str(header.system_id) != system_id:
        raise IntegrityError(
            "the segment belongs to another cluster",
            object=name,
            cause=f"system id {header.system_id}, ours is {system_id}",
            reason="ForeignSegment",
        )
    if size != header.segment_bytes:
        raise IntegrityError(
            "the segment is cut short" if size < header.segment_bytes else "the segment is too long",
            object=name,
            cause=f"it has {size} bytes of {header.segment_bytes}",
        )
    expected = segment_number(name[:24], header.segment_bytes) * header.segment_bytes
    if header.address != expected:
        raise IntegrityError(
            "the segment holds another part of the log than its name says",
            object=name,
            cause=f"it begins at {format_lsn(header.address)} instead of {format_lsn(expected)}",
        )
    if header.timeline > int(name[:8], 16):
        # A segment in which a line began is a copy of its parent's up to the fork: an older timeline is right.
        raise IntegrityError(
            "the segment was written on a later line than its name says",
            object=name,
            cause=f"timeline {header.timeline}",
        )
