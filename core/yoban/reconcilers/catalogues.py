"""Looks into repositories, so that no reconcile ever waits for a store.

Guarantees: one task for each place that somebody asked about; a look at most each half minute, or when it is demanded,
or each few seconds while a restore waits for the window to reach its target; listeners hear of changes; a store that
does not answer delays its own Databases only. What nobody asks about any more is left alone after a while. What is told
is as old as `View.at` says.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime

from yoban.domain.gathering import history
from yoban.domain.history import History
from yoban.domain.recoverability import Plan, Recoverable, hindrance, plan, recoverable
from yoban.domain.summary import Fault, fault
from yoban.errors import NotReady, Unavailable, YobanError
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.objects import ObjectKey
from yoban.model.instance import StoreDocument
from yoban.plugins import Engine, RecoveryTarget
from yoban.reconcilers.database.ports import Catalogued
from yoban.reconcilers.observers import Listener, Listeners, Tasks
from yoban.reconcilers.stores import Stores
from yoban.repository import Catalog, Repository, RetryPolicy

log = logging.getLogger(__name__)

PERIOD = 30.0
LEAST_PAUSE = 2.0
AWAITED_PERIOD = 5.0
"""Seconds between looks while a restore waits for the end of the window."""
LOOK_SECONDS = 300.0
"""Deadline of one look."""
UNASKED_SECONDS = 900.0
_RETRY = RetryPolicy(attempts=3, call_seconds=30)


@dataclass(frozen=True, slots=True)
class View:
    """What was found at one place.

    Attributes:
        at: when (UTC).
        catalog: as listed; None when it was never read.
        history: the facts of it.
        found: what can be restored; None when it was never read.
        fault: why the last look failed; the rest is then of the look before.
    """

    at: datetime
    catalog: Catalog | None = None
    history: History | None = None
    found: Recoverable | None = None
    fault: Fault | None = None


@dataclass(slots=True)
class _Place:
    store: StoreDocument
    path: str
    engine: Engine
    asked: float
    view: View | None = None
    awaited: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    repository: Repository | None = None


class Catalogues:
    """Repositories by Database and path. Made inside the running loop; give it to the manager, which runs it.

    Args:
        stores: opens them.
        clock: for pauses and ages.
        period: seconds between looks.
    """

    name = "catalogues"

    def __init__(self, stores: Stores, *, clock: Clock | None = None, period: float = PERIOD) -> None:
        self._stores = stores
        self._clock = clock or SystemClock()
        self._period = period
        self._places: dict[tuple[ObjectKey, str], _Place] = {}
        self._tasks: Tasks[tuple[ObjectKey, str]] = Tasks("look")
        self._listeners = Listeners()

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called with a Database's key when what was found for it changed."""
        self._listeners.add(listener)

    async def run(self) -> None:
        """Own the tasks until cancelled; then all of them are ended."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._tasks.close()

    def view(self, key: ObjectKey, store: StoreDocument, path: str, engine: Engine) -> View | None:
        """Return what was found last at `path`; None when nobody looked yet. From now on somebody looks."""
        place = self._places.get((key, path))
        now = self._clock.monotonic()
        if place is None or place.engine is not engine or _where(place.store) != _where(store):
            self._tasks.cancel((key, path))
            place = self._places[key, path] = _Place(store, path, engine, now)
        elif place.store != store:
            # Other credentials: what was found stays true, but look again at once.
            place.store = store
            place.wake.set()
        place.asked = now
        self._tasks.start((key, path), lambda: self._observe(key, place))
        return place.view

    def look(self, key: ObjectKey, store: StoreDocument, path: str, engine: Engine) -> Catalogued | None:
        """Return the window and what else a Database's status tells; None when nobody looked yet."""
        view = self.view(key, store, path, engine)
        if view is None:
            return None
        newest = max((item.facts.end_time for item in view.found.backups), default=None) if view.found else None
        return Catalogued(
            window=view.found.window if view.found else None,
            newest_backup=newest,
            looked_at=view.at,
            hindrance=hindrance(view.found) if view.found else None,
            fault=view.fault,
        )

    def plan(
        self, key: ObjectKey, store: StoreDocument, path: str, engine: Engine, target: RecoveryTarget
    ) -> Plan | None:
        """Return how `target` would be restored from `path`; None when nobody looked yet.

        Raises:
            InvalidInput, NotFound, IntegrityError, Unsupported, NotReady: as `yoban.domain.recoverability.plan`.
            Unavailable: the store could not be read.
        """
        view = self.view(key, store, path, engine)
        if view is None:
            return None
        if view.history is None or view.fault is not None:
            wrong = view.fault or Fault("Unavailable", "the repository was not read yet")
            raise Unavailable(wrong.message, object=path, fix=wrong.fix, reason=wrong.reason)
        try:
            return plan(view.history, target, engine, self._clock.now())
        except NotReady:
            place = self._places[key, path]
            place.awaited = True
            place.wake.set()
            raise

    def demand(self, key: ObjectKey) -> None:
        """Look again soon at everything of this Database."""
        for (owner, _), place in self._places.items():
            if owner == key:
                place.wake.set()

    def forget(self, key: ObjectKey) -> None:
        """Stop looking for this Database; one not known is fine."""
        for owner, path in [entry for entry in self._places if entry[0] == key]:
            self._tasks.cancel((owner, path))
            del self._places[owner, path]

    async def _observe(self, key: ObjectKey, place: _Place) -> None:
        while self._clock.monotonic() - place.asked < UNASKED_SECONDS:
            place.wake.clear()
            before = place.view
            place.view = await self._look(place)
            reached = place.awaited and _end(before) != _end(place.view)
            if reached or _differs(before, place.view):
                place.awaited = False
                self._listeners.tell(key)
            await self._clock.sleep(LEAST_PAUSE)
            await self._pause(place)
        self._places.pop((key, place.path), None)

    async def _pause(self, place: _Place) -> None:
        """Wait for the next look: the period, or until it is demanded."""
        period = min(self._period, AWAITED_PERIOD) if place.awaited else self._period
        sleep = asyncio.create_task(self._clock.sleep(max(0.0, period - LEAST_PAUSE)))
        wake = asyncio.create_task(place.wake.wait())
        try:
            await asyncio.wait({sleep, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            wake.cancel()
            await asyncio.gather(sleep, wake, return_exceptions=True)

    async def _look(self, place: _Place) -> View:
        now = self._clock.now()
        try:
            async with asyncio.timeout(LOOK_SECONDS), self._stores.using(place.store) as store:
                if place.repository is None or place.repository.store is not store:
                    place.repository = Repository(store, place.path, clock=self._clock, retry=_RETRY)
                catalog = await place.repository.catalog()
            facts, found = await asyncio.to_thread(_conclude, catalog, place.engine)
        except (YobanError, TimeoutError) as error:
            old = place.view
            if old is None:
                return View(now, fault=fault(error))
            return View(old.at, old.catalog, old.history, old.found, fault(error))
        except Exception as error:
            log.exception("look at %s failed", place.path)
            return View(now, fault=fault(error))
        return View(now, catalog, facts, found)


def _where(store: StoreDocument) -> tuple[str, ...]:
    """Which store it is, whoever asks."""
    return store.provider, store.endpoint, store.bucket, store.prefix


def _conclude(catalog: Catalog, engine: Engine) -> tuple[History, Recoverable]:
    facts = history(catalog, engine.log_source)
    return facts, recoverable(facts, engine)


def _differs(before: View | None, after: View) -> bool:
    """Whether listeners should hear of it: not of every step of the window's end, which moves all the time."""
    if before is None or (before.fault is None) != (after.fault is None):
        return True
    return _shape(before) != _shape(after)


def _end(view: View | None) -> datetime | None:
    window = view.found.window if view is not None and view.found is not None else None
    return window.end if window is not None else None


def _shape(view: View) -> object:
    catalog, found = view.catalog, view.found
    if catalog is None or found is None:
        return view.fault
    return (
        [backup.id for backup in catalog.backups],
        [term.term for term in catalog.terms],
        found.unusable,
        found.gap,
        found.lost,
        found.window is None,
        sorted(catalog.damaged),
    )
