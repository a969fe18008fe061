"""Facet of the agent: a consistent copy of the data while the server works.

The engine says what belongs to a backup and in which order; core reads, splits, bundles, compresses, hashes and uploads.
The inner primitive is *quiesce*: the server is brought into a state in which a copy can be made consistent, for
a bounded time, and released at its deadline whatever happens to the caller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from yoban.plugins.context import InstanceContext
from yoban.plugins.positions import Position


@dataclass(frozen=True, slots=True)
class FileItem:
    """A file to copy.

    Attributes:
        path: name in the backup, relative, with `/`; the engine's own choice, given back to `Recovery.place`.
        source: where it is now.
        size: bytes when listed; a file that grew is copied to this size at most, one that shrank is copied as is.
        mode: permission bits.
        mtime: modification time, seconds since the epoch.
        may_vanish: it may be gone when it is read; then it is left out. Otherwise a missing file fails the backup.
        last: read only after all items without it are stored; such items are read in the order given, alone.
        inspect: pass the content through `BackupSession.inspect`.
    """

    path: str
    source: Path
    size: int
    mode: int = 0o600
    mtime: float = 0.0
    may_vanish: bool = False
    last: bool = False
    inspect: bool = False


@dataclass(frozen=True, slots=True)
class BytesItem:
    """A small file given by its content (labels, maps). With `last` as in `FileItem`."""

    path: str
    data: bytes
    mode: int = 0o600
    last: bool = False


@dataclass(frozen=True, slots=True)
class DirectoryItem:
    """A folder that must exist, empty or not."""

    path: str
    mode: int = 0o700


@dataclass(frozen=True, slots=True)
class LinkItem:
    """A symbolic link, with its target's text."""

    path: str
    target: str


BackupItem = FileItem | BytesItem | DirectoryItem | LinkItem


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What is asked of a backup: its id, and the longest time in seconds that writes may be held back for it."""

    id: str
    max_frozen_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class BackupBegin:
    """State when the copy began: position, line of the log, UTC time, the engine's id of the data, server version."""

    position: Position
    line: str
    time: datetime
    system_id: str
    version: str


@dataclass(frozen=True, slots=True)
class BackupEnd:
    """State when the copy ended.

    Attributes:
        position: place from which on the copy is consistent.
        line: line of that place.
        time: UTC time of it, never earlier than the last commit that the copy contains.
        items: label files and the like, known only at the end; core stores them before the manifest.
        first_segment, last_segment: log segments between which everything is needed to make the copy consistent; "" when
            it is consistent by itself. With a log, that then goes on from `position`.
        frozen_seconds: how long writes were held back.
        facts: what the engine wants to find again when targets are matched (see `BackupFacts`); no secrets.
    """

    position: Position
    line: str
    time: datetime
    items: tuple[BytesItem, ...] = ()
    first_segment: str = ""
    last_segment: str = ""
    frozen_seconds: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)


class BackupSession(ABC):
    """A backup under way. Leaving the context without `finish` abandons it and releases the server."""

    begin: BackupBegin
    total_bytes: int
    """Estimate for progress."""

    @abstractmethod
    def items(self) -> AsyncIterator[BackupItem]:
        """Yield everything that belongs to the backup, folders before what lies in them. Called once."""

    def inspect(self, item: FileItem, offset: int, data: memoryview) -> None:
        """Check content as it is read (page checksums). Called in worker threads, several at once.

        Args:
            item: the file, with `inspect` set.
            offset: of `data` in the file; a multiple of `inspect_block`.
            data: a multiple of `inspect_block` bytes, but for the end of the file.

        Raises:
            IntegrityError: the file on disk is damaged; the backup fails and names it.
        """
        return None

    inspect_block: int = 1

    @abstractmethod
    async def finish(self) -> BackupEnd:
        """End the copy and release the server. Called once, after all items have been read and stored.

        Raises:
            Retryable: the copy is worthless (a promotion in the middle, a lock lost); it must be started again.
        """


class BaseBackup(ABC):
    """Base backups of one instance."""

    on_replica: bool = True
    """Whether a replica can serve."""

    @abstractmethod
    def backup(self, ctx: InstanceContext, request: BackupRequest) -> AbstractAsyncContextManager[BackupSession]:
        """Begin a backup. Several at once on one server are not asked for."""

    @abstractmethod
    async def abandon(self, ctx: InstanceContext) -> None:
        """Release whatever an earlier, lost backup may still hold on the server. Called at start of the agent."""
