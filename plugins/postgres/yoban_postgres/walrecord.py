"""Looks at single records of the log in a data directory.

Guarantees to tell where the record at a place ends, and whether a record is there at all; does not verify checksums.
"""

from __future__ import annotations

import struct
from pathlib import Path

from yoban_postgres.lsn import record_end, segment_with, skip_header

_LENGTH = struct.Struct("<I")


def length_at(data: Path, line: str, lsn: int, segment_bytes: int) -> int | None:
    """Return the length that the record at `lsn` says of itself; 0 when none begins there, None without the segment."""
    start = skip_header(lsn, segment_bytes)
    file = data / "pg_wal" / segment_with(line, start, segment_bytes)
    try:
        with file.open("rb") as opened:
            opened.seek(start % segment_bytes)
            head = opened.read(_LENGTH.size)
    except FileNotFoundError:
        return None
    return int(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else 0


def end_of(data: Path, line: str, lsn: int, segment_bytes: int) -> int | None:
    """Return where the record at `lsn` ends, None when there is none."""
    length = length_at(data, line, lsn, segment_bytes)
    return record_end(skip_header(lsn, segment_bytes), length, segment_bytes) if length else None


def nothing_complete_after(data: Path, line: str, replayed: int, end: int, segment_bytes: int) -> bool:
    """Tell whether no complete record lies between the replayed place and the proven end of the log.

    The end may cut a record in two: the server flushes whole pages, and a record that is not whole was acknowledged to
    nobody.
    """
    if replayed >= end:
        return True
    start = skip_header(replayed, segment_bytes)
    if start >= end or start + _LENGTH.size > end:
        return True
    length = length_at(data, line, start, segment_bytes)
    if length is None:
        return False
    return (length == 0 and end - start < 8) or (length > 0 and record_end(start, length, segment_bytes) > end)
