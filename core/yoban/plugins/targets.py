"""What a recovery should reach, and whether it can.

Core parses `RecoveryTarget` from a Database's `bootstrap.restore.target` and hands it to the engine; `value` means only
something to the engine. DESIGN section 3 lists the types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from yoban.plugins.positions import Fork, Position


class TargetType(Enum):
    """Kinds of recovery target."""

    LATEST = "latest"
    """Everything that is proven to be stored on the chosen line."""
    TIME = "time"
    POSITION = "position"
    TRANSACTION = "transaction"
    NAME = "name"
    """A named point that somebody made in the log beforehand."""
    IMMEDIATE = "immediate"
    """The first consistent moment of the base backup."""


@dataclass(frozen=True, slots=True)
class RecoveryTarget:
    """A wish: what to recover to.

    Attributes:
        type: kind of target.
        value: the engine's text; for TIME an RFC 3339 time with an offset; "" for LATEST and IMMEDIATE.
        exclusive: stop just before the target instead of just after it.
        line: line to follow; "" means the ancestors of the newest term.
        backup: id of the base backup to start from; "" means the newest that can reach the target.
        skip: transactions to leave out, where the engine has the capability.
    """

    type: TargetType = TargetType.LATEST
    value: str = ""
    exclusive: bool = False
    line: str = ""
    backup: str = ""
    skip: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What is known of a base backup when a target is matched with it.

    Attributes:
        id: its id in the repository.
        line: line of the log on which it ended.
        begin, end: positions between which it was copied; it is consistent from `end` on.
        begin_time, end_time: UTC times of the same.
        facts: what the engine noted in `BackupEnd.facts`.
    """

    id: str
    line: str
    begin: Position
    end: Position
    begin_time: datetime
    end_time: datetime
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """What can be recovered now, proven from what is in the object store.

    Attributes:
        start: earliest moment: the end of the oldest usable base backup.
        end: latest moment M up to which every acknowledged commit is stored.
        last_commit: time of the last commit stored, None when none was seen; at most `end`.
        position: place up to which the log is stored without a gap.
        line: line of that position.
        forks: forks of the chosen line, oldest first.
    """

    start: datetime
    end: datetime
    last_commit: datetime | None
    position: Position
    line: str
    forks: tuple[Fork, ...] = ()


class Reach(Enum):
    """Whether a base backup can serve a target."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    """Only replay can tell (a name, a transaction without a number in the facts)."""


class Targets(ABC):
    """Facet, pure: parse and check recovery targets."""

    supported: frozenset[TargetType]
    """Types that this engine can recover to."""

    @abstractmethod
    def parse(self, target: RecoveryTarget) -> RecoveryTarget:
        """Return the target with `value` in canonical form.

        Raises:
            InvalidInput: the value is malformed; the message shows the expected form. A time without an offset is one.
            Unsupported: the type is not supported, or `exclusive` or `skip` has no meaning for it.
        """

    @abstractmethod
    def reach(self, target: RecoveryTarget, backup: BackupFacts, forks: Sequence[Fork]) -> Reach:
        """Tell whether recovery of `target` can start from `backup`, which it can only if `backup` ended before it."""

    @abstractmethod
    def check(self, target: RecoveryTarget, window: Window) -> None:
        """Check a parsed target against the window.

        Raises:
            InvalidInput: the target lies outside; the message names the window's start and end.
        """
