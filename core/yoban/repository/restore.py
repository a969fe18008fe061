"""Puts a base backup back: downloads in parallel, verifies, places.

Guarantees: a file appears under its name only when every byte of it was verified; when `restore` returns, everything is
synced and has its mode. Anything damaged or missing ends the restore with the object's name. Nothing is written outside what
`place` answers, and nothing that exists is overwritten. Does not clean up what a failed restore leaves: the caller empties
the folder (temporary files are called `.restore-<number>.part`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from yoban.errors import IntegrityError, InvalidInput, NotFound
from yoban.repository.access import Access
from yoban.repository.codec import BLOCK, Opener
from yoban.repository.encode import KIND
from yoban.repository.layout import Layout
from yoban.repository.manifest import Manifest, ManifestFile
from yoban.repository.segments import sync_folder
from yoban.repository.threads import in_thread

Place = Callable[[str], Path]
_BATCH = 2 * BLOCK
_ZEROS = bytes(64 << 10)


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """How a backup is read: objects at once, and whether runs of zero bytes become holes."""

    parallel: int = 4
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """Plain bytes in place and in all, stored bytes read, files complete."""

    done: int
    total: int
    stored: int
    files: int


class _Target:
    """A file being put together from its pieces, by several threads."""

    def __init__(self, number: int, file: ManifestFile, path: Path) -> None:
        self.file = file
        self.path = path
        self.left = len(file.pieces)
        self._temporary = path.with_name(f".restore-{number}.part")
        self._fd = -1
        self._lock = Lock()

    def open(self) -> int:
        with self._lock:
            if self._fd < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(self._temporary, flags, 0o600)
                os.ftruncate(self._fd, self.file.size)
            return self._fd

    def write(self, data: memoryview, offset: int, sparse: bool) -> None:
        fd = self.open()
        while data:
            block = data[: len(_ZEROS)] if sparse else data
            hole = sparse and block.tobytes() == _ZEROS[: len(block)]
            done = len(block) if hole else os.pwrite(fd, block, offset)
            data, offset = data[done:], offset + done

    def settle(self) -> None:
        """Give the complete, verified file its mode and name."""
        os.fchmod(self.open(), self.file.mode)
        self.close()
        if self.file.mtime:
            os.utime(self._temporary, (self.file.mtime, self.file.mtime))
        self._temporary.replace(self.path)

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


@dataclass(frozen=True, slots=True)
class _Span:
    """Plain bytes [start, start + length) of an object belong at `offset` of a file."""

    start: int
    length: int
    offset: int
    target: _Target


class _Spreader:
    """Writes an object's plain bytes to the files that they belong to, as they come. One thread at a time."""

    def __init__(self, spans: list[_Span], sparse: bool) -> None:
        self._spans = spans
        self._sparse = sparse
        self._next = 0
        self._at = 0  # plain bytes seen

    def feed(self, opener: Opener, chunks: list[bytes]) -> int:
        """Take in stored bytes; returns how many plain ones were placed."""
        placed = 0
        for chunk in chunks:
            data = memoryview(opener.feed(chunk))
            end = self._at + len(data)
            while self._next < len(self._spans) and self._spans[self._next].start < end:
                span = self._spans[self._next]
                low, high = max(span.start, self._at), min(span.start + span.length, end)
                if low < high:
                    part = data[low - self._at : high - self._at]
                    span.target.write(part, span.offset + low - span.start, self._sparse)
                    placed += high - low
                if span.start + span.length > end:
                    break
                self._next += 1
            self._at = end
        return placed


