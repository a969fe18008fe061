"""What the contents of a repository prove: the recoverable window, which base backups are usable, and where the log has gaps.

Pure. Guarantees: a moment lies in the window only if a complete base backup and every segment from it to that moment are
listed, across forks. Does not read segments: whether their bytes are intact is told by `verify` and by a restore.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from yoban.errors import InvalidInput
from yoban.plugins import Fork, LogSource, Order, Position, Positions, SegmentKind, Window
from yoban.plugins.lines import Hole, Proof, StoredLine, absent, follow, goes_on, runs
from yoban.repository.catalog import Catalog
from yoban.repository.manifest import BackupSummary
from yoban.repository.marks import Mark
from yoban.repository.tail import cover
from yoban.repository.terms import forks_of


@dataclass(frozen=True, slots=True)
class Gap:
    """Segments of a line that are not stored: first, last, and how many from the one to the other.

    They are told by name, or by what the name begins with and `*` where that is all that is known.
    """

    line: str
    first: str
    last: str
    missing: int


@dataclass(frozen=True, slots=True)
class BackupUse:
    """Whether a base backup can be restored, and whether the log leads from it to the window's end.

    Attributes:
        summary: the backup.
        restorable: it and the log that it needs to be consistent are there.
        usable: restorable, and every moment from its end to the window's end can be reached.
        why: why not, a sentence; "" when usable.
    """

    summary: BackupSummary
    restorable: bool
    usable: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What can be recovered.

    Attributes:
        window: from the oldest usable backup to the newest proven moment; None when nothing can be restored.
        backups: all of them, oldest first.
        gaps: segments missing between the oldest backup of the chosen line and its end.
        forks: forks of the window's line, oldest first.
        problem: why the window ends before the newest mark, or is empty; "" when all is well.
    """

    window: Window | None
    backups: tuple[BackupUse, ...] = ()
    gaps: tuple[Gap, ...] = ()
    forks: tuple[Fork, ...] = ()
    problem: str = ""


def survey(catalog: Catalog, log: LogSource | None, positions: Positions) -> Survey:
    """Draw the conclusions from a catalogue.

    Args:
        catalog: as read.
        log: the engine's facet for names of segments; None for an engine without a log.
        positions: the engine's facet for positions.
    """
    mark = catalog.mark if log is not None else None
    if log is None or mark is None:
        uses = tuple(_alone(summary, log, catalog) for summary in catalog.backups)
        line = uses[-1].summary.line if uses else ""
        forks = forks_of(catalog.terms, line)
        problem = "" if log is None else "no log has been stored yet, so only base backups can be restored"
        return Survey(_points(uses, forks, log), uses, (), forks, problem)
    forks = forks_of(catalog.terms, mark.line)
    chain = (_Overlapping if log.lines_overlap else _Chain)(catalog, log, positions, mark, forks)
    uses = tuple(chain.use(summary) for summary in catalog.backups)
    usable = [use.summary for use in uses if use.usable]
    gaps = chain.gaps()
    if not usable:
        restorable = any(use.restorable for use in uses)
        problem = gaps_in_words(gaps) if restorable or gaps else "there is no base backup that can be restored"
        return Survey(_points(uses, forks, log), uses, gaps, forks, problem)
    newest = max(usable, key=lambda summary: summary.end_time)
    position, end = Position(mark.position), mark.time
    if newest.line == mark.line and _less(positions, mark, newest, forks):
        position, end = Position(newest.end_position), max(end, newest.end_time)
    start = min(summary.end_time for summary in usable)
    window = Window(start, max(start, end), mark.last_commit, position, mark.line, forks)
    return Survey(window, uses, gaps, forks)


def _less(positions: Positions, mark: Mark, backup: BackupSummary, forks: Sequence[Fork]) -> bool:
    return positions.compare(Position(mark.position), Position(backup.end_position), forks) is Order.LESS


def gaps_in_words(gaps: Sequence[Gap]) -> str:
    """Return a sentence about gaps, "" when there are none."""
    if not gaps:
        return ""
    first = gaps[0]
    span = first.first if first.missing == 1 else f"{first.first} to {first.last} ({first.missing})"
    more = f", and {len(gaps) - 1} more gaps" if len(gaps) > 1 else ""
    return f"the log has a gap: {span} of line {first.line} is not stored{more}"


