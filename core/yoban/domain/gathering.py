"""From a repository's catalogue to the facts that decisions are made of.

The catalogue is described by what is read of it, not by its class, so that this stays free of I/O: anything with these
attributes will do. Names of a line's segments are expected in log order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from yoban.domain.history import History, Mark, StoredBackup, Term
from yoban.errors import InvalidInput
from yoban.plugins import BackupFacts, Fork, LogSource, Position, SegmentKind
from yoban.plugins.lines import StoredLine, runs


class _Summary(Protocol):
    """A base backup with a manifest."""

    @property
    def first_segment(self) -> str: ...
    @property
    def last_segment(self) -> str: ...
    @property
    def segment_bytes(self) -> int: ...
    def matching(self) -> BackupFacts: ...


class _Term(Protocol):
    """A term record."""

    @property
    def term(self) -> int: ...
    @property
    def instance(self) -> str: ...
    @property
    def line(self) -> str: ...
    @property
    def parent(self) -> str: ...
    @property
    def position(self) -> str: ...
    @property
    def began(self) -> datetime | None: ...
    @property
    def ancestors(self) -> tuple[Fork, ...]: ...


class _Mark(Protocol):
    """A mark."""

    @property
    def term(self) -> int: ...
    @property
    def time(self) -> datetime: ...
    @property
    def position(self) -> str: ...
    @property
    def last_commit(self) -> datetime | None: ...
    @property
    def line(self) -> str: ...
    @property
    def segment(self) -> str: ...
    @property
    def flushed(self) -> int: ...
    @property
    def segment_bytes(self) -> int: ...


class _Chunk(Protocol):
    """A chunk of a growing segment: bytes [start, end)."""

    @property
    def line(self) -> str: ...
    @property
    def segment(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class _Catalogue(Protocol):
    """A repository's listing, understood."""

    @property
    def backups(self) -> Sequence[_Summary]: ...
    @property
    def terms(self) -> Sequence[_Term]: ...
    @property
    def mark(self) -> _Mark | None: ...
    @property
    def marks(self) -> Sequence[_Mark]: ...
    @property
    def lines(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def tails(self) -> Sequence[_Chunk]: ...


def history(catalogue: _Catalogue, log: LogSource | None) -> History:
    """Return the facts of a catalogue.

    Args:
        catalogue: what was listed.
        log: the engine's log facet; without it lines are left out. Only its pure methods are used.
    """
    marks = [catalogue.mark] if catalogue.mark is not None else []
    if log is not None and log.lines_overlap:
        # What was proven of a line while it was written tells from where the next one must go on.
        newest = catalogue.mark.term if catalogue.mark is not None else 0
        marks = [*(mark for mark in catalogue.marks if mark.term != newest), *marks]
    size = max(
        [
            *(summary.segment_bytes for summary in catalogue.backups),
            *(mark.segment_bytes for mark in marks),
        ],
        default=0,
    )
    return History(
        backups=tuple(
            StoredBackup(item.matching(), item.first_segment, item.last_segment) for item in catalogue.backups
        ),
        terms=tuple(
            Term(
                number=item.term,
                line=item.line,
                parent=item.parent,
                fork=Position(item.position) if item.parent and item.position else None,
                started=item.began,
                instance=item.instance,
                ancestors=item.ancestors,
            )
            for item in catalogue.terms
        ),
        marks=tuple(
            Mark(item.term, item.line, item.time, Position(item.position), item.segment, item.flushed, item.last_commit)
            for item in marks
        ),
        lines=_lines(catalogue, log, size) if log is not None else {},
        segment_bytes=size,
    )


def _lines(catalogue: _Catalogue, log: LogSource, size: int) -> dict[str, StoredLine]:
    names = list(dict.fromkeys([*catalogue.lines, *(chunk.line for chunk in catalogue.tails)]))
    found = {}
    for line in names:
        whole = [name for name in catalogue.lines.get(line, ()) if _is_whole(name, log)]
        tails = _tails([chunk for chunk in catalogue.tails if chunk.line == line])
        stretches = runs(whole, lambda name: log.successor(name, size))
        everything = sorted({*whole, *tails}) if tails else whole
        found[line] = StoredLine(line, stretches, tails, tuple(everything))
    return found


def _is_whole(name: str, log: LogSource) -> bool:
    try:
        return log.classify(name).kind is SegmentKind.FULL
    except InvalidInput:
        return False


def _tails(chunks: Iterable[_Chunk]) -> dict[str, int]:
    """Bytes from the start that the chunks of each segment hold without a gap."""
    reach: dict[str, int] = {}
    for chunk in sorted(chunks, key=lambda item: (item.segment, item.start, item.end)):
        have = reach.get(chunk.segment, 0)
        if chunk.start <= have:
            reach[chunk.segment] = max(have, chunk.end)
    return {segment: size for segment, size in reach.items() if size}
