"""Whole segments of the log.

Guarantees: a segment that is stored is never overwritten; the same content again is a yes, other content under the same
name an error. What `fetch` leaves under the destination's name is complete and verified. A segment counts as absent
only when the store says so and a listing agrees. However large a file is, `MAX_PUT` bytes of it are in memory at most. Does
not decide which segments to store, nor in which order.

An object beyond `MAX_PUT` is sent in parts, and no store completes an upload only where nothing is: it is looked for before
the first part and once more after the last. Two writers that end within that moment may both succeed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from yoban.errors import IntegrityError, NotFound, Unsupported
from yoban.plugins import StoreCapability
from yoban.repository.access import Access
from yoban.repository.codec import BLOCK, MAX_HEADER, Header, Opener, parse_header, seal_file
from yoban.repository.large import LargeFile
from yoban.repository.layout import Layout, decode
from yoban.repository.threads import in_thread

KIND = "segment"
MAX_PUT = 64 << 20
_PART = 32 << 20
"""`MAX_PUT` is a multiple of it: all parts but the last have one size."""
_BATCH = 4 * BLOCK
_SLICE = 128 << 10
"""Stored bytes opened at once: what becomes of them is hashed and written while it is in the processor's cache."""


@dataclass(frozen=True, slots=True)
class PutResult:
    """What `put_segment` did: whether bytes were sent; plain size, its SHA-256, bytes stored."""

    uploaded: bool
    size: int
    sha256: str
    stored_size: int


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A stored segment as its header tells: plain size, SHA-256 of the plain content, bytes stored."""

    size: int
    sha256: str
    stored_size: int


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A stored segment as listed."""

    name: str
    stored_size: int
    modified: datetime


