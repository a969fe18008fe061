"""Compares what is stored with what was recorded.

Guarantees: with `deep`, every byte of every backup, segment and chunk is read and its checksum compared; without, presence
and size of what manifests name, and that nothing is there which nothing names. Changes nothing, and goes on after a finding.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum

from yoban.errors import IntegrityError, NotFound, Terminal
from yoban.plugins import ObjectInfo
from yoban.repository import encode, segments, tail
from yoban.repository.access import Access
from yoban.repository.backups import Backups
from yoban.repository.codec import Opener
from yoban.repository.layout import Layout, TailKey, decode, parse_tail
from yoban.repository.threads import in_thread


class FindingKind(Enum):
    """What is wrong with an object."""

    MISSING = "missing"
    DAMAGED = "damaged"
    STRAY = "stray"
    """Nothing names it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An object that is not as recorded."""

    key: str
    kind: FindingKind
    message: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Findings, and how many objects and stored bytes were looked at."""

    findings: tuple[Finding, ...]
    objects: int
    bytes: int


class Verifier:
    """Verifies one repository."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout
        self._backups = Backups(access, layout)
        self._findings: list[Finding] = []

    async def run(self, *, deep: bool = False) -> VerifyReport:
        """Verify everything.

        Args:
            deep: read and hash every object.

        Raises:
            Retryable: the store could not be listed, or an object that it lists could not be read now.
        """
        self._findings = []
        infos = {info.key: info for info in await self._access.listed(self._layout.everything)}
        backups: dict[str, list[str]] = {}
        for key in infos:
            match self._layout.below(key):
                case ("backups", folder, *_):
                    backups.setdefault(decode(folder), []).append(key)
                case ("log", line, name) if deep:
                    await self._read(key, segments.KIND, f"{decode(line)}/{decode(name)}")
                case ("tail", *_) as parts if deep and (chunk := parse_tail(parts)) is not None:
                    await self._read(key, tail.KIND, _tail_name(chunk))
        for backup, keys in backups.items():
            if self._layout.manifest(backup) in infos:
                await self._backup(backup, set(keys), infos, deep)
        return VerifyReport(tuple(self._findings), len(infos), sum(info.size for info in infos.values()))

    def _found(self, key: str, kind: FindingKind, message: str) -> None:
        self._findings.append(Finding(key, kind, message))

    async def _backup(self, backup: str, keys: set[str], infos: dict[str, ObjectInfo], deep: bool) -> None:
        manifest_key = self._layout.manifest(backup)
        try:
            manifest = await self._backups.manifest(backup)
        except NotFound:  # removed since it was listed
            return
        except Terminal as error:
            self._found(manifest_key, FindingKind.DAMAGED, str(error))
            return
        named = {manifest_key, self._layout.running(backup)}
        for entry in manifest.objects:
            key = self._layout.data(backup, entry.number)
            named.add(key)
            if key not in infos:
                self._found(key, FindingKind.MISSING, f"base backup {backup} needs it")
            elif infos[key].size != entry.size:
                self._found(key, FindingKind.DAMAGED, f"{infos[key].size} bytes where {entry.size} were stored")
            elif deep:
                name = f"{backup}/{entry.number:08d}"
                await self._read(key, encode.KIND, name, sha256=entry.sha256, size=entry.size)
        for key in sorted(keys - named):
            self._found(key, FindingKind.STRAY, f"base backup {backup} does not name it")

    async def _read(self, key: str, kind: str, name: str, *, sha256: str = "", size: int = -1) -> None:
        opener = Opener(key, kind, name, sha256=sha256, size=size)
        try:
            async with aclosing(self._access.stream(key)) as chunks:
                async for chunk in chunks:
                    await in_thread(opener.feed, chunk)
            opener.finish()
        except NotFound:  # removed since it was listed: retention, or a chunk whose segment is stored
            return
        except (IntegrityError, Terminal) as error:
            self._found(key, FindingKind.DAMAGED, str(error))


def _tail_name(chunk: TailKey) -> str:
    return f"{chunk.line}/{chunk.term}/{chunk.segment}/{chunk.start}-{chunk.end}"
