"""The base backups of one repository: find, read, remove, sweep.

Guarantees: a backup is removed manifest first, so that what is left of a removal that broke off is no backup. Only what has
no manifest, no live writer and lies untouched for longer than a grace is swept. Does not decide which backups may go.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from yoban.errors import NotFound, YobanError
from yoban.plugins import StoreCapability
from yoban.repository.access import Access
from yoban.repository.codec import BLOCK
from yoban.repository.holds import read_hold
from yoban.repository.layout import Layout, decode
from yoban.repository.manifest import BackupSummary, Manifest, open_manifest, open_summary
from yoban.repository.threads import in_thread
from yoban.repository.writer import BackupMeta, BackupWriter, Progress, WriterOptions


class Backups:
    """The base backups of one repository."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout

    def writer(
        self,
        backup: str,
        meta: BackupMeta,
        *,
        options: WriterOptions | None = None,
        progress: Progress | None = None,
    ) -> BackupWriter:
        """Return what makes a backup under the id `backup`; see `BackupWriter`."""
        return BackupWriter(self._access, self._layout, backup, meta, options or WriterOptions(), progress)

    async def ids(self) -> list[str]:
        """Return the ids of completed backups, by one listing for each folder."""
        folders = await self._access.folders(self._layout.backups)
        ids = [decode(folder) for folder in folders]
        return sorted([backup for backup in ids if await self._access.head(self._layout.manifest(backup)) is not None])

    async def manifest(self, backup: str) -> Manifest:
        """Return a backup's whole manifest.

        Raises:
            NotFound: there is no such backup, proven by a listing.
            IntegrityError: the manifest is damaged.
        """
        key = self._layout.manifest(backup)
        return await in_thread(open_manifest, await self._blob(backup), key, backup)

    async def summary(self, backup: str) -> BackupSummary:
        """Return a backup's manifest without its files. Raises as `manifest`."""
        key = self._layout.manifest(backup)
        blob = await self._blob(backup)
        if len(blob) < BLOCK // 16:
            return open_summary(blob, key, backup)
        return await in_thread(open_summary, blob, key, backup)

    async def _blob(self, backup: str) -> bytes:
        key = self._layout.manifest(backup)
        blob = await self._access.read(key)
        if blob is None:
            raise NotFound("there is no such base backup", object=key, fix="choose one that is listed")
        return blob

    async def delete(self, backup: str) -> int:
        """Remove a backup, its manifest first. Returns how many objects went; again removes what is left."""
        manifest, expired = self._layout.manifest(backup), self._layout.expired(backup)
        await self._access.delete([manifest])
        keys = [info.key for info in await self._access.listed(self._layout.backup(backup))]
        await self._access.delete(keys)
        await self._access.abort_uploads(self._layout.backup(backup))
        await self._access.delete([expired])
        return len(keys) + 1

    async def live(self, backup: str) -> bool:
        """Tell whether somebody is making this backup now, by its note. A damaged note counts as live."""
        try:
            hold = await read_hold(self._access, self._layout.running(backup))
        except YobanError:
            return True
        return hold is not None and hold.expires > self._access.clock.now()

    async def sweep(self, grace: timedelta, *, spare: frozenset[str] = frozenset()) -> list[str]:
        """Remove what broken-off backups left.

        Args:
            grace: age that objects and uploads must have.
            spare: ids never touched (the jobs that the caller knows to run).

        Returns:
            ids of what was removed.
        """
        before = self._access.clock.now() - grace
        swept: list[str] = []
        for folder in await self._access.folders(self._layout.backups):
            backup = decode(folder)
            infos = await self._access.listed(self._layout.backup(backup))
            keys = [info.key for info in infos]
            if backup in spare or self._layout.manifest(backup) in keys:
                continue
            if any(info.modified > before for info in infos) or await self.live(backup):
                continue
            if await self._access.head(self._layout.manifest(backup)) is not None:
                continue  # completed since the listing
            await self._access.delete(keys)
            await self._access.abort_uploads(self._layout.backup(backup))
            swept.append(backup)
        await self._sweep_uploads(before, spare)
        return swept

    async def _sweep_uploads(self, before: datetime, spare: frozenset[str]) -> None:
        if StoreCapability.MULTIPART not in self._access.store.capabilities:
            return

        async def found() -> list[str]:
            uploads = self._access.store.list_uploads(self._layout.everything)
            return [upload.key async for upload in uploads if upload.started is not None and upload.started < before]

        for key in sorted(set(await self._access.again(self._layout.everything, found))):
            parts = self._layout.below(key)
            backup = decode(parts[1]) if parts[:1] == ("backups",) and len(parts) > 1 else ""
            if backup and (backup in spare or await self.live(backup)):
                continue
            # Those only: under the key of a segment an agent may be at it anew.
            await self._access.abort_uploads(key, before=before)