class BackupReader:
    """Restores one base backup. Used once.

    Args:
        access, layout: of the repository (`Repository.reader` fills them in).
        manifest: of the backup.
        options: how to read.
        progress: called on the loop after each object.
    """

    def __init__(
        self,
        access: Access,
        layout: Layout,
        manifest: Manifest,
        *,
        options: ReaderOptions | None = None,
        progress: Callable[[RestoreProgress], None] | None = None,
    ) -> None:
        self._access = access
        self._layout = layout
        self._manifest = manifest
        self._options = options or ReaderOptions()
        self._progress = progress
        self._state = RestoreProgress(0, manifest.bytes, 0, 0)

    async def restore(self, place: Place) -> RestoreProgress:
        """Put everything where `place` says and return what was done.

        Args:
            place: where the item with this path belongs.

        Raises:
            IntegrityError: an object is damaged (reason `ObjectDamaged`) or missing (`ObjectMissing`); it is named.
            InvalidInput: something is there already.
            Unavailable, DeadlineExceeded: the store does not give an object; it is named.
            OSError: the volume does not take it.
        """
        targets = await in_thread(self._prepare, place)
        try:
            await self._fill(targets)
        finally:
            for target in targets:
                target.close()
        await self._finish(targets, place)
        return self._state

    def _prepare(self, place: Place) -> list[_Target]:
        for directory in self._manifest.directories:
            place(directory.path).mkdir(mode=0o700, parents=True, exist_ok=True)
        targets = [_Target(number, file, place(file.path)) for number, file in enumerate(self._manifest.files)]
        for path in [*(target.path for target in targets), *(place(link.path) for link in self._manifest.links)]:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.path.lexists(path):
                raise InvalidInput(
                    "the place of a file to be restored is taken",
                    object=str(path),
                    fix="restore into an empty volume; nothing was overwritten",
                    reason="NotEmpty",
                )
        for target in targets:
            if not target.file.pieces:
                target.settle()
        return targets

    async def _fill(self, targets: list[_Target]) -> None:
        spans: list[list[_Span]] = [[] for _ in self._manifest.objects]
        for target in targets:
            for piece in target.file.pieces:
                spans[piece.object].append(_Span(piece.start, piece.length, piece.offset, target))
        waiting = iter(range(len(spans)))

        async def lane() -> None:
            for index in waiting:  # one iterator for all lanes
                await self._object(index, sorted(spans[index], key=lambda span: span.start))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._options.parallel, len(spans))):
                    group.create_task(lane())
        except BaseExceptionGroup as errors:
            error: BaseException = errors
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None

    async def _object(self, index: int, spans: list[_Span]) -> None:
        known = self._manifest.objects[index]
        key = self._layout.data(self._manifest.id, known.number)
        name = f"{self._manifest.id}/{known.number:08d}"
        opener = Opener(key, KIND, name, sha256=known.sha256, size=known.size)
        spreader = _Spreader(spans, self._options.sparse)
        placed = held = 0
        pending: list[bytes] = []
        try:
            async with aclosing(self._access.stream(key)) as chunks:
                async for chunk in chunks:
                    pending.append(chunk)
                    held += len(chunk)
                    if held >= _BATCH:
                        placed += await in_thread(spreader.feed, opener, pending)
                        pending, held = [], 0
        except NotFound as error:
            raise IntegrityError(
                "an object of the backup is missing",
                object=key,
                cause="it was deleted, or the store lost it",
                fix="restore from another backup",
                reason="ObjectMissing",
            ) from error
        placed += await in_thread(spreader.feed, opener, pending)
        opener.finish()
        complete: list[_Target] = []
        for span in spans:
            span.target.left -= 1
            if not span.target.left:
                complete.append(span.target)
        await in_thread(_settle, complete)
        self._state = replace(
            self._state,
            done=self._state.done + placed,
            stored=self._state.stored + known.size,
            files=self._state.files + len(complete),
        )
        if self._progress is not None:
            self._progress(self._state)

    async def _finish(self, targets: list[_Target], place: Place) -> None:
        """Make links, sync files and then folders, and give folders their modes."""
        await in_thread(self._link, place)
        paths = [target.path for target in targets]
        batches = [paths[first : first + 64] for first in range(0, len(paths), 64)]
        limit = asyncio.Semaphore(self._options.parallel)

        async def sync(batch: list[Path]) -> None:
            async with limit:
                await in_thread(_sync, batch)

        await asyncio.gather(*(sync(batch) for batch in batches))
        await in_thread(self._folders, paths, place)

    def _link(self, place: Place) -> None:
        for link in self._manifest.links:
            place(link.path).symlink_to(link.target)

    def _folders(self, paths: list[Path], place: Place) -> None:
        modes = {place(directory.path): directory.mode & 0o777 for directory in self._manifest.directories}
        folders = {path.parent for path in paths} | {place(link.path).parent for link in self._manifest.links}
        for folder in sorted(folders | modes.keys() | {path.parent for path in modes}, reverse=True):
            if folder in modes:
                folder.chmod(modes[folder])
            sync_folder(folder)


def _settle(targets: list[_Target]) -> None:
    for target in targets:
        target.settle()


def _sync(paths: list[Path]) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
