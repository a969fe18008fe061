"""Which lines of the log lead to a moment, and how far what is stored of them reaches without a gap.

A chain is a line with its ancestors, oldest first. What lies past a fork on a parent is not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from yoban.domain.history import History, StoredBackup
from yoban.errors import InvalidInput
from yoban.plugins import Fork, LogSource, Order, Position, Positions
from yoban.plugins.lines import Hole, Proof, StoredLine, Stretch, first_missing, follow, goes_on


@dataclass(frozen=True, slots=True)
class Gap:
    """The first segment that is missing: on `line`, after `after` ("" when the beginning is missing).

    `missing` is its name, or what its name begins with and `*` where that is all that is known.
    """

    line: str
    missing: str
    after: str = ""

    def __str__(self) -> str:
        return f"log/{self.line}/{self.missing}"


@dataclass(frozen=True, slots=True)
class Extent:
    """How far an unbroken log reaches.

    Attributes:
        line, position: proven end of the log.
        at: latest moment up to which every acknowledged commit is stored.
        segment: last segment of `line` of which anything is stored, "" when nothing is.
        tail_bytes: bytes of `segment` held as chunks; 0 when it is stored whole.
        proven, flushed: segment and bytes of it at which `position` lies, behind which later commits may be stored; "" and 0
            when the end is not that of a mark.
        stretches: where lines overlap, what leads from the backup to the proven end, in replay order.
    """

    line: str
    position: Position
    at: datetime
    segment: str = ""
    tail_bytes: int = 0
    proven: str = ""
    flushed: int = 0
    stretches: tuple[Stretch, ...] = ()


def chain(history: History, line: str = "") -> tuple[tuple[str, ...], tuple[Fork, ...]]:
    """Return the lines that lead to `line` (default: that of the newest term), and the forks between them.

    A History without terms gives the line of its newest backup, or no line at all.

    Raises:
        InvalidInput: nothing is known of `line`.
    """
    terms = sorted(history.terms, key=lambda term: term.number)
    recorded = {term.line for term in terms}
    left = {fork.line: fork for term in terms for fork in term.ancestors if fork.line not in recorded}
    for term in terms:
        if term.parent not in ("", term.line) and term.fork is not None:
            left[term.line] = Fork(term.line, term.parent, term.fork)
    known = list(dict.fromkeys([*(term.line for term in terms), *history.lines, *_backup_lines(history)]))
    if not line:
        if not known:
            return (), ()
        line = terms[-1].line if terms else _backup_lines(history)[-1] if history.backups else known[-1]
    elif line not in known:
        raise InvalidInput(
            f"no log of line {line} is stored",
            object=f"line {line}",
            fix=f"choose one of {', '.join(known) or 'none: nothing is stored'}",
            reason="LineUnknown",
        )
    lines = [line]
    forks: list[Fork] = []
    while (fork := left.get(lines[0])) is not None and fork.parent not in lines:
        forks.insert(0, fork)
        lines.insert(0, fork.parent)
    return tuple(lines), tuple(forks)


def on_chain(backup: StoredBackup, lines: tuple[str, ...], forks: tuple[Fork, ...], positions: Positions) -> bool:
    """Tell whether the log of a chain continues a backup: it ended on one of its lines, before that line was left."""
    if backup.facts.line not in lines:
        return False
    left = next((fork for fork in forks if fork.parent == backup.facts.line), None)
    return left is None or positions.covers(left.position, backup.facts.end, forks)


def complete(history: History, backup: StoredBackup, log: LogSource | None) -> Gap | None:
    """Return the segment that a backup needs to be consistent and that is missing, None when it has everything.

    One that names no segments is consistent by itself.
    """
    if log is None or not backup.first_segment:
        return None
    stored = history.stored(backup.facts.line)
    return _missing(history, backup.facts.line, backup.first_segment, log, through=backup.last_segment) or (
        None if stored.whole(backup.last_segment) else Gap(backup.facts.line, backup.last_segment)
    )


def extent(
    history: History,
    backup: StoredBackup,
    lines: tuple[str, ...],
    forks: tuple[Fork, ...],
    log: LogSource | None,
    positions: Positions,
) -> Extent | Gap:
    """Follow the stored log from a backup of the chain to the chain's end, or to the first segment that is missing."""
    facts = backup.facts
    end = Extent(facts.line, facts.end, facts.end_time, backup.last_segment)
    if log is None:
        return end
    if gap := complete(history, backup, log):
        return gap
    if log.lines_overlap:
        return _overlapping(history, backup, lines, forks, log, positions)
    current = backup.first_segment or log.segment_of(facts.line, facts.end, (), history.segment_bytes)
    way = forks[lines.index(facts.line) :]
    for number, fork in enumerate(way):
        shared = log.segment_of(fork.parent, fork.position, (), history.segment_bytes)
        if gap := _missing(history, fork.parent, current, log, before=shared):
            return gap
        first = log.segment_of(fork.line, fork.position, (), history.segment_bytes)
        if goes_on(way[number:], history.stored, log, history.segment_bytes):
            current = first
        elif history.stored(fork.parent).holds(shared):
            # The last shared segment lies with the parent; the child's own begins after it.
            current = log.successor(first, history.segment_bytes)
        else:
            return Gap(fork.line, first)
        started = next((term.started for term in history.terms if term.line == fork.line and term.started), None)
        parent_mark = history.mark(fork.parent)
        at = started or (parent_mark.at if parent_mark else end.at)
        end = Extent(fork.line, fork.position, max(at, end.at), first)
    mark = history.mark(end.line)
    stored = history.stored(end.line)
    proven, flushed = "", 0
    if mark is not None and mark.segment >= current:
        if gap := _missing(history, end.line, current, log, before=mark.segment):
            return gap
        if not stored.holds(mark.segment, mark.flushed):
            run = stored.run(current)
            return Gap(end.line, mark.segment, run[1] if run else "")
        at = max(mark.at, end.at)
        order = positions.compare(mark.position, end.position, forks)
        ahead = order is Order.GREATER
        if ahead or order is Order.EQUAL:
            proven, flushed = mark.segment, mark.flushed
        # A mark at the very start of a segment needs nothing of it.
        last = mark.segment if stored.holds(mark.segment) else stored.newest
        end = Extent(end.line, mark.position if ahead else end.position, at, last)
    last = _reach(stored, max(current, end.segment), log, history.segment_bytes) or end.segment
    last = last if stored.holds(last) else ""
    tail = chunked(history, end.line, last)
    return Extent(end.line, end.position, end.at, last, tail, proven, flushed)


