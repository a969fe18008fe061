"""Makes one base backup: a session's items to objects, several at once, the manifest last.

Guarantees: nothing counts as a backup before `complete` has returned, and that only after a listing showed every object with
its size. Items marked `last` are read alone, in order, after all others are stored. Memory is bounded by
`WriterOptions.lanes` times the size of a stored object or part. Leaving without `complete` removes what was stored, as far as
the store answers; the rest is found by `Backups.sweep`. Does not prove that the log is stored: its caller does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

import msgspec
from opentelemetry import trace

from yoban.errors import IntegrityError, InvalidInput, YobanError
from yoban.plugins import (
    AlreadyExists,
    BackupBegin,
    BackupEnd,
    BackupItem,
    BackupSession,
    BytesItem,
    DirectoryItem,
    FileItem,
    LinkItem,
    Part,
    StoreCapability,
    Upload,
)
from yoban.repository.access import Access
from yoban.repository.encode import Encoder, OpenFile, Slice, Task
from yoban.repository.holds import DEFAULT_TTL, Hold, Keeper
from yoban.repository.layout import Layout
from yoban.repository.manifest import (
    Manifest,
    ManifestDirectory,
    ManifestFile,
    ManifestLink,
    ManifestObject,
    Piece,
    check_path,
    seal_manifest,
)
from yoban.repository.threads import in_thread

MIB = 1 << 20
_tracer = trace.get_tracer("yoban.repository")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackupMeta:
    """Where a backup is made: engine, incarnation, instance, term, and the id of the trace that asked for it."""

    engine: str
    incarnation: str
    instance: str = ""
    term: int = 0
    trace: str = ""


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How a backup is written.

    Attributes:
        threads: objects compressed at once.
        lanes: objects under way at once, compressed or sent.
        object_bytes: plain bytes of an object at most; larger files are split.
        bundle_below: files smaller than this share an object.
        put_bytes: stored bytes up to which an object is sent by one put; beyond, in parts of this size.
        abandon_seconds: how long cleaning up after a failure may take.
        ttl: how long the note "being made" lasts after its writer died.
    """

    threads: int = field(default_factory=lambda: max(1, min(4, os.cpu_count() or 1)))
    lanes: int = field(default_factory=lambda: max(2, min(4, os.cpu_count() or 1)) + 1)
    object_bytes: int = 48 * MIB
    bundle_below: int = 2 * MIB
    put_bytes: int = 16 * MIB
    abandon_seconds: float = 60.0
    ttl: timedelta = DEFAULT_TTL


@dataclass(frozen=True, slots=True)
class BackupProgress:
    """Plain bytes stored and expected (0: unknown), stored bytes, files."""

    done: int
    total: int
    stored: int
    files: int


Progress = Callable[[BackupProgress], None]


