"""Has the repository forget what a policy no longer keeps, beside the reconciles.

Guarantees: one run a Database at a time, with a deadline; in two steps with a grace between (the repository's own plan
decides, on a listing made for the run); backups under way are spared. A run that failed, or that may remove nothing since
records cannot be read, is told of and repeated within minutes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from yoban.domain.retention import Keep
from yoban.domain.summary import Fault, fault
from yoban.errors import IntegrityError, YobanError
from yoban.kube.clock import Clock
from yoban.kube.objects import ObjectKey
from yoban.reconcilers.destination import Destination
from yoban.reconcilers.observers import Tasks
from yoban.reconcilers.stores import Stores
from yoban.repository import Repository, RetentionPolicy, RetryPolicy, plan_retention, survey
from yoban.repository.retention import unreadable

log = logging.getLogger(__name__)

RUN_SECONDS = 900.0
AGAIN_AFTER = timedelta(minutes=5)
"""How soon a run that failed is repeated."""
SWEEP_AFTER = timedelta(days=1)
"""What a broken-off backup left is swept this long after it was last touched."""
_RETRY = RetryPolicy(attempts=4, call_seconds=60)


@dataclass(frozen=True, slots=True)
class Kept:
    """The last run: when (monotonic), what was removed, or why it failed, and since when (UTC) all have."""

    at: float
    removed: int = 0
    fault: Fault | None = None
    since: datetime | None = None


class Keeper:
    """Retention runs by Database. Made inside the running loop; give it to the manager, which runs it.

    Args:
        stores: opens them.
        clock: for times and ages.
        tell: called with a Database's key when a run removed something or failed.
    """

    name = "retention"

    def __init__(self, stores: Stores, clock: Clock, tell: Callable[[ObjectKey], None]) -> None:
        self._stores = stores
        self._clock = clock
        self._tell = tell
        self._tasks: Tasks[ObjectKey] = Tasks("retention")
        self._kept: dict[ObjectKey, Kept] = {}

    async def run(self) -> None:
        """Own the tasks until cancelled; then all of them are ended."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._tasks.close()

    def last(self, key: ObjectKey) -> Kept | None:
        """Return the last run for a Database."""
        return self._kept.get(key)

    def keep(self, place: Destination, keep: Keep, running: frozenset[str], *, every: timedelta) -> None:
        """Run retention for a Database unless it ran within `every`, or is running; one that failed soon again."""
        last = self._kept.get(place.key)
        pause = every if last is None or last.fault is None else min(every, AGAIN_AFTER)
        if last is None or self._clock.monotonic() - last.at >= pause.total_seconds():
            self._tasks.start(place.key, lambda: self._run(place, keep, running))

    def forget(self, key: ObjectKey) -> None:
        """No policy applies to the Database any more."""
        self._tasks.cancel(key)
        self._kept.pop(key, None)

    async def _run(self, place: Destination, keep: Keep, running: frozenset[str]) -> None:
        removed, wrong = 0, None
        try:
            async with asyncio.timeout(RUN_SECONDS), self._stores.using(place.store) as store:
                removed = await self._once(
                    Repository(store, place.path, clock=self._clock, retry=_RETRY), place, keep, running
                )
        except Exception as error:
            if not isinstance(error, YobanError | TimeoutError):
                log.exception("retention for %s failed", place.key)
            wrong = fault(error)
        before = self._kept.get(place.key)
        since = None if wrong is None else (before and before.since) or self._clock.now()
        self._kept[place.key] = Kept(self._clock.monotonic(), removed, wrong, since)
        if removed or (before is not None and before.fault != wrong) or (before is None and wrong):
            self._tell(place.key)

    async def _once(self, repository: Repository, place: Destination, keep: Keep, running: frozenset[str]) -> int:
        catalog = await repository.catalog()
        log_source = place.engine.log_source
        view = await asyncio.to_thread(survey, catalog, log_source, place.engine.positions)
        policy = RetentionPolicy(
            keep_count=keep.count, keep_for=keep.window if keep.window > timedelta(0) else None, grace=keep.grace
        )
        unread = unreadable(catalog)
        plan = plan_retention(catalog, view, policy, self._clock.now(), log=log_source, running=running)
        done = await repository.apply_retention(plan) if plan else None
        swept = await repository.backups.sweep(grace=SWEEP_AFTER, spare=running)
        removed = (len(done.backups) + done.segments if done is not None else 0) + len(swept)
        if removed:
            log.info("retention for %s removed %d things", place.key, removed)
        if unread:
            raise IntegrityError(
                "nothing is removed while not all records can be read",
                object=place.path,
                cause=unread,
                fix="bring the object back, or remove it when it is lost for good",
            )
        return removed
