"""What is in a repository now: one listing, and the small objects that it names.

Guarantees: what a mark says is looked for in a listing that began after the mark was read. Immutable objects (manifests,
terms) are read once in the life of a `CatalogReader`. Objects that cannot be read are told by name and do not hide the rest.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from yoban.errors import NotFound, Terminal
from yoban.plugins import ObjectInfo
from yoban.repository.access import Access
from yoban.repository.backups import Backups
from yoban.repository.holds import Hold, read_hold
from yoban.repository.identity import Identity, IdentityObject
from yoban.repository.layout import Layout, decode, parse_number, parse_tail
from yoban.repository.manifest import BackupSummary
from yoban.repository.marks import Mark, Marks
from yoban.repository.tail import TailChunk
from yoban.repository.terms import TermRecord, Terms

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Catalog:
    """A repository as listed.

    Attributes:
        root: of the repository.
        taken: when the listing began (UTC).
        identity: owner; None when there is none.
        terms: reigns, oldest first.
        mark: of the newest term that has one.
        marks: of all terms that have one, oldest first.
        backups: completed base backups, by end time, oldest first.
        lines: names of what is stored of the log, by line, sorted.
        tails: chunks of segments that are not complete.
        incomplete: ids without a manifest: being made, or broken off.
        running: notes of backups being made, by id.
        restores: notes of restores under way.
        expired: when each backup that is marked for removal was marked (UTC).
        damaged: objects that could not be read, by key, and why.
        bytes, objects: stored, in all.
    """

    root: str
    taken: datetime
    identity: Identity | None = None
    terms: tuple[TermRecord, ...] = ()
    mark: Mark | None = None
    marks: tuple[Mark, ...] = ()
    backups: tuple[BackupSummary, ...] = ()
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tails: tuple[TailChunk, ...] = ()
    incomplete: tuple[str, ...] = ()
    running: Mapping[str, Hold] = field(default_factory=dict)
    restores: tuple[Hold, ...] = ()
    expired: Mapping[str, datetime] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    bytes: int = 0
    objects: int = 0


class CatalogReader:
    """Reads the catalogue of one repository, again and again."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout
        self._backups = Backups(access, layout)
        self._terms = Terms(access, layout)
        self._summaries: dict[str, tuple[str, BackupSummary]] = {}
        self._records: dict[int, TermRecord] = {}
        self._marks: dict[int, tuple[str, Mark]] = {}

    async def read(self) -> Catalog:
        """Read the catalogue.

        Raises:
            Retryable: the store could not be listed, or an object that it lists could not be read now.
        """
        damaged: dict[str, str] = {}
        mark = await self._noting(damaged, self._layout.marks, Marks(self._access, self._layout).newest)
        taken = self._access.clock.now()
        infos = await self._access.listed(self._layout.everything)
        if mark is not None and not self._has(infos, mark):
            # A segment was stored, and its chunks removed, between the listing's pages on log and on tail.
            infos = await self._access.listed(self._layout.everything)
        return await self._assemble(infos, taken, mark, damaged)

    def _has(self, infos: list[ObjectInfo], mark: Mark) -> bool:
        if not mark.segment:
            return True
        whole = self._layout.segment(mark.line, mark.segment)
        return any(
            info.key == whole
            or ((tail := parse_tail(self._layout.below(info.key))) is not None and tail.segment == mark.segment)
            for info in infos
        )

    async def _noting(self, damaged: dict[str, str], key: str, call: Callable[[], Awaitable[T | None]]) -> T | None:
        try:
            return await call()
        except NotFound:  # removed since it was listed
            return None
        except Terminal as error:
            damaged[error.object or key] = str(error)
            return None

    async def _assemble(
        self, infos: list[ObjectInfo], taken: datetime, mark: Mark | None, damaged: dict[str, str]
    ) -> Catalog:
        lines: dict[str, list[str]] = {}
        tails: list[TailChunk] = []
        folders: dict[str, dict[str, ObjectInfo]] = {}
        terms: list[TermRecord] = []
        older: list[tuple[int, ObjectInfo]] = []
        restores: list[Hold] = []
        expired: dict[str, datetime] = {}
        identity: Identity | None = None
        for number, info in enumerate(infos):
            if number % 1000 == 999:
                await asyncio.sleep(0)  # a long log must not hold up others
            match self._layout.below(info.key):
                case ("identity",):
                    read = IdentityObject(self._access, self._layout).read
                    identity = await self._noting(damaged, info.key, read)
                case ("terms", text) if (term := parse_number(text)) is not None:
                    record = await self._noting(damaged, info.key, lambda term=term: self._term(term))  # type: ignore[misc]
                    terms.extend([record] if record is not None else [])
                case ("marks", text) if (term := parse_number(text)) is not None and mark is not None:
                    if term != mark.term:
                        older.append((term, info))
                case ("log", line, name):
                    lines.setdefault(decode(line), []).append(decode(name))
                case ("tail", *_) as parts if (chunk := parse_tail(parts)) is not None:
                    tails.append(chunk)
                case ("backups", folder, *rest):
                    folders.setdefault(decode(folder), {})["/".join(rest)] = info
                case ("restores", _):
                    hold = await self._noting(damaged, info.key, lambda key=info.key: read_hold(self._access, key))  # type: ignore[misc]
                    restores.extend([hold] if hold is not None else [])
                case ("expired", folder):
                    expired[decode(folder)] = info.modified
        marks = await self._read_marks(older, damaged)
        backups, incomplete, running = await self._read_backups(folders, damaged)
        return Catalog(
            root=self._layout.root,
            taken=taken,
            identity=identity,
            terms=tuple(sorted(terms, key=lambda record: record.term)),
            mark=mark,
            marks=tuple(sorted([*marks, *([mark] if mark is not None else [])], key=lambda item: item.term)),
            backups=tuple(sorted(backups, key=lambda summary: (summary.end_time, summary.id))),
            lines={line: tuple(sorted(names)) for line, names in lines.items()},
            tails=tuple(
                sorted(tails, key=lambda chunk: (chunk.line, chunk.term, chunk.segment, chunk.start, chunk.end))
            ),
            incomplete=tuple(sorted(incomplete)),
            running=running,
            restores=tuple(restores),
            expired=expired,
            damaged=damaged,
            bytes=sum(info.size for info in infos),
            objects=len(infos),
        )

    async def _read_backups(
        self, folders: dict[str, dict[str, ObjectInfo]], damaged: dict[str, str]
    ) -> tuple[list[BackupSummary], list[str], dict[str, Hold]]:
        backups: list[BackupSummary] = []
        incomplete: list[str] = []
        running: dict[str, Hold] = {}
        for backup, objects in folders.items():
            manifest = objects.get("manifest")
            if manifest is not None:
                summary = await self._noting(
                    damaged,
                    manifest.key,
                    lambda backup=backup, manifest=manifest: self._summary(backup, manifest),  # type: ignore[misc]
                )
                backups.extend([summary] if summary is not None else [])
                continue
            incomplete.append(backup)
            if (note := objects.get("running")) is not None:
                hold = await self._noting(damaged, note.key, lambda key=note.key: read_hold(self._access, key))  # type: ignore[misc]
                if hold is not None:
                    running[backup] = hold
        self._summaries = {backup: known for backup, known in self._summaries.items() if backup in folders}
        return backups, incomplete, running

    async def _term(self, term: int) -> TermRecord | None:
        if term not in self._records:
            record = await self._terms.read(term)
            if record is None:
                return None
            self._records[term] = record
        return self._records[term]

    async def _read_marks(self, found: list[tuple[int, ObjectInfo]], damaged: dict[str, str]) -> list[Mark]:
        """The marks of older terms: nobody writes them any more, so each is read again only when it changed."""
        marks: list[Mark] = []
        for term, info in found:
            version = f"{info.etag}/{info.size}/{info.modified.isoformat()}"
            known = self._marks.get(term)
            if known is None or known[0] != version:
                read = functools.partial(Marks(self._access, self._layout).read, term)
                mark = await self._noting(damaged, info.key, read)
                if mark is None:
                    continue
                known = self._marks[term] = (version, mark)
            marks.append(known[1])
        return marks

    async def _summary(self, backup: str, manifest: ObjectInfo) -> BackupSummary:
        version = f"{manifest.etag}/{manifest.size}/{manifest.modified.isoformat()}"
        known = self._summaries.get(backup)
        if known is None or known[0] != version:
            known = (version, await self._backups.summary(backup))
            self._summaries[backup] = known
        return known[1]
