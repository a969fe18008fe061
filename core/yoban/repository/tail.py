"""The growing end of the log: chunks of a segment that is not complete yet.

Guarantees: a chunk is never overwritten; `join` gives contiguous bytes from the start of the segment or raises, bytes that
overlap must be equal, what it leaves under the destination's name is verified and synced. Does not know how far the server
has flushed: callers hand over flushed bytes only.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from yoban.errors import IntegrityError, InvalidInput, NotFound
from yoban.plugins import Buffer
from yoban.repository.access import Access
from yoban.repository.codec import BLOCK, MAX_HEADER, PLAIN, ZSTD, damaged, parse_header, seal, unseal
from yoban.repository.layout import Layout, TailKey, parse_tail
from yoban.repository.segments import sync_folder
from yoban.repository.threads import in_thread

KIND = "tail"
TailChunk = TailKey
"""A stored chunk: line, term, segment, and bytes [start, end) of the segment."""

_SMALL = 512  # compressing less than this gains nothing
_SLICE = 32 << 20  # plain bytes of one chunk at most, so that it fits one put


@dataclass(frozen=True, slots=True)
class Cover:
    """How far chunks reach without a gap from the start, and the gap after that, None when there is none."""

    end: int
    gap: tuple[int, int] | None = None


def cover(chunks: Iterable[TailChunk]) -> Cover:
    """Tell how far `chunks` (of one segment) reach. Pure."""
    end = 0
    for chunk in sorted(chunks, key=lambda chunk: (chunk.start, chunk.end)):
        if chunk.start > end:
            return Cover(end, (end, chunk.start))
        end = max(end, chunk.end)
    return Cover(end)


class TailStore:
    """The tail chunks of one repository."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout

    async def put(self, line: str, term: int, segment: str, start: int, data: Buffer) -> TailChunk:
        """Store bytes [start, start + len(data)) of a segment. The same again changes nothing.

        Raises:
            IntegrityError: other bytes are stored for this range (reason `TailConflict`).
            InvalidInput: no bytes, or more than 32 MiB.
        """
        size = memoryview(data).nbytes
        if not 0 < size <= _SLICE:
            raise InvalidInput(f"a chunk has 1 to {_SLICE} bytes, not {size}", object=segment)
        chunk = TailChunk(line, term, segment, start, start + size)
        key = self._layout.chunk(chunk)
        sealed = await in_thread(seal, KIND, _logical(chunk), data, ZSTD if size > _SMALL else PLAIN)
        if await self._access.create(key, sealed.blob):
            return chunk
        found = await self._access.read(key, end=MAX_HEADER)
        parsed = parse_header(found, key) if found is not None else None
        if parsed is None or parsed[0].plain_sha256 != sealed.header.plain_sha256:
            raise IntegrityError(
                "other bytes are stored for this part of the log",
                object=key,
                cause="another server writes to this repository",
                fix="find the other writer; the stored bytes were not touched",
                reason="TailConflict",
            )
        return chunk

    async def chunks(self, line: str | None = None, segment: str | None = None) -> list[TailChunk]:
        """List chunks, of all lines and segments or of those named only; by line, term, segment and start."""
        found = [
            chunk
            for info in await self._access.listed(self._layout.tail(line or ""))
            if (chunk := parse_tail(self._layout.below(info.key))) is not None and segment in (None, chunk.segment)
        ]
        return sorted(found, key=lambda chunk: (chunk.line, chunk.term, chunk.segment, chunk.start, chunk.end))

    async def join(
        self, line: str, segment: str, destination: Path, *, term: int | None = None, pad_to: int = 0
    ) -> int:
        """Put a segment's chunks together at `destination` and return how many bytes, padding not counted.

        Args:
            line, segment: of the tail.
            destination: file to make; it appears complete and synced, or not at all.
            term: chunks of this term only; None takes all, which must then agree where they overlap.
            pad_to: size to fill up to with zero bytes.

        Raises:
            NotFound: there is no chunk, proven by a listing.
            IntegrityError: bytes are missing between chunks (reason `LogGap`), overlapping ones differ, or one is damaged.
        """
        chunks = [chunk for chunk in await self.chunks(line, segment) if term in (None, chunk.term)]
        if not chunks:
            raise NotFound("nothing of the segment is stored", object=self._layout.segment(line, segment))
        reach = cover(chunks)
        if reach.gap is not None:
            raise IntegrityError(
                f"bytes {reach.gap[0]} to {reach.gap[1]} of the segment are not stored",
                object=self._layout.segment(line, segment),
                cause="a chunk of the tail is missing",
                reason="LogGap",
            )
        if pad_to and reach.end > pad_to:
            raise damaged(self._layout.chunk(chunks[-1]), f"it reaches beyond the segment's {pad_to} bytes")
        temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.part")
        file = await in_thread(os.open, temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            end = 0
            for chunk in sorted(chunks, key=lambda chunk: (chunk.start, -chunk.end)):
                data = await self._content(chunk)
                await in_thread(self._merge, file, chunk, data, end)
                end = max(end, chunk.end)
            await in_thread(_settle, file, max(end, pad_to), temporary, destination)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return end

    def _merge(self, file: int, chunk: TailChunk, data: bytes, end: int) -> None:
        known = max(0, min(end, chunk.end) - chunk.start)
        if known and os.pread(file, known, chunk.start) != data[:known]:
            raise IntegrityError(
                "two chunks of the tail hold different bytes for the same place",
                object=self._layout.chunk(chunk),
                reason="TailConflict",
            )
        rest = memoryview(data)[known:]
        offset = chunk.start + known
        while rest:
            done = os.pwrite(file, rest, offset)
            offset += done
            rest = rest[done:]

    async def _content(self, chunk: TailChunk) -> bytes:
        key = self._layout.chunk(chunk)
        blob = await self._access.read(key)
        if blob is None:
            raise IntegrityError("a chunk of the tail went while it was read", object=key, reason="LogGap")
        if len(blob) > BLOCK:
            data = await in_thread(unseal, blob, key, KIND, _logical(chunk))
        else:
            data = unseal(blob, key, KIND, _logical(chunk))
        if len(data) != chunk.end - chunk.start:
            raise damaged(key, f"{len(data)} bytes where its name says {chunk.end - chunk.start}")
        return data

    async def clear(self, line: str, segment: str) -> int:
        """Remove a segment's chunks, once the whole segment is stored. Returns how many went."""
        return await self._remove(await self.chunks(line, segment))

    async def clear_before(self, line: str, segment: str) -> int:
        """Remove the chunks of all segments of the line that come before `segment`. Returns how many went."""
        return await self._remove([chunk for chunk in await self.chunks(line) if chunk.segment < segment])

    async def compact(self, line: str, term: int, segment: str, data: Buffer) -> TailChunk:
        """Store bytes [0, len(data)) as one chunk and remove those of the same term that it covers.

        Raises:
            as `put`.
        """
        whole = await self.put(line, term, segment, 0, data)
        await self._remove(
            [
                chunk
                for chunk in await self.chunks(line, segment)
                if chunk.term == term and chunk.end <= whole.end and chunk != whole
            ]
        )
        return whole

    async def _remove(self, chunks: list[TailChunk]) -> int:
        await self._access.delete([self._layout.chunk(chunk) for chunk in chunks])
        return len(chunks)


def _logical(chunk: TailChunk) -> str:
    return f"{chunk.line}/{chunk.term}/{chunk.segment}/{chunk.start}-{chunk.end}"


def _settle(file: int, size: int, temporary: Path, destination: Path) -> None:
    os.ftruncate(file, size)
    os.fsync(file)
    temporary.replace(destination)
    sync_folder(destination.parent)
