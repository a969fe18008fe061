"""Notes that somebody is at work: a backup being made, a restore being read. They keep retention and clean-up away.

Guarantees: a note has an end; one whose writer died does no harm for longer than that. A live writer renews it. Clocks of
writer and reader may differ: ends are generous, and a reader adds a grace of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from yoban.errors import YobanError
from yoban.model.instance import Struct
from yoban.repository.access import Access
from yoban.repository.codec import FORMAT, seal_struct, unseal_struct
from yoban.repository.layout import Layout

KIND = "hold"
DEFAULT_TTL = timedelta(hours=1)

_log = logging.getLogger(__name__)


class Hold(Struct):
    """Somebody is at work.

    Attributes:
        id: of the restore, or of the backup being made.
        backup: base backup concerned.
        started, expires: UTC.
        by: who, for messages.
    """

    format: int = FORMAT
    id: str
    backup: str = ""
    started: datetime
    expires: datetime
    by: str = ""


class Keeper:
    """Keeps one hold alive while it is open."""

    def __init__(self, access: Access, key: str, hold: Hold, ttl: timedelta) -> None:
        self._access = access
        self._key = key
        self._hold = hold
        self._ttl = ttl
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Write the note and begin to renew it."""
        await self._write()
        self._task = asyncio.create_task(self._renew(), name=f"hold {self._key}")

    async def close(self, *, remove: bool = True) -> None:
        """End renewing, and remove the note; when that fails it runs out by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if remove:
            try:
                await self._access.delete([self._key])
            except YobanError as error:
                _log.warning("the note %s could not be removed and runs out by itself: %s", self._key, error)

    async def _write(self) -> None:
        now = self._access.clock.now()
        hold = Hold(
            id=self._hold.id,
            backup=self._hold.backup,
            started=self._hold.started,
            expires=now + self._ttl,
            by=self._hold.by,
        )
        await self._access.put(self._key, seal_struct(KIND, _name(self._key), hold))

    async def _renew(self) -> None:
        while True:
            await self._access.clock.sleep(self._ttl.total_seconds() / 4)
            try:
                await self._write()
            except YobanError as error:
                _log.warning("the note %s could not be renewed: %s", self._key, error)


class Restores:
    """The restores under way from one repository."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout

    @asynccontextmanager
    async def hold(
        self, restore: str, *, backup: str = "", by: str = "", ttl: timedelta = DEFAULT_TTL
    ) -> AsyncIterator[None]:
        """Keep retention away from everything that a restore may need, from now until the block is left.

        Take it before the catalogue is read: what is held then cannot go afterwards.
        """
        now = self._access.clock.now()
        hold = Hold(id=restore, backup=backup, started=now, expires=now + ttl, by=by)
        keeper = Keeper(self._access, self._layout.restore(restore), hold, ttl)
        await keeper.open()
        try:
            yield
        finally:
            await keeper.close()

    async def all(self) -> list[Hold]:
        """Return the notes that are there, expired ones too."""
        keys = [info.key for info in await self._access.listed(self._layout.restores)]
        found = [await read_hold(self._access, key) for key in keys]
        return [hold for hold in found if hold is not None]


async def read_hold(access: Access, key: str) -> Hold | None:
    """Return a note, None when it is proven absent. Raises IntegrityError when it is damaged."""
    blob = await access.read(key)
    return None if blob is None else unseal_struct(blob, key, KIND, _name(key), Hold)


def _name(key: str) -> str:
    return key.rsplit("/", 1)[1]
