"""Reads the control file whole: it is rewritten in place, so a read may catch two halves of different ones.

Guarantees bytes whose checksum fits, or an error.
"""

from __future__ import annotations

import time
from pathlib import Path

from yoban.errors import IntegrityError

_TRIES = 50
_PAUSE = 0.02
_SHORTEST, _LONGEST = 200, 512

_TABLE: list[int] = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ (0x82F63B78 if _value & 1 else 0)
    _TABLE.append(_value)


def whole(data: bytes) -> bool:
    """Tell whether the bytes end in a checksum of what precedes it; where it stands depends on the version."""
    crc = 0xFFFFFFFF
    for offset, byte in enumerate(data[:_LONGEST]):
        if offset >= _SHORTEST and offset % 4 == 0:
            kept = int.from_bytes(data[offset : offset + 4], "little")
            if kept == crc ^ 0xFFFFFFFF and any(data[offset : offset + 4]):
                return True
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return False


def read_whole(path: Path) -> bytes:
    """Read it, again while it is torn. Blocking, a second at most.

    Raises:
        IntegrityError: it stays damaged.
    """
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE)
        data = path.read_bytes()
        if whole(data):
            return data
    raise IntegrityError("the control file is damaged", object=str(path), cause="its checksum does not fit")
