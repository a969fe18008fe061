"""What is known to be stored of one incarnation: backups, reigns, lines of the log and their proofs.

Plain facts, gathered by whoever listed the repository. Nothing here judges them; `yoban.domain.recoverability` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from yoban.plugins import BackupFacts, Position


@dataclass(frozen=True, slots=True)
class StoredBackup:
    """A base backup with a manifest.

    Attributes:
        facts: what targets are matched with.
        first_segment, last_segment: whole segments without which it is not consistent; "" for an engine without a log.
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
        started: UTC time of the promotion, None when not recorded.
        instance: who reigned.
    """

    number: int
    line: str
    parent: str = ""
    fork: Position | None = None
    started: datetime | None = None
    instance: str = ""


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
class StoredLine:
    """What is stored of one line.

    Attributes:
        line: its name.
        runs: first and last name of each stretch of whole segments without a gap, in log order.
        tails: bytes from the start of a segment that its chunks hold without a gap, by segment name.
    """

    line: str
    runs: tuple[tuple[str, str], ...] = ()
    tails: Mapping[str, int] = field(default_factory=dict)

    def whole(self, segment: str) -> bool:
        """Tell whether the whole segment is stored."""
        return self.run(segment) is not None

    def run(self, segment: str) -> tuple[str, str] | None:
        """Return the stretch that holds `segment`; names of a line's segments sort in log order."""
        return next((run for run in self.runs if run[0] <= segment <= run[1]), None)

    def holds(self, segment: str, flushed: int = 1) -> bool:
        """Tell whether at least `flushed` bytes of `segment` are stored, whole or as chunks."""
        return self.whole(segment) or self.tails.get(segment, 0) >= flushed

    @property
    def newest(self) -> str:
        """Name of the newest segment of which anything is stored, "" when nothing is."""
        return max([last for _, last in self.runs] + [name for name, size in self.tails.items() if size], default="")


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


def runs(names: Iterable[str], successors: Callable[[str, int], Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """Return the stretches without a gap among whole segments of one line.

    Args:
        names: names in log order; the same name twice counts once.
        successors: names of the segments that follow one (`LogSource.successors` with the segment size bound).
    """
    found: list[tuple[str, str]] = []
    expected: list[str] = []
    for name in names:
        if found and name == found[-1][1]:
            continue
        if expected and expected[-1] == name:
            expected.pop()
            found[-1] = (found[-1][0], name)
        else:
            found.append((name, name))
            expected.clear()
        if not expected:
            # Asked for in blocks: a long log is walked once, not once a segment.
            expected = list(reversed(successors(name, 256)))
    return tuple(found)
