"""What is known to be stored of one incarnation: backups, reigns, lines of the log and their proofs.

Plain facts, gathered by whoever listed the repository. Nothing here judges them; `yoban.domain.recoverability` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from yoban.plugins import BackupFacts, Fork, Position
from yoban.plugins.lines import StoredLine


@dataclass(frozen=True, slots=True)
class StoredBackup:
    """A base backup with a manifest.

    Attributes:
        facts: what targets are matched with.
        first_segment, last_segment: whole segments without which it is not consistent; "" when it is so by itself.
    """

    facts: BackupFacts
    first_segment: str = ""
    last_segment: str = ""


@dataclass(frozen=True, slots=True)
class Term:
    """One reign, as its record tells.

    Attributes:
        number: from 1, growing.
        line: line that is written in it.
        parent: line that it left; "" for the first.
        fork: last place that both lines share; None for the first.
        started: UTC, before its promotion; None when not recorded. By then nothing had been written on its line.
        instance: who reigned.
        ancestors: forks that lead to the parent, oldest first, as far as the record tells them.
    """

    number: int
    line: str
    parent: str = ""
    fork: Position | None = None
    started: datetime | None = None
    instance: str = ""
    ancestors: tuple[Fork, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest proof of one reign: at `at` every acknowledged commit lay before `position`, and that is stored.

    It holds as far as the log really is stored: up to `flushed` bytes of `segment` on `line`.
    """

    term: int
    line: str
    at: datetime
    position: Position
    segment: str
    flushed: int
    last_commit: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Everything stored of one incarnation. `segment_bytes` is 0 when segments have no fixed size."""

    backups: tuple[StoredBackup, ...] = ()
    terms: tuple[Term, ...] = ()
    marks: tuple[Mark, ...] = ()
    lines: Mapping[str, StoredLine] = field(default_factory=dict)
    segment_bytes: int = 0

    def stored(self, line: str) -> StoredLine:
        """Return what is stored of `line`, an empty one when nothing is."""
        return self.lines.get(line) or StoredLine(line)

    def mark(self, line: str) -> Mark | None:
        """Return the newest proof on `line`."""
        return max((mark for mark in self.marks if mark.line == line), key=lambda mark: mark.term, default=None)