class LogStore:
    """The segments of one repository."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout
        # Each holds a whole segment: no more of them than keep the processor busy while others are sent.
        self._sealing = asyncio.Semaphore(sealers(os.cpu_count() or 1))

    async def put_segment(self, line: str, name: str, path: Path, *, probe: bool = False) -> PutResult:
        """Store a complete segment. May be called again, by any instance, several at once.

        Args:
            line, name: of the segment.
            path: its file; not changed while the call runs.
            probe: look first whether it is stored; cheaper where most are (a replica's).

        Raises:
            IntegrityError: other content is stored under this name (reason `SegmentConflict`); nothing was changed.
            Unavailable: the file changed meanwhile (reason `FileChanged`), or what the store says.
            Unsupported: it is too large for a store without multipart uploads.
            OSError: the file cannot be read.
        """
        if large((await in_thread(os.stat, path)).st_size):
            return await self._put_large(line, name, path)
        if probe:
            known = await self._describe(line, name)
            if known is not None:
                size, sha256 = await in_thread(_digest, path)
                self._same(line, name, known, size, sha256)
                return PutResult(False, size, sha256, known.stored_size)
        async with self._sealing:
            sealed = await in_thread(seal_file, KIND, _logical(line, name), path)
        if await self._access.create(self._layout.segment(line, name), sealed.blob):
            return PutResult(True, sealed.header.size, sealed.header.plain_sha256, len(sealed.blob))
        return await self._there(line, name, sealed.header)

    async def _put_large(self, line: str, name: str, path: Path) -> PutResult:
        # Asked to or not: to read and compress gigabytes only to hear that they are there is dear.
        known = await self._describe(line, name)
        file = LargeFile(KIND, _logical(line, name), path)
        try:
            header = await file.read()
            if known is None and await self._send(self._layout.segment(line, name), file):
                return PutResult(True, header.size, header.plain_sha256, file.stored)
        finally:
            file.close()
        return await self._there(line, name, header)

    async def _send(self, key: str, file: LargeFile) -> bool:
        """Store the object piece by piece; False when something is there."""
        first = await file.take(MAX_PUT)
        if file.done():
            return await self._access.create(key, first)
        if StoreCapability.MULTIPART not in self._access.store.capabilities:
            raise Unsupported(
                "the segment is too large for a store without multipart uploads",
                object=key,
                cause=f"compressed it has more than {MAX_PUT >> 20} MiB",
                fix="use another object store, or let the engine write smaller files of log",
            )
        upload = await self._access.start_upload(key)
        try:
            parts = [
                await self._access.put_part(upload, number, first[start : start + _PART])
                for number, start in enumerate(range(0, len(first), _PART), 1)
            ]
            del first
            while not file.done():
                parts.append(await self._access.put_part(upload, len(parts) + 1, await file.take(_PART)))
            # Hours may have passed, in which another instance stored it.
            if await self._access.head(key) is not None:
                await self._access.abort(upload)
                return False
            await self._access.complete_upload(upload, parts)
        except BaseException:
            await self._access.abort(upload)
            raise
        return True

    async def _there(self, line: str, name: str, header: Header) -> PutResult:
        """What to answer when something is stored already: whether it is the same. Raises IntegrityError."""
        known = await self._describe(line, name)
        if known is None:
            raise Unsupported("the store says that the segment exists and that it does not", object=name)
        self._same(line, name, known, header.size, header.plain_sha256)
        return PutResult(False, header.size, header.plain_sha256, known.stored_size)

    def _same(self, line: str, name: str, known: SegmentInfo, size: int, sha256: str) -> None:
        if (known.size, known.sha256) != (size, sha256):
            raise IntegrityError(
                f"segment {name} is stored already with other content",
                object=self._layout.segment(line, name),
                cause="another server writes to this repository, or the file was changed after it was stored",
                fix="find the other writer; the stored segment was not touched",
                reason="SegmentConflict",
            )

    async def is_stored(self, line: str, name: str) -> bool:
        """Tell whether the segment is stored; False only when it is proven absent."""
        return await self._access.head(self._layout.segment(line, name)) is not None

    async def describe(self, line: str, name: str) -> SegmentInfo:
        """Read what the object says of itself (its first bytes only).

        Raises:
            NotFound: proven absent.
            IntegrityError: the object is damaged.
        """
        info = await self._describe(line, name)
        if info is None:
            raise NotFound("the segment is not stored", object=self._layout.segment(line, name))
        return info

    async def _describe(self, line: str, name: str) -> SegmentInfo | None:
        key = self._layout.segment(line, name)
        info = await self._access.head(key)
        start = await self._access.read(key, end=MAX_HEADER) if info is not None else None
        if info is None or start is None:
            return None
        header = _header(start, key, _logical(line, name))
        return SegmentInfo(header.size, header.plain_sha256, info.size)

    async def confirm_absent(self, line: str, name: str) -> bool:
        """Tell by a listing whether the segment is absent. Raises Retryable when the listing cannot be had."""
        return await self._access.confirm_absent(self._layout.segment(line, name))

    async def lines(self) -> list[str]:
        """Return the lines of which anything is stored."""
        return sorted(decode(line) for line in await self._access.folders(self._layout.log()))

    async def stored(self, line: str, *, after: str = "") -> list[StoredSegment]:
        """List a line's segments by name, those after `after` only."""
        found = [
            StoredSegment(decode(info.key.rsplit("/", 1)[1]), info.size, info.modified)
            async for info in self._access.walk(self._layout.log(line))
        ]
        return sorted((segment for segment in found if segment.name > after), key=lambda segment: segment.name)

    async def fetch(
        self, line: str, name: str, destination: Path, *, durable: bool = True, pool: Executor | None = None
    ) -> int:
        """Bring a segment to `destination` and return its plain size in bytes.

        The file appears under its name complete and verified, or not at all. Its content is on disk by then, so that
        whoever syncs it once more, as servers do when they take it over, need not wait.

        Args:
            line, name: of the segment.
            destination: where it is to be.
            durable: the name survives a power cut, too.
            pool: whose threads decompress, hash, write and sync.

        Raises:
            NotFound: proven absent.
            IntegrityError: damaged.
            Unavailable, DeadlineExceeded: the store does not give it; this says nothing about its existence.
        """
        key = self._layout.segment(line, name)
        opener = Opener(key, KIND, _logical(line, name))
        temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.part")
        file = await in_thread(_create_new, temporary)
        try:
            pending: list[bytes] = []
            size = held = 0
            async with aclosing(self._access.stream(key)) as chunks:
                async for chunk in chunks:
                    pending.append(chunk)
                    held += len(chunk)
                    if held >= _BATCH:
                        size += await in_thread(_feed, opener, pending, file, pool=pool)
                        pending, held = [], 0
            return size + await in_thread(_settle, opener, pending, file, temporary, destination, durable, pool=pool)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    async def delete(self, line: str, names: list[str]) -> None:
        """Remove segments; those already gone count as removed."""
        await self._access.delete([self._layout.segment(line, name) for name in names])


def large(size: int) -> bool:
    """Tell whether a file of so many bytes is stored piece by piece. Pure.

    Of all others the object fits one put, even where nothing compresses: zstd adds less than a 200th, and the header 8 KiB.
    """
    return size > MAX_PUT - (MAX_PUT >> 6)


def sealers(cores: int) -> int:
    """Return how many segments are made into objects at the same time. Pure."""
    return max(2, min(4, cores // 2))


def _logical(line: str, name: str) -> str:
    return f"{line}/{name}"


def _header(start: bytes, key: str, name: str) -> Header:
    parsed = parse_header(start, key)
    if parsed is None:
        raise IntegrityError("the object ends within its header", object=key, reason="ObjectDamaged")
    if parsed[0].kind != KIND or parsed[0].name != name:
        raise IntegrityError(
            f"the object says that it is {parsed[0].kind} {parsed[0].name!r}", object=key, reason="ObjectDamaged"
        )
    return parsed[0]


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


def _create_new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _feed(opener: Opener, chunks: list[bytes], file: int) -> int:
    written = 0
    for chunk in chunks:
        for start in range(0, len(chunk), _SLICE):
            plain = memoryview(opener.feed(memoryview(chunk)[start : start + _SLICE]))
            while plain:
                done = os.write(file, plain)
                written += done
                plain = plain[done:]
    return written


def _settle(opener: Opener, chunks: list[bytes], file: int, temporary: Path, destination: Path, durable: bool) -> int:
    """Write and check the rest, sync it, give the file its name."""
    written = _feed(opener, chunks, file)
    opener.finish()
    os.fsync(file)
    temporary.replace(destination)
    if durable:
        sync_folder(destination.parent)
    return written


def sync_folder(folder: Path) -> None:
    """Make names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