class BackupWriter:
    """One base backup being made. Made by `Backups.writer`; used once, as an asynchronous context."""

    def __init__(
        self,
        access: Access,
        layout: Layout,
        backup: str,
        meta: BackupMeta,
        options: WriterOptions,
        progress: Progress | None,
    ) -> None:
        self._access = access
        self._layout = layout
        self.id = backup
        self._meta = meta
        self._options = _fitting(options, StoreCapability.MULTIPART in access.store.capabilities)
        self._progress = progress
        self._reported = float("-inf")
        self._state = BackupProgress(0, 0, 0, 0)
        self._objects: dict[int, ManifestObject] = {}
        self._pieces: dict[str, list[tuple[int, Piece]]] = {}
        self._files: dict[str, ManifestFile] = {}
        self._directories: list[ManifestDirectory] = []
        self._links: list[ManifestLink] = []
        self._absent: set[str] = set()
        self._paths: set[str] = set()
        self._sources: list[OpenFile] = []
        self._number = 0
        self._completed = False
        self._started: datetime = access.clock.now()
        self._keeper: Keeper | None = None
        self._session: BackupSession = _NoSession()

    async def __aenter__(self) -> Self:
        """Claim the id: note that the backup is being made, and remove what an earlier attempt left.

        Raises:
            AlreadyExists: a completed backup has this id.
        """
        if await self._access.head(self._layout.manifest(self.id)) is not None:
            raise AlreadyExists("the backup is complete already", object=self.id)
        self._started = self._access.clock.now()
        ttl = self._options.ttl
        hold = Hold(
            id=self.id, backup=self.id, started=self._started, expires=self._started + ttl, by=self._meta.instance
        )
        self._keeper = Keeper(self._access, self._layout.running(self.id), hold, ttl)
        await self._keeper.open()
        try:
            await self._clear()
        except BaseException:
            await self._keeper.close(remove=False)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._completed:
            if self._keeper is not None:
                await self._keeper.close()
            return
        await self.abandon()

    async def abandon(self) -> None:
        """Remove what was stored so far and end the note; what the store refuses now is swept later. May be called again."""
        cleared = False
        try:
            async with asyncio.timeout(self._options.abandon_seconds):
                await self._clear()
            cleared = True
        except (YobanError, OSError) as error:  # the error that brought us here is the one to be heard
            _log.warning("backup %s could not be cleaned up now and is swept later: %s", self.id, error)
        finally:
            keeper, self._keeper = self._keeper, None
            if keeper is not None:
                await keeper.close(remove=cleared)

    async def _clear(self) -> None:
        running, manifest = self._layout.running(self.id), self._layout.manifest(self.id)
        # First of all: a manifest whose writing seemed to fail may be there, and what is left must not count as a backup.
        await self._access.delete([manifest])
        kept = (running, manifest)
        keys = [info.key for info in await self._access.listed(self._layout.backup(self.id)) if info.key not in kept]
        await self._access.delete(keys)
        await self._access.abort_uploads(self._layout.backup(self.id))

    async def store(self, session: BackupSession) -> None:
        """Store everything that the session yields. Called once, inside the session's context.

        Raises:
            IntegrityError: `inspect` found a damaged file.
            NotFound: a file is gone that must not be.
            Retryable: the store does not take it.
            OSError: a file cannot be read.
        """
        self._session = session
        self._state = replace(self._state, total=session.total_bytes)
        last: list[FileItem | BytesItem] = []
        try:
            async with contextlib.aclosing(self._tasks(session.items(), last)) as tasks:
                await self._run(tasks)
            for task in self._split(last):
                await self._store_one(task, asyncio.Semaphore(1))
        finally:
            for source in self._sources:  # after a failure some slices were never made
                source.close()
            self._sources.clear()
        self._report(force=True)

    async def add(self, items: Sequence[BytesItem]) -> None:
        """Store small files known only at the end (labels). May be called several times before `complete`."""
        for task in self._split(items):
            await self._store_one(task, asyncio.Semaphore(1))

    async def _run(self, tasks: AsyncIterator[Task]) -> None:
        queue: asyncio.Queue[Task | None] = asyncio.Queue(maxsize=self._options.lanes)
        cpu = asyncio.Semaphore(self._options.threads)

        async def lane() -> None:
            while (task := await queue.get()) is not None:
                await self._store_one(task, cpu)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._options.lanes):
                    group.create_task(lane())
                async for task in tasks:
                    await queue.put(task)
                for _ in range(self._options.lanes):
                    await queue.put(None)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            while not queue.empty():
                left = queue.get_nowait()
                if left is not None:
                    left.close()

    async def _tasks(
        self, items: AsyncIterator[BackupItem], last: list[FileItem | BytesItem]
    ) -> AsyncGenerator[Task, None]:
        bundle = Task(-1)
        async for item in items:
            if isinstance(item, DirectoryItem):
                self._directories.append(ManifestDirectory(path=self._fresh(item.path), mode=item.mode))
            elif isinstance(item, LinkItem):
                self._links.append(ManifestLink(path=self._fresh(item.path), target=item.target))
            elif item.last:
                last.append(item)
            elif _size(item) < self._options.bundle_below:
                for full in self._bundle(bundle, item):
                    yield full
            else:
                for task in self._split([item]):
                    yield task
        if bundle.slices:
            yield self._numbered(bundle)

    def _bundle(self, bundle: Task, item: FileItem | BytesItem) -> Iterable[Task]:
        if bundle.slices and bundle.bytes + _size(item) > self._options.object_bytes // 2:
            yield self._numbered(bundle)
        bundle.add(self._whole(item))

    def _numbered(self, bundle: Task) -> Task:
        """Take the content of a bundle as a task of its own."""
        task = Task(self._next_number(), bundle.slices, bundle.bytes)
        bundle.slices, bundle.bytes = [], 0
        return task

    def _whole(self, item: FileItem | BytesItem) -> Slice:
        self._enter(item)
        return Slice(item if isinstance(item, BytesItem) else OpenFile(item), 0, _size(item))

    def _split(self, items: Iterable[FileItem | BytesItem]) -> Iterable[Task]:
        """Make tasks of items in their order: large ones alone, in slices; runs of small ones together."""
        small = Task(-1)
        for item in items:
            if isinstance(item, BytesItem) or item.size < self._options.bundle_below:
                small.add(self._whole(item))
                continue
            if small.slices:
                yield self._numbered(small)
            self._enter(item)
            step = max(self._session.inspect_block, 1)
            step = max(step, self._options.object_bytes - self._options.object_bytes % step)
            starts = range(0, item.size, step)
            source = OpenFile(item, slices=len(starts))
            self._sources.append(source)
            for start in starts:
                task = Task(self._next_number())
                task.add(Slice(source, start, min(step, item.size - start)))
                yield task
        if small.slices:
            yield self._numbered(small)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _fresh(self, path: str) -> str:
        check_path(path, self._layout.manifest(self.id))
        if path in self._paths:
            raise InvalidInput(f"the engine names {path!r} twice", object=self.id)
        self._paths.add(path)
        return path

    def _enter(self, item: FileItem | BytesItem) -> None:
        path = self._fresh(item.path)
        mtime = item.mtime if isinstance(item, FileItem) else 0.0
        self._files[path] = ManifestFile(path=path, size=0, mode=item.mode & 0o777, mtime=mtime)
        self._pieces[path] = []

    async def _store_one(self, task: Task, cpu: asyncio.Semaphore) -> None:
        """Read, compress and send one object."""
        encoder = Encoder(task, f"{self.id}/{task.number:08d}", self._session)
        key = self._layout.data(self.id, task.number)
        with _tracer.start_as_current_span("backup object") as span:
            try:
                async with cpu:
                    data = await in_thread(encoder.step, self._options.put_bytes)
                if encoder.done:
                    with _tracer.start_as_current_span("upload object"):
                        await self._access.put(key, data)
                else:
                    await self._send_parts(key, encoder, data, cpu)
            finally:
                task.close()
            span.set_attributes(
                {"yoban.object": key, "yoban.bytes": encoder.plain, "yoban.stored_bytes": encoder.stored}
            )
        self._note(task, encoder)

    async def _send_parts(self, key: str, encoder: Encoder, data: bytearray, cpu: asyncio.Semaphore) -> None:
        upload: Upload = await self._access.start_upload(key)
        try:
            parts: list[Part] = []
            while True:
                if data:
                    with _tracer.start_as_current_span("upload part") as span:
                        span.set_attributes({"yoban.part": len(parts) + 1, "yoban.stored_bytes": len(data)})
                        parts.append(await self._access.put_part(upload, len(parts) + 1, data))
                if encoder.done:
                    break
                async with cpu:
                    data = await in_thread(encoder.step, self._options.put_bytes)
            await self._access.complete_upload(upload, parts)
        except BaseException:
            await self._access.abort(upload)
            raise

    def _note(self, task: Task, encoder: Encoder) -> None:
        self._objects[task.number] = ManifestObject(
            number=task.number, size=encoder.stored, plain=encoder.plain, sha256=encoder.sha256
        )
        files = 0
        for read in encoder.reads:
            item = read.slice.source if isinstance(read.slice.source, BytesItem) else read.slice.source.item
            files += read.slice.offset == 0
            if read.absent:
                self._absent.add(item.path)
            elif read.length:
                piece = Piece(object=0, start=read.start, offset=read.slice.offset, length=read.length)
                self._pieces[item.path].append((task.number, piece))
        self._state = replace(
            self._state,
            done=self._state.done + encoder.plain,
            stored=self._state.stored + encoder.stored,
            files=self._state.files + files,
        )
        self._report()

    def _report(self, *, force: bool = False) -> None:
        now = self._access.clock.monotonic()
        if self._progress is not None and (force or now - self._reported >= 0.2):
            self._reported = now
            self._progress(self._state)

    async def complete(self, begin: BackupBegin, end: BackupEnd, *, segment_bytes: int = 0) -> Manifest:
        """Check that every object is there, write the manifest, end the note.

        Args:
            begin, end: of the session; `end.items` must have been given to `add`.
            segment_bytes: size of a full log segment, 0 when they have no fixed size.

        Raises:
            IntegrityError: an object is missing, or has another size than was sent (reason `ObjectDamaged`).
            AlreadyExists: somebody else completed a backup under this id.
            InvalidInput: one of `end.items` was not added.
        """
        unsaved = [item.path for item in end.items if item.path not in self._files]
        if unsaved:
            raise InvalidInput(f"{unsaved[0]!r} belongs to the backup and was not stored", object=self.id)
        await self._confirm()
        manifest = self._manifest(begin, end, segment_bytes)
        key = self._layout.manifest(self.id)
        blob = await in_thread(seal_manifest, manifest)
        with _tracer.start_as_current_span("upload manifest"):
            created = await self._access.create(key, blob)
        if not created and await self._access.read(key) != bytes(blob):
            raise AlreadyExists("somebody else completed a backup under this id", object=key)
        self._completed = True
        return manifest

    async def _confirm(self) -> None:
        """Compare the listing with what was sent: a store that lost or cut an object is found out now, not at a restore."""
        prefix = self._layout.data(self.id, 0)[:-8]
        listed = {info.key: info.size for info in await self._access.listed(prefix)}
        for known in self._objects.values():
            key = self._layout.data(self.id, known.number)
            if listed.get(key) != known.size:
                found = "is not there" if key not in listed else f"has {listed[key]} bytes"
                raise IntegrityError(
                    f"an object of the backup {found} after {known.size} bytes were stored",
                    object=key,
                    cause="the object store lost it, or something else writes to this repository",
                    fix="check the object store; the backup is made again",
                    reason="ObjectDamaged",
                )

    def _manifest(self, begin: BackupBegin, end: BackupEnd, segment_bytes: int) -> Manifest:
        numbers = sorted(self._objects)
        index = {number: position for position, number in enumerate(numbers)}
        files: list[ManifestFile] = []
        for path, file in self._files.items():
            if path in self._absent:
                continue
            pieces = sorted(
                (msgspec.structs.replace(piece, object=index[number]) for number, piece in self._pieces[path]),
                key=lambda piece: piece.offset,
            )
            size = pieces[-1].offset + pieces[-1].length if pieces else 0
            files.append(ManifestFile(path=path, size=size, mode=file.mode, mtime=file.mtime, pieces=pieces))
        objects = [self._objects[number] for number in numbers]
        return Manifest(
            id=self.id,
            engine=self._meta.engine,
            version=begin.version,
            system_id=begin.system_id,
            incarnation=self._meta.incarnation,
            instance=self._meta.instance,
            term=self._meta.term,
            begin_line=begin.line,
            begin_position=begin.position,
            begin_time=begin.time,
            line=end.line,
            end_position=end.position,
            end_time=end.time,
            first_segment=end.first_segment,
            last_segment=end.last_segment,
            segment_bytes=segment_bytes,
            frozen_seconds=end.frozen_seconds,
            facts=dict(end.facts),
            bytes=sum(file.size for file in files),
            stored_bytes=sum(entry.size for entry in objects),
            started=self._started,
            completed=self._access.clock.now(),
            trace=self._meta.trace,
            directories=self._directories,
            files=files,
            links=self._links,
            objects=objects,
        )


def _size(item: FileItem | BytesItem) -> int:
    return len(item.data) if isinstance(item, BytesItem) else item.size


def _fitting(options: WriterOptions, multipart: bool) -> WriterOptions:
    """Without multipart uploads every object must fit one put, even where nothing compresses."""
    if options.put_bytes < 5 * MIB:
        raise InvalidInput("a part has at least 5 MiB", object="WriterOptions.put_bytes")
    if multipart:
        return options
    return replace(options, object_bytes=min(options.object_bytes, 32 * MIB), put_bytes=64 * MIB)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception in a group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _NoSession(BackupSession):
    """Stands in before `store` was called, for labels alone."""

    def items(self) -> AsyncIterator[BackupItem]:
        raise AssertionError("never asked")

    async def finish(self) -> BackupEnd:
        raise AssertionError("never asked")
