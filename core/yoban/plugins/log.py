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
        earlier: complete segments before `segment` that may not be stored yet, oldest first, and histories without which
            this line cannot be restored.
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
    """The log of one instance.

    Attributes:
        lines_overlap: how a line takes over from its parent. False: its first segment is the parent's last one up to the
            fork under a name of its own, so that each place lies in one segment of the chain. True: its segments are what
            its own server wrote; they may begin long before the fork, and hold again what the parent's hold.
    """

    lines_overlap: bool = False

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
        """Complete files that the server wants stored, in log order (histories first). Empty when there is none.

        Also asked for after a clean stop, before another instance takes over: what the server ended then is complete.
        """

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
    def successor(self, name: str, segment_bytes: int) -> str:
        """Return what the name of the full segment after `name` on its line begins with. Pure, and cheap.

        Where names follow from each other that is the whole name; else what is known of it beforehand, which sorts before
        the name itself and is common to no other. `name` may be such a beginning, too. By this and the names that are
        stored core proves that nothing is missing between two segments, and names what is.

        Raises:
            InvalidInput: not a full segment's name.
        """

    @abstractmethod
    def segment_of(self, line: str, position: Position, names: Sequence[str], segment_bytes: int) -> str:
        """Name of the segment on `line` that holds what lies just before `position`, or that begins there. Pure.

        Args:
            line: of the log.
            position: a place on it.
            names: full segments of the line of which anything is stored, in log order. An engine whose names follow from
                positions need not look at them, and always returns a name; others return one of these, or "" when all
                of them begin later.
            segment_bytes: size of a full segment.
        """

    async def superseded(self, ctx: InstanceContext, name: str) -> bool:
        """Whether a file that the server wants stored need not be: a later line, which this server follows or writes, holds
        all that counts in it. The server gets its yes, and the file is not stored; `pending` and `earlier` leave it out.

        Asked for each file that the server's archive command names. The default says no: right for an engine whose files
        hold nothing past a fork.
        """
        return False

    async def end_segment(self, ctx: InstanceContext, segment: str) -> None:
        """On a primary: when `segment` is the one being written, end it, so that it becomes complete and pending.

        Asked for at the end of a base backup, whose last segment must be stored whole. Does nothing when the segment is
        complete already. The default does nothing: right for an engine whose segments need not be whole.

        Raises:
            Unavailable: the server does not answer.
        """
        return None

    async def stored(self, ctx: InstanceContext, position: Position) -> None:
        """Take note that everything up to `position` is stored, or need not be: what lies wholly before it may be recycled.

        Told on every instance now and then, replicas too, the same or an earlier place again as well. Must be quick. The
        default does nothing: right where the server takes the answer to its archive command, or `settled`, for that.

        Raises:
            Unavailable: the server does not answer; it is told again.
        """
        return None

    async def relieve(self, ctx: InstanceContext) -> None:
        """The volume is full, and everything complete is stored: recycle all of that at once, whatever else waits for it.

        Called again every few seconds while there is little room; some was made just before the first time. On replicas,
        too. The default does nothing: right where the server recycles by itself, once it has room to run.

        Raises:
            Unavailable: the server does not answer.
        """
        return None

    @abstractmethod
    async def retained_bytes(self, ctx: InstanceContext) -> int:
        """Bytes of log that the volume keeps now because they are not stored yet."""
