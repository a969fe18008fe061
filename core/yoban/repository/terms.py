"""Term records: who reigned when, and where each reign left the one before.

Guarantees: a term is written once; two instances that both believe to have it cannot both write it. Recovery follows these
records and drops what lies past a fork.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from yoban.errors import OwnedByAnother
from yoban.model.instance import Struct
from yoban.plugins import Fork, Position
from yoban.repository.access import Access
from yoban.repository.codec import FORMAT, seal_struct, unseal_struct
from yoban.repository.layout import Layout, number

KIND = "term"


class TermRecord(Struct):
    """One reign.

    Attributes:
        term: its number, from 1.
        instance: who reigns.
        line: line of the log that it writes.
        parent: line that it left, "" for the first.
        position: last place shared with the parent, "" for the first.
        time: when it was written (UTC).
        incarnation: life of the data.
        began: by which nothing had been written on the line yet (UTC); None when that is not known. What was committed later
            is proven by marks only, however late the record was written.
        ancestors: forks that lead to the parent, oldest first, where the server knew them. They count for lines of which no
            record tells: of a reign that ended before it could be recorded.
    """

    format: int = FORMAT
    term: int
    instance: str
    line: str
    parent: str = ""
    position: str = ""
    time: datetime
    incarnation: str = ""
    began: datetime | None = None
    ancestors: tuple[Fork, ...] = ()


class Terms:
    """The term records of one repository."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout

    async def write(self, record: TermRecord) -> TermRecord:
        """Record a reign. The same instance, line and fork again returns the record that is stored.

        Raises:
            OwnedByAnother: the term was recorded by somebody else, or with another fork (reason `TermTaken`).
        """
        key = self._layout.term(record.term)
        if await self._access.create(key, seal_struct(KIND, number(record.term), record)):
            return record
        found = await self.read(record.term)
        if found is not None and _same(found, record):
            return found
        cause = f"it is {found.instance}'s on line {found.line}" if found else "it appeared and went again"
        raise OwnedByAnother(
            f"term {record.term} cannot be recorded by {record.instance}", object=key, cause=cause, reason="TermTaken"
        )

    async def read(self, term: int) -> TermRecord | None:
        """Return a record, None when it is proven absent. Raises IntegrityError when it is damaged."""
        key = self._layout.term(term)
        blob = await self._access.read(key)
        return None if blob is None else unseal_struct(blob, key, KIND, number(term), TermRecord)

    async def all(self) -> tuple[TermRecord, ...]:
        """Return all records, oldest first. Raises IntegrityError when one is damaged."""
        found: list[TermRecord] = []
        for info in await self._access.listed(self._layout.terms):
            term = int(info.key.rsplit("/", 1)[1])
            record = await self.read(term)
            if record is not None:
                found.append(record)
        return tuple(found)


def _same(a: TermRecord, b: TermRecord) -> bool:
    return (a.instance, a.line, a.parent, a.position) == (b.instance, b.line, b.parent, b.position)


def forks_of(terms: Iterable[TermRecord], line: str) -> tuple[Fork, ...]:
    """Return the forks that lead to `line`, oldest first. Pure.

    A line that no record knows has none. A line with several reigns is taken from the first of them; one that has no record
    of its own is taken from what later ones tell of it.
    """
    ordered = sorted(terms, key=lambda record: record.term, reverse=True)
    origin = {fork.line: fork for record in ordered for fork in record.ancestors}
    origin |= {record.line: Fork(record.line, record.parent, Position(record.position)) for record in ordered}
    forks: list[Fork] = []
    seen: set[str] = set()
    while line in origin and origin[line].parent and line not in seen:
        seen.add(line)
        left = origin[line]
        if left.parent == line:
            break
        forks.append(left)
        line = left.parent
    return tuple(reversed(forks))


def ages(terms: Iterable[TermRecord]) -> dict[str, tuple[int, int]]:
    """Return for each line that records tell of what sorts as the lines began. Pure.

    A line without a record of its own began after the reign before the one that first tells of it, and before that one.
    """
    found: dict[str, tuple[int, int]] = {}
    known = sorted(terms, key=lambda record: record.term)
    for record in known:
        found.setdefault(record.line, (record.term, 0))
    for record in known:
        for place, fork in enumerate(record.ancestors):
            found.setdefault(fork.line, (record.term, place - len(record.ancestors)))
    return found
