"""Marks: the latest moment up to which everything acknowledged is stored, one object a term, rewritten as it moves on.

Guarantees: what a mark says was true when it was written, if its writer stored the log before the mark. Does not order
writers: the mark of the newest term counts.
"""

from __future__ import annotations

from datetime import datetime

from yoban.model.instance import Struct
from yoban.repository.access import Access
from yoban.repository.codec import FORMAT, seal_struct, unseal_struct
from yoban.repository.layout import Layout, number, parse_number

KIND = "mark"


class Mark(Struct):
    """How far the log is stored.

    Attributes:
        term, instance: who wrote it.
        time: the moment M (UTC): every commit acknowledged by then lies before `position`.
        position: stored without a gap up to here, on `line`.
        last_commit: UTC time of the last commit by then, None when none is known.
        segment: segment that holds `position`; `flushed` bytes of it are stored (0: none, the one before is whole).
        segment_bytes: size of a full segment, 0 when segments have no fixed size.
        written: when it was written (UTC).
    """

    format: int = FORMAT
    term: int
    instance: str
    time: datetime
    position: str
    last_commit: datetime | None = None
    line: str
    segment: str = ""
    flushed: int = 0
    segment_bytes: int = 0
    written: datetime


class Marks:
    """The marks of one repository."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout

    async def write(self, mark: Mark) -> None:
        """Store the mark of its term, replacing the one before."""
        await self._access.put(self._layout.mark(mark.term), seal_struct(KIND, number(mark.term), mark))

    async def read(self, term: int) -> Mark | None:
        """Return the mark of a term, None when it is proven absent. Raises IntegrityError when it is damaged."""
        key = self._layout.mark(term)
        blob = await self._access.read(key)
        return None if blob is None else unseal_struct(blob, key, KIND, number(term), Mark)

    async def newest(self) -> Mark | None:
        """Return the mark of the newest term that has one, None when there is none."""
        terms = [
            term
            for info in await self._access.listed(self._layout.marks)
            if (term := parse_number(info.key.rsplit("/", 1)[1])) is not None
        ]
        return await self.read(max(terms)) if terms else None
