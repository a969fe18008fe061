"""Files too large to be held in memory to objects: read once for what the header says, once more to be sent.

Guarantees: at most the piece that was asked for is in memory; what was sent is what the header announces, or an error; no
step in a thread takes longer than a fraction of a second. The header has the plain content's checksum and not the stored
bytes': those are known only when the header is on its way. Does no upload.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from yoban.errors import Unavailable
from yoban.repository.codec import BLOCK, FORMAT, ZSTD, Header, compressor, header_bytes
from yoban.repository.threads import in_thread

STEP = 32 << 20
"""Plain bytes read in one go in a thread."""


class LargeFile:
    """One file that becomes one object. Used by one task: `read` first, then `take` until `done`, `close` in the end.

    Args:
        kind, name: of the object.
        path: the file, opened once, so that it may be removed meanwhile.
    """

    def __init__(self, kind: str, name: str, path: Path) -> None:
        self._kind, self._name, self._path = kind, name, path
        self._file: io.FileIO | None = None
        self._buffer = memoryview(bytearray(BLOCK))
        self._header: Header | None = None
        self._stream = compressor()
        self._digest: Any = hashlib.sha256()
        self._size = 0
        self._rest = memoryview(b"")  # stored bytes that were made and not taken yet
        self._ended = False
        self.stored = 0
        """Bytes taken."""

    async def read(self) -> Header:
        """Read the file for the first time and return the object's header. Raises OSError."""
        while not await in_thread(self._hash):
            pass
        self._header = Header(
            yoban=FORMAT,
            kind=self._kind,
            name=self._name,
            codec=ZSTD,
            size=self._size,
            plain_sha256=self._digest.hexdigest(),
        )
        self._rest = memoryview(header_bytes(self._header))
        self._digest, self._size = hashlib.sha256(), 0
        return self._header

    async def take(self, limit: int) -> memoryview:
        """Return the object's next `limit` bytes; fewer only at its end, and then it is proven to be what was announced.

        Raises:
            Unavailable: the file is not what it was when it was read first (reason `FileChanged`).
            OSError: it cannot be read.
        """
        buffer = memoryview(bytearray(limit))
        filled = 0
        while filled < limit and not self.done():
            filled += await in_thread(self._fill, buffer[filled:])
        self.stored += filled
        return buffer[:filled]

    def done(self) -> bool:
        """Everything was taken."""
        return self._ended and not self._rest

    def close(self) -> None:
        """Close the file; when no thread reads it any more, which `in_thread` sees to."""
        if self._file is not None:
            self._file.close()

    def _hash(self) -> bool:
        """Read on, at most `STEP` bytes; True at the end."""
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        for _ in range(max(1, STEP // BLOCK)):
            got = self._file.readinto(self._buffer)
            if not got:
                self._file.seek(0)
                return True
            self._digest.update(self._buffer[:got])
            self._size += got
        return False

    def _fill(self, room: memoryview) -> int:
        """Put what comes next into `room`, reading at most about `STEP` bytes for it; returns how much came."""
        filled = 0
        for _ in range(max(1, STEP // BLOCK)):
            if not self._rest and not self._ended:
                self._rest = memoryview(self._more())
            came = min(len(self._rest), len(room) - filled)
            room[filled : filled + came] = self._rest[:came]
            self._rest = self._rest[came:]
            filled += came
            if filled == len(room) or self.done():
                break
        return filled

    def _more(self) -> bytes:
        """Compress the next block, and at the file's end the end of the stream."""
        assert self._file is not None
        assert self._header is not None
        got = self._file.readinto(self._buffer)
        if got:
            self._digest.update(self._buffer[:got])
            self._size += got
            if self._size > self._header.size:
                raise self._changed(f"it has more than the {self._header.size} bytes that it had")
            return self._stream.compress(self._buffer[:got])
        if self._size != self._header.size:
            raise self._changed(f"it has {self._size} bytes where it had {self._header.size}")
        if self._digest.hexdigest() != self._header.plain_sha256:
            raise self._changed("its content has another checksum than before")
        self._ended = True
        return self._stream.flush()

    def _changed(self, cause: str) -> Unavailable:
        return Unavailable(
            "the file changed while it was stored",
            object=str(self._path),
            cause=cause,
            fix="find out what writes to it if this goes on; it is stored anew",
            reason="FileChanged",
        )
