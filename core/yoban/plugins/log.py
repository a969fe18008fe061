"""Facet of the agent, optional: the log, as files that grow.

An engine that leaves this facet out has no point-in-time recovery: its Databases can be restored to base backups only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from yoban.plugins.context import InstanceContext
from yoban.plugins.positions import Position


class SegmentKind(Enum):
    """What a file of the log is."""

    FULL = "full"
    """A complete segment."""
    PARTIAL = "partial"
    """The last, incomplete segment of a line that ended."""
    HISTORY = "history"
    """Where lines left each other, in the engine's own form."""
    MARKER = "marker"
    """A note of the engine's beside its log (a backup label); kept, never needed."""


@dataclass(frozen=True, slots=True)
class SegmentName:
    """A file name of the log, understood: its line and kind. Names of FULL segments of a line sort in log order."""

    name: str
    line: str
    kind: SegmentKind


@dataclass(frozen=True, slots=True)
class Segment:
    """A complete file of the log on this instance's volume."""

    name: SegmentName
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class LogTail:
    """The growing end of the log on a primary, observed at one moment.

    Attributes:
        line: line being written.
        segment: name of the segment being written.
        path: its file.
        flushed: bytes of that file that are flushed; the file may hold old bytes beyond.
        position: flushed place.
        observed_at: UTC, read *before* `position`: every commit acknowledged by then lies before `position`.
        last_commit: UTC time of the last commit by then; None when none is known.
        earlier: complete segments before `segment` that may not be stored yet, oldest first.
    """

    line: str
    segment: str
    path: Path
    flushed: int
    position: Position
    observed_at: datetime
    last_commit: datetime | None
    earlier: tuple[str, ...] = ()


class LogSource(ABC):
    """The log of one instance."""

    @abstractmethod
    def classify(self, name: str) -> SegmentName:
        """Understand a file name. Pure.

        Raises:
            InvalidInput: not a name of this engine's log.
        """

    @abstractmethod
    async def segment_bytes(self, ctx: InstanceContext) -> int:
        """Size of a full segment in bytes; 0 when segments have no fixed size. Read from the data, server up or not."""

    @abstractmethod
    async def pending(self, ctx: InstanceContext) -> Sequence[Segment]:
        """Complete files that the server wants stored, in log order (histories first). Empty when there is none."""

    @abstractmethod
    async def inspect(self, ctx: InstanceContext, segment: Segment) -> None:
        """Check that the file belongs to this data and is the segment that its name says.

        Raises:
            IntegrityError: it is another server's, or damaged; it is then not stored.
        """

    @abstractmethod
    async def settled(self, ctx: InstanceContext, segment: Segment) -> None:
        """Note that the file is stored, so that the server may recycle it. May be called again. No-op where the server
        asks for each file by command and takes the answer as that."""

    @abstractmethod
    async def tail(self, ctx: InstanceContext) -> LogTail | None:
        """Observe the growing end. None when this server does not write a log of its own now (a replica)."""

    @abstractmethod
    def pads_to(self, segment_bytes: int) -> int:
        """Size to which a joined tail must be zero-padded before replay; 0 when it is replayed as it is. Pure."""

    @abstractmethod
    def successors(self, name: str, segment_bytes: int, count: int) -> Sequence[str]:
        """Names of the `count` full segments that follow `name` on its line. Pure; for prefetch and gap checks."""

    @abstractmethod
    def between(self, first: str, last: str, segment_bytes: int) -> Sequence[str]:
        """Names of full segments from `first` to `last`, both included, on the line of `last`. Pure.

        At most 1,000,000 names. Raises InvalidInput when `first` lies after `last`.
        """

    @abstractmethod
    def segment_of(self, line: str, position: Position, segment_bytes: int) -> str:
        """Name of the segment on `line` that holds the byte *before* `position`. Pure."""

    async def end_segment(self, ctx: InstanceContext, segment: str) -> None:
        """On a primary: when `segment` is the one being written, end it, so that it becomes complete and pending.

        Asked for at the end of a base backup, whose last segment must be stored whole. Does nothing when the segment is
        complete already. The default does nothing: right for an engine whose segments need not be whole.

        Raises:
            Unavailable: the server does not answer.
        """
        return None

    @abstractmethod
    async def retained_bytes(self, ctx: InstanceContext) -> int:
        """Bytes of log that the volume keeps now because they are not stored yet."""
