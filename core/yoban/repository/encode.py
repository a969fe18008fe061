"""Files to objects, in worker threads: read, inspect, compress, hash.

Guarantees: memory is bounded by one read buffer and the output that was asked for; each byte is read once and each stored
byte hashed once. A file that shrank ends where it ends, one that grew is read to the size that was listed. Does no upload.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from threading import Lock

from yoban.errors import NotFound
from yoban.plugins import BackupSession, BytesItem, FileItem
from yoban.repository.codec import BLOCK, FORMAT, Header, compressor, header_bytes

KIND = "data"


class OpenFile:
    """A file that several slices read, perhaps in several threads; opened by the first, closed by the last."""

    def __init__(self, item: FileItem, slices: int = 1) -> None:
        self.item = item
        self._left = slices
        self._fd = -1
        self._absent = False
        self._lock = Lock()

    def fd(self) -> int:
        """Return the descriptor, -1 when the file vanished and may. Blocks. Raises NotFound, OSError."""
        with self._lock:
            if self._fd < 0 and not self._absent:
                try:
                    self._fd = os.open(self.item.source, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError as error:
                    if not self.item.may_vanish:
                        cause = f"{self.item.source} does not exist"
                        raise NotFound("a file of the backup is gone", object=self.item.path, cause=cause) from error
                    self._absent = True
            return self._fd

    def release(self) -> None:
        """Count one slice as done."""
        self._left -= 1
        if self._left <= 0:
            self.close()

    def close(self) -> None:
        """Close now, when no thread reads any more. May be called again."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


@dataclass(slots=True)
class Slice:
    """Bytes [offset, offset + length) of a file, or a given content."""

    source: OpenFile | BytesItem
    offset: int
    length: int
    released: bool = False

    def release(self) -> None:
        """Note that it needs its file no more. May be called again."""
        if not self.released and isinstance(self.source, OpenFile):
            self.source.release()
        self.released = True


@dataclass(slots=True)
class Task:
    """Slices that become one object."""

    number: int
    slices: list[Slice] = field(default_factory=list)
    bytes: int = 0

    def add(self, piece: Slice) -> None:
        """Append a slice."""
        self.slices.append(piece)
        self.bytes += piece.length

    def close(self) -> None:
        """Release all files."""
        for piece in self.slices:
            piece.release()


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of a slice: offset in the object's plain bytes, and length; absent when the file vanished."""

    slice: Slice
    start: int
    length: int
    absent: bool = False


class Encoder:
    """Makes one object of a task, in steps.

    Args:
        task: what to read; its files are released as they are done.
        name: logical name for the header.
        session: whose `inspect` sees the files that ask for it.
    """

    def __init__(self, task: Task, name: str, session: BackupSession) -> None:
        self._task = task
        self._session = session
        self._stream = compressor()
        self._sha = hashlib.sha256()
        self._out = bytearray(header_bytes(Header(yoban=FORMAT, kind=KIND, name=name)))
        self._sha.update(self._out)
        block = max(1, session.inspect_block)
        self._buffer = memoryview(bytearray(max(block, BLOCK - BLOCK % block)))
        self._next = 0
        self._at = 0  # within the current slice
        self.plain = 0
        self.stored = len(self._out)
        self.reads: list[Read] = []
        self._ended = False
        self.done = False

    def step(self, limit: int) -> bytearray:
        """Go on until `limit` stored bytes are there or everything is read, and return what is there.

        Blocks. `done` tells afterwards whether it was the end; if not, the result has exactly `limit` bytes.

        Raises:
            IntegrityError: `inspect` found damage.
            NotFound: a file is gone that must not be.
            OSError: it cannot be read.
        """
        while not self._ended and len(self._out) < limit:
            if self._next < len(self._task.slices):
                self._advance(self._task.slices[self._next])
            else:
                self._emit(self._stream.flush())
                self._ended = True
        if self._ended and len(self._out) <= limit:
            self.done = True
            out, self._out = self._out, bytearray()
            return out
        out = self._out[:limit]
        del self._out[:limit]
        return out

    @property
    def sha256(self) -> str:
        """SHA-256 of all stored bytes, once done."""
        return self._sha.hexdigest()

    def _emit(self, data: bytes) -> None:
        if data:
            self._sha.update(data)
            self._out += data
            self.stored += len(data)

    def _advance(self, piece: Slice) -> None:
        if isinstance(piece.source, BytesItem):
            self._emit(self._stream.compress(piece.source.data))
            self._finish(piece, len(piece.source.data))
            return
        fd = piece.source.fd()
        if fd < 0:
            self._finish(piece, 0, absent=True)
            return
        want = min(len(self._buffer), piece.length - self._at)
        got = os.preadv(fd, [self._buffer[:want]], piece.offset + self._at) if want else 0
        if got:
            data = self._buffer[:got]
            if piece.source.item.inspect:
                self._session.inspect(piece.source.item, piece.offset + self._at, data)
            self._emit(self._stream.compress(data))
            self._at += got
        if got < want or self._at >= piece.length:
            self._finish(piece, self._at)

    def _finish(self, piece: Slice, length: int, *, absent: bool = False) -> None:
        self.reads.append(Read(piece, self.plain, length, absent))
        self.plain += length
        self._at = 0
        self._next += 1
        piece.release()