def fed(
    history: History,
    backup: StoredBackup,
    lines: tuple[str, ...],
    forks: tuple[Fork, ...],
    end: Extent,
    log: LogSource,
) -> tuple[str, ...]:
    """Return the names of what is replayed from a backup to the end that `extent` found, in replay order."""
    if log.lines_overlap:
        return tuple(
            name for part in end.stretches for name in history.stored(part.line).between(part.first, part.last)
        )
    facts, size = backup.facts, history.segment_bytes
    current = backup.first_segment or log.segment_of(facts.line, facts.end, (), size)
    names: list[str] = []
    way = forks[lines.index(facts.line) :]
    for number, fork in enumerate(way):
        shared = log.segment_of(fork.parent, fork.position, (), size)
        first = log.segment_of(fork.line, fork.position, (), size)
        own = history.stored(fork.parent).between(current, shared)
        if goes_on(way[number:], history.stored, log, size):
            names += [name for name in own if name != shared]
            current = first
        else:
            names += own
            current = log.successor(first, size)
    return (*names, *history.stored(end.line).between(current, end.segment))


def _overlapping(
    history: History,
    backup: StoredBackup,
    lines: tuple[str, ...],
    forks: tuple[Fork, ...],
    log: LogSource,
    positions: Positions,
) -> Extent | Gap:
    facts = backup.facts

    def proof(line: str) -> Proof | None:
        mark = history.mark(line)
        return None if mark is None else Proof(mark.position, mark.segment, mark.flushed)

    behind = forks[lines.index(facts.line) :]
    way = follow(facts.line, facts.end, behind, history.stored, proof, log, positions, history.segment_bytes)
    if isinstance(way, Hole):
        return Gap(way.line, way.missing, way.after)
    mark = history.mark(way.line)
    at = max(mark.at, facts.end_time) if mark is not None else facts.end_time
    last = way.stretches[-1] if way.stretches else None
    segment = last.last if last is not None and last.line == way.line else ""
    proven, flushed = "", 0
    if mark is not None and positions.compare(mark.position, way.position, forks) is Order.EQUAL:
        proven, flushed = mark.segment, mark.flushed
    tail = chunked(history, way.line, segment)
    return Extent(way.line, way.position, at, segment, tail, proven, flushed, way.stretches)


def _reach(stored: StoredLine, start: str, log: LogSource, size: int) -> str:
    """Return the last segment that hangs together with `start`, "" when nothing of that is stored.

    Beyond what is proven a hole is no damage: segments are stored several at once, in any order.
    """
    run = stored.run(start)
    if run is None:
        return start if stored.holds(start) else ""
    return stored.named(log.successor(run[1], size)) or run[1]


def chunked(history: History, line: str, segment: str) -> int:
    """Return the bytes of a segment that are held as chunks; 0 when it is stored whole, or nothing of it is."""
    stored = history.stored(line)
    return 0 if not segment or stored.whole(segment) else stored.tails.get(segment, 0)


def _missing(
    history: History, line: str, current: str, log: LogSource, *, before: str = "", through: str = ""
) -> Gap | None:
    """Return the first missing whole segment from `current` to the one before `before` (or through `through`)."""
    hole = first_missing(history.stored(line), current, log, history.segment_bytes, before=before, through=through)
    return None if hole is None else Gap(hole.line, hole.missing, hole.after)


def _backup_lines(history: History) -> list[str]:
    ordered = sorted(history.backups, key=lambda backup: backup.facts.end_time)
    return [backup.facts.line for backup in ordered]
