"""Places of the write-ahead log as numbers, and names of its segments. Pure.

An LSN is a 64-bit byte address, written `HIGH/LOW` in hex. A segment holds `segment_bytes` (1 MiB to 1 GiB, a power of
two) of it; its name is timeline, high and low part of its number, 8 hex digits each. How many segments share a high part
depends on the size, so no name is read without it.
"""

from __future__ import annotations

import re

from yoban.errors import InvalidInput

PAGE = 8192
LONG_HEADER = 40
SHORT_HEADER = 24

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_SEGMENT = re.compile(r"[0-9A-F]{24}")


def parse_lsn(text: str) -> int:
    """Return the number of an LSN such as `0/3000148`. Raises ValueError for anything else."""
    match = _LSN.fullmatch(text)
    if match is None:
        raise ValueError(f"not an LSN: {text[:40]!r}")
    return (int(match[1], 16) << 32) | int(match[2], 16)


def format_lsn(lsn: int) -> str:
    """Return the server's own form: upper case, without leading zeros."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_number(name: str, segment_bytes: int) -> int:
    """Return the number of the segment with this name, counted from the start of the log."""
    if not _SEGMENT.fullmatch(name):
        raise ValueError(f"not a segment's name: {name[:40]!r}")
    return int(name[8:16], 16) * (0x1_0000_0000 // segment_bytes) + int(name[16:24], 16)


def segment_name(line: str, number: int, segment_bytes: int) -> str:
    """Return the name of a segment by timeline (8 hex digits) and number."""
    per = 0x1_0000_0000 // segment_bytes
    return f"{line}{number // per:08X}{number % per:08X}"


def segment_after(name: str, segment_bytes: int) -> str:
    """Return the name of the next segment on the same timeline. Cheap: called for each name of a long log.

    Raises:
        InvalidInput: not a segment's name.
    """
    try:
        high, low = int(name[8:16], 16), int(name[16:], 16) + 1
    except ValueError:
        high = low = -1
    if len(name) != 24 or high < 0:
        raise InvalidInput("this is no segment", object=f"file {name[:80]!r}")
    if low * segment_bytes >= 0x1_0000_0000:
        high, low = high + 1, 0
    return f"{name[:8]}{high:08X}{low:08X}"


def segment_with(line: str, lsn: int, segment_bytes: int) -> str:
    """Return the name of the segment that holds the byte at `lsn`."""
    return segment_name(line, lsn // segment_bytes, segment_bytes)


def segment_before(line: str, lsn: int, segment_bytes: int) -> str:
    """Return the name of the segment that holds the byte before `lsn`."""
    return segment_name(line, max(lsn - 1, 0) // segment_bytes, segment_bytes)


def record_end(start: int, length: int, segment_bytes: int) -> int:
    """Return where a record that starts at `start` ends: headers of pages it crosses are counted, aligned to 8 bytes.

    `length` is the record's own total length. This is what the server calls the end of the record, so the fork of a
    promotion right after it has this value.
    """
    position = start
    left = (length + 7) & ~7
    while left:
        offset = position % PAGE
        if offset == 0:
            position += LONG_HEADER if position % segment_bytes == 0 else SHORT_HEADER
            offset = position % PAGE
        step = min(left, PAGE - offset)
        position += step
        left -= step
    return position


def skip_header(lsn: int, segment_bytes: int) -> int:
    """Return where the first record at or after a page's start lies."""
    if lsn % PAGE:
        return lsn
    return lsn + (LONG_HEADER if lsn % segment_bytes == 0 else SHORT_HEADER)