def _points(uses: Sequence[BackupUse], forks: tuple[Fork, ...], log: LogSource | None) -> Window | None:
    """The window when only the ends of base backups can be reached."""
    restorable = [use.summary for use in uses if use.restorable]
    if not restorable:
        return None
    newest = max(restorable, key=lambda summary: summary.end_time)
    start = newest.end_time if log is not None else min(summary.end_time for summary in restorable)
    return Window(start, newest.end_time, None, Position(newest.end_position), newest.line, forks)


def _alone(summary: BackupSummary, log: LogSource | None, catalog: Catalog) -> BackupUse:
    """Judge a backup by itself: is the log there that makes it consistent?"""
    missing = _own_missing(summary, log, catalog)
    if missing:
        gap = Gap(summary.line, missing[0], missing[-1], len(missing))
        return BackupUse(summary, False, False, gaps_in_words([gap]))
    return BackupUse(summary, True, log is None)


def _own_missing(summary: BackupSummary, log: LogSource | None, catalog: Catalog) -> Sequence[str]:
    if log is None or not summary.first_segment:
        return ()
    names = catalog.lines.get(summary.line, ())
    return absent(names, summary.first_segment, summary.last_segment, log, summary.segment_bytes)


class _Chain:
    """The lines that lead to the mark, and which of the segments that are needed on them are missing."""

    def __init__(
        self, catalog: Catalog, log: LogSource, positions: Positions, mark: Mark, forks: tuple[Fork, ...]
    ) -> None:
        self._catalog = catalog
        self._log = log
        self._positions = positions
        self._mark = mark
        self._forks = forks
        self._lines = [fork.parent for fork in forks] + [mark.line]
        self._left = {fork.parent: fork for fork in forks}  # where the chain leaves each line but the last
        self._known: dict[str, StoredLine] = {}
        self._missing = self._find()

    def _find(self) -> dict[str, list[str]]:
        missing: dict[str, list[str]] = {}
        reached = False
        histories = self._histories()
        for index, line in enumerate(self._lines):
            firsts = [self._first(backup) for backup in self._catalog.backups if backup.line == line]
            start = min(firsts) if firsts else ""
            if reached and index:
                start = self._log.segment_of(line, self._forks[index - 1].position, (), self._mark.segment_bytes)
            if not start:
                missing[line] = []
                continue
            missing[line] = self._absent(line, start)
            if reached and index and histories and line not in histories:
                missing[line].insert(0, f"the history of line {line}")
            reached = True
        return missing

    def _first(self, summary: BackupSummary) -> str:
        """The segment from which on the log goes on after a backup, or is needed to make it consistent."""
        return summary.first_segment or self._log.segment_of(
            summary.line, Position(summary.end_position), (), self._mark.segment_bytes
        )

    def _histories(self) -> set[str]:
        """Lines whose history file is stored; empty for an engine that has no such files."""
        found: set[str] = set()
        for names in self._catalog.lines.values():
            for name in names:
                try:
                    known = self._log.classify(name)
                except InvalidInput:
                    continue
                if known.kind is SegmentKind.HISTORY:
                    found.add(known.line)
        return found

    def _absent(self, line: str, start: str) -> list[str]:
        size = self._mark.segment_bytes
        fork = self._left.get(line)
        end = (self._log.segment_of(line, fork.position, (), size) if fork else self._mark.segment) or start
        try:
            names = absent(self._catalog.lines.get(line, ()), start, end, self._log, size)
        except InvalidInput:  # the first backup is newer than the mark
            return []
        return [name for name in names if not self._covered(line, name, start)]

    def _covered(self, line: str, name: str, first: str) -> bool:
        """Tell whether a segment that is not stored whole on its line is not needed whole there."""
        size = self._mark.segment_bytes
        fork = self._left.get(line)
        if fork is not None and name == self._log.segment_of(line, fork.position, (), size):
            return goes_on(self._forks[self._lines.index(line) :], self._stored, self._log, size)
        before = next((known for known in self._forks if known.line == line), None)
        if before is not None and name == first:
            twin = self._log.segment_of(before.parent, before.position, (), size)
            if twin in self._catalog.lines.get(before.parent, ()) and name != self._mark.segment:
                return True
        if line == self._mark.line and name == self._mark.segment:
            return self._mark.flushed <= self._reach(line, name)
        return False

    def _reach(self, line: str, segment: str) -> int:
        return cover(chunk for chunk in self._catalog.tails if (chunk.line, chunk.segment) == (line, segment)).end

    def _stored(self, line: str) -> StoredLine:
        if line not in self._known:
            size = self._mark.segment_bytes
            whole = [name for name in self._catalog.lines.get(line, ()) if self._full(name)]
            segments = {chunk.segment for chunk in self._catalog.tails if chunk.line == line}
            tails = {segment: reach for segment in segments if (reach := self._reach(line, segment))}
            stretches = runs(whole, lambda name: self._log.successor(name, size))
            self._known[line] = StoredLine(line, stretches, tails, tuple(sorted({*whole, *tails})))
        return self._known[line]

    def _full(self, name: str) -> bool:
        try:
            return self._log.classify(name).kind is SegmentKind.FULL
        except InvalidInput:
            return False

    def gaps(self) -> tuple[Gap, ...]:
        """The missing segments, joined to runs where they follow each other."""
        found: list[Gap] = []
        for line in self._lines:
            run: list[str] = []
            for name in self._missing[line]:
                if run and not self._follows(run[-1], name):
                    found.append(Gap(line, run[0], run[-1], len(run)))
                    run = []
                run.append(name)
            if run:
                found.append(Gap(line, run[0], run[-1], len(run)))
        return tuple(found)

    def _follows(self, a: str, b: str) -> bool:
        try:
            return self._log.successor(a, self._mark.segment_bytes) == b
        except InvalidInput:
            return False

    def use(self, summary: BackupSummary) -> BackupUse:
        """Judge one backup."""
        if own := _own_missing(summary, self._log, self._catalog):
            return BackupUse(summary, False, False, gaps_in_words([Gap(summary.line, own[0], own[-1], len(own))]))
        if summary.line not in self._lines:
            return BackupUse(summary, True, False, f"its line {summary.line} does not lead to line {self._mark.line}")
        fork = self._left.get(summary.line)
        if fork is not None:
            order = self._positions.compare(Position(summary.end_position), fork.position, self._forks)
            if order not in (Order.LESS, Order.EQUAL):
                return BackupUse(summary, True, False, f"it ended after line {fork.line} left its line")
        name = self._missing_after(summary)
        if name:
            return BackupUse(summary, True, False, f"the log after it has a gap: {name} is not stored")
        return BackupUse(summary, True, True)

    def _missing_after(self, summary: BackupSummary) -> str:
        """The first segment that is missing between a backup and the mark, "" when none is."""
        at = self._lines.index(summary.line)
        own = self._missing[summary.line]
        cut = own[bisect_left(own, self._first(summary)) :]
        later = [name for line in self._lines[at + 1 :] for name in self._missing[line]]
        return next(iter((*cut, *later)), "")


class _Overlapping(_Chain):
    """The same for lines whose segments are their own servers': each backup has a way of its own through them."""

    def _find(self) -> dict[str, list[str]]:
        missing: dict[str, list[str]] = {line: [] for line in self._lines}
        for summary in self._catalog.backups:
            if summary.line in missing and (hole := self._follow(summary)) is not None:
                missing[hole.line] = sorted({*missing[hole.line], hole.missing})
        return missing

    def _follow(self, summary: BackupSummary) -> Hole | None:
        behind = self._forks[self._lines.index(summary.line) :]
        end, size = Position(summary.end_position), self._mark.segment_bytes
        way = follow(summary.line, end, behind, self._stored, self._proof, self._log, self._positions, size)
        return way if isinstance(way, Hole) else None

    def _missing_after(self, summary: BackupSummary) -> str:
        hole = self._follow(summary)
        return "" if hole is None else hole.missing

    def _proof(self, line: str) -> Proof | None:
        marks = [*self._catalog.marks, self._mark]
        mark = max((mark for mark in marks if mark.line == line), key=lambda mark: mark.term, default=None)
        return None if mark is None else Proof(Position(mark.position), mark.segment, mark.flushed)
