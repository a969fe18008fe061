"""A little room that is held back on the volume of the log, for the day on which it is full.

A server on a full volume often cannot even remove what it no longer needs: it writes a list of it first, or a file before it
starts. So when the store works again, and everything is stored, the reserve is given to it. Guarantees: it is not given
while anything waits to be stored, which would only fill it; it is made again when there is room. Blocking.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

NAME = ".yoban-reserve"
SIZE = 32 << 20
SEGMENTS = 2
"""Segments of the log that it has room for: a server may need a new one before it can remove any."""
PART = 16
"""On a small volume, one part in so many of it."""
SHORT = 2
PLENTY = 4


@dataclass(frozen=True, slots=True)
class Reserve:
    """The reserve of one volume.

    Attributes:
        folder: the volume's folder that the file lies in.
        total: size of the volume in bytes.
        segment_bytes: size of a segment of the log, 0 when they have no fixed size.
    """

    folder: Path
    total: int
    segment_bytes: int = 0

    @property
    def size(self) -> int:
        """Bytes that are held back."""
        return min(max(SIZE, SEGMENTS * self.segment_bytes), self.total // PART)

    def short(self, free: int) -> bool:
        """Whether a volume with so many free bytes is as good as full. Pure."""
        return free < SHORT * self.size

    def make(self, free: int) -> bool:
        """Hold it back, when it is not and there is plenty of room; return whether it was made now."""
        path = self.folder / NAME
        if free < PLENTY * self.size or path.exists():
            return False
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(fd, 0, max(1, self.size))
            finally:
                os.close(fd)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        return True

    def give(self) -> bool:
        """Give it to the server; return whether it was held back. May be called again."""
        try:
            (self.folder / NAME).unlink()
        except FileNotFoundError:
            return False
        return True
