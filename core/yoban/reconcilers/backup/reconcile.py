"""One pass over one Backup.

Guarantees: an attempt is noted before it is begun, begun once, and found again after a restart of the operator; one at a
time for each Database; a Backup that cannot end has a deadline; deleting the object cancels what runs and never removes
what is stored; an object whose data retention removed goes. Never waits for an agent or a store.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from yoban.domain import donor
from yoban.domain.identity import backup_id
from yoban.domain.summary import Fault, Observation, fault
from yoban.errors import InvalidInput, NotReady, Terminal
from yoban.kube.finalizers import Finalizer
from yoban.kube.objects import Obj, ObjectKey, annotations_of, is_deleting, key_of, resource_version_of, uid_of
from yoban.kube.status import StatusWriter
from yoban.model.backup import FINALIZER, Backup, BackupStatus
from yoban.model.control import JobRequest
from yoban.model.database import Database
from yoban.model.resource import TRACEPARENT
from yoban.plugins import Capability
from yoban.reconcilers.backup import telling
from yoban.reconcilers.backup.journal import STORE, Journal, read, write
from yoban.reconcilers.backup.runs import Job, Runs, State
from yoban.reconcilers.candidates import candidates
from yoban.reconcilers.conditions import conditions_for
from yoban.reconcilers.destination import Destination, destination
from yoban.reconcilers.kinds import BACKUP
from yoban.reconcilers.shared import BY_DATABASE, Shared
from yoban.repository import BackupSummary
from yoban.runtime import Controller, Group, Manager, Result, intent_changed
from yoban.telemetry import trace_id, traceparent

MANAGER = "yoban-backup"
WAIT = 10.0
SETTLED = 300.0
"""Seconds between looks at a Backup that is done: listeners tell of changes sooner."""
SEEN_WITHIN = 10.0
"""Seconds within which the cache shows what was written."""
PROVEN_AFTER = timedelta(seconds=60)
"""A listing this much younger than the end of a backup counts against it."""


class BackupReconciler:
    """Reconciles Backups.

    Args:
        shared: what all reconcilers share.
        runs: follows jobs.
    """

    def __init__(self, shared: Shared, runs: Runs) -> None:
        self._shared = shared
        self._runs = runs
        self._status = StatusWriter(shared.client, f"{MANAGER}-status")
        self._finalizer = Finalizer(shared.client, BACKUP, FINALIZER)
        self._begun: dict[ObjectKey, tuple[ObjectKey, datetime, float]] = {}
        self._places: dict[ObjectKey, tuple[tuple[str, ...], datetime]] = {}

    async def reconcile(self, key: ObjectKey) -> Result | None:
        """Bring one Backup a step further; one that is gone is a success."""
        obj = self._shared.backups.get(key)
        if obj is None:
            self._runs.forget(key)
            return None
        journal = read(obj)
        try:
            backup = Backup.parse(obj)
        except InvalidInput as error:
            return await self._unreadable(obj, journal, error)
        if backup.deleting:
            return await self._delete(obj, backup, journal)
        found = self._shared.databases.get(ObjectKey(key.namespace, backup.spec.database))
        database: Database | None = None
        place: Destination | None = None
        wrong: Fault | None = None
        if found is not None:
            try:
                database = Database.parse(found)
                place = await destination(self._shared, database)
                self._there_since(place)
            except Terminal as error:
                wrong = fault(error)
        else:
            text = f"there is no Database {key.namespace}/{backup.spec.database}"
            wrong = Fault("DatabaseMissing", text, "create it, or delete this Backup")
        if backup.spec.id is not None:
            return await self._stored(obj, backup, place, backup.spec.id, None)
        if journal is not None and journal.outcome == "completed":
            return await self._stored(obj, backup, place, journal.id, journal)
        if journal is not None and journal.outcome == "failed":
            await self._write(obj, telling.failed(self._base(obj, place), _failure(journal), journal))
            await self._finalizer.remove(obj)
            return None
        if journal is not None and not journal.outcome:
            return await self._follow(obj, backup, place, journal)
        if await self._finalizer.add(obj):
            return None
        return await self._begin(obj, backup, database, place, journal, wrong)

    # -- beginning -------------------------------------------------------------------------------------------------

    async def _begin(
        self,
        obj: Obj,
        backup: Backup,
        database: Database | None,
        place: Destination | None,
        journal: Journal | None,
        wrong: Fault | None,
    ) -> Result | None:
        now = self._shared.clock.now()
        begun = backup.metadata.creation_timestamp or now
        if place is not None and Capability.BACKUP not in place.engine.capabilities:
            unable = Fault("Unsupported", f"the engine {place.engine.name} makes no base backups", "", True)
            return await self._fail(obj, place, journal, unable)
        if now >= begun + backup.spec.deadline * (backup.spec.retries + 1):
            late = wrong or Fault("DeadlineExceeded", "it could not be begun in time", "make another Backup")
            return await self._fail(obj, place, journal, late)
        if journal is not None and now < journal.again_at():
            text = f"attempt {journal.attempt} failed: {journal.message}"
            await self._write(obj, telling.waiting(self._base(obj, place), journal.reason or "BackupFailed", text))
            return Result(requeue_after=max(1.0, (journal.again_at() - now).total_seconds()))
        if place is None or database is None:
            assert wrong is not None
            await self._write(obj, telling.waiting(self._base(obj, place), wrong.reason, str(wrong)))
            return Result(requeue_after=WAIT * 3)
        if other := self._running(obj, backup.spec.database):
            await self._write(obj, telling.waiting(self._base(obj, place), "Waiting", f"Backup {other} is under way"))
            return Result(requeue_after=WAIT * 3)
        base = place.engine.base_backup
        avoid = frozenset(journal.avoid) if journal is not None else frozenset()
        try:
            chosen = donor.choose(
                candidates(self._shared.observatory, place.key), on_replica=base is None or base.on_replica, avoid=avoid
            )
        except NotReady as error:
            await self._write(obj, telling.waiting(self._base(obj, place), error.reason, str(error)))
            return Result(requeue_after=WAIT)
        attempt = journal.attempt + 1 if journal is not None else 1
        unique = uid_of(obj) if attempt == 1 else f"{uid_of(obj)}/{attempt}"
        noted = Journal(
            attempt=attempt,
            id=backup_id(begun, unique),
            instance=chosen.instance,
            shipper=chosen.shipper,
            started=now,
            avoid=tuple(sorted(avoid)),
            store=place.store_name,
            incarnation=place.incarnation,
        )
        self._begun[place.key] = (key_of(obj), now, self._shared.clock.monotonic())
        more = {} if TRACEPARENT in annotations_of(obj) else {TRACEPARENT: traceparent()}
        await write(self._shared.client, obj, noted, {name: text for name, text in more.items() if text})
        return None

    def _running(self, obj: Obj, database: str) -> str:
        """Name of another Backup of the Database that is under way, "" when there is none."""
        key = key_of(obj)
        begun, started, at = self._begun.get(ObjectKey(key.namespace, database), (key, datetime.min, 0.0))
        if begun != key and self._shared.clock.monotonic() - at < SEEN_WITHIN:
            seen = self._shared.backups.get(begun)
            noted = read(seen) if seen is not None else None
            if seen is not None and (noted is None or noted.started < started):
                return begun.name  # its note is not in the cache yet
        for other in self._shared.backups.store.by_index(BY_DATABASE, f"{key.namespace}/{database}"):
            journal = read(other)
            if key_of(other) != key and journal is not None and not journal.outcome:
                return key_of(other).name
        return ""

    # -- following -------------------------------------------------------------------------------------------------

    async def _follow(self, obj: Obj, backup: Backup, place: Destination | None, journal: Journal) -> Result | None:
        key = key_of(obj)
        now = self._shared.clock.now()
        summary = self._summary(place, journal.id)
        if summary is not None:
            return await self._complete(obj, place, journal)
        late = now >= journal.started + backup.spec.deadline
        job = self._job(obj, backup, journal)
        if late:
            if job is not None and not self._runs.cancel(key, job):
                return Result(requeue_after=1.0)
            limit = backup.spec.deadline.total_seconds()
            wrong = Fault("DeadlineExceeded", f"it was not done within {limit:.0f} s", "it is tried again")
            return await self._again(obj, backup, place, journal, wrong, retryable=True)
        if job is None:
            return await self._unheard(obj, backup, place, journal)
        self._runs.ensure(key, job)
        state = self._runs.state(key, job.uid) or State(job.uid)
        if state.state == "completed":
            return await self._complete(obj, place, journal)
        if state.state == "lost" and place is not None and not self._looked_since(place, state.at or now):
            # The agent forgot the job; only the repository knows whether it was done.
            self._shared.catalogues.demand(place.key)
            return Result(requeue_after=2.0)
        if state.ended:
            wrong = state.fault or Fault("BackupFailed", "the backup failed")
            return await self._again(obj, backup, place, journal, wrong, retryable=state.retryable)
        await self._write(obj, telling.running(self._base(obj, place), journal, state.progress, state.unreachable))
        return Result(requeue_after=max(1.0, (journal.started + backup.spec.deadline - now).total_seconds()))

    async def _unheard(self, obj: Obj, backup: Backup, place: Destination | None, journal: Journal) -> Result | None:
        """The instance is not observed: not yet, after a start of the operator, or not any more."""
        members = self._shared.observatory.members(ObjectKey(key_of(obj).namespace, backup.spec.database))
        if members and journal.instance not in members:
            wrong = Fault("InstanceGone", f"{journal.instance} is gone", "it is tried again with another")
            return await self._again(obj, backup, place, journal, wrong, retryable=True)
        await self._write(
            obj, telling.running(self._base(obj, place), journal, None, f"{journal.instance} is not heard from yet")
        )
        return Result(requeue_after=WAIT)

    def _job(self, obj: Obj, backup: Backup, journal: Journal) -> Job | None:
        database = ObjectKey(key_of(obj).namespace, backup.spec.database)
        members = self._shared.observatory.members(database)
        credentials = self._shared.observatory.credentials(database)
        member = members.get(journal.instance)
        if member is None or credentials is None:
            return None
        shipper = members.get(journal.shipper)
        left = (journal.started + backup.spec.deadline - self._shared.clock.now()).total_seconds()
        request = JobRequest(
            kind="backup",
            id=journal.id,
            shipper=f"{shipper.host}:{shipper.control}" if shipper is not None else "",
            deadline_seconds=max(1.0, left),
        )
        return Job(
            uid=journal.job(uid_of(obj)),
            member=member,
            credentials=credentials,
            request=request,
            until=self._shared.clock.monotonic() + max(30.0, left),
            traceparent=annotations_of(obj).get(TRACEPARENT, ""),
        )

    async def _complete(self, obj: Obj, place: Destination | None, journal: Journal) -> Result | None:
        done = msgspec.structs.replace(journal, outcome="completed", finished=self._shared.clock.now())
        written = await write(self._shared.client, obj, done)
        self._event(obj, "BackupCompleted", f"base backup {journal.id} is stored", warning=False)
        if place is not None:
            self._shared.catalogues.demand(place.key)
        state = self._runs.state(key_of(obj), journal.job(uid_of(obj)))
        found = self._summary(place, journal.id) or (state.result if state is not None else None)
        if found is not None:
            base = self._base(obj, place)
            base |= {"object_store": done.store, "incarnation": done.incarnation} if done.store else {}
            await self._write(written, telling.completed(base, found, done))
        return None

    async def _again(
        self, obj: Obj, backup: Backup, place: Destination | None, journal: Journal, wrong: Fault, *, retryable: bool
    ) -> Result | None:
        last = not retryable or journal.attempt > backup.spec.retries
        ended = msgspec.structs.replace(
            journal,
            outcome="failed" if last else "retry",
            finished=self._shared.clock.now(),
            reason=wrong.reason,
            message=str(wrong)[:512],
            avoid=tuple(sorted({*journal.avoid, journal.instance})),
        )
        written = await write(self._shared.client, obj, ended)
        self._runs.forget(key_of(obj))
        self._event(obj, "BackupFailed" if last else "BackupAttemptFailed", f"{wrong.reason}: {wrong}", warning=True)
        if last:
            await self._write(written, telling.failed(self._base(obj, place), wrong, ended))
        return None

    async def _fail(self, obj: Obj, place: Destination | None, journal: Journal | None, wrong: Fault) -> Result | None:
        now = self._shared.clock.now()
        before = journal or Journal(attempt=0, id="", instance="", started=now)
        ended = msgspec.structs.replace(
            before, outcome="failed", finished=now, reason=wrong.reason, message=str(wrong)[:512]
        )
        written = await write(self._shared.client, obj, ended)
        self._event(obj, "BackupFailed", f"{wrong.reason}: {wrong}", warning=True)
        await self._write(written, telling.failed(self._base(obj, place), wrong, journal))
        return None

    async def _unreadable(self, obj: Obj, journal: Journal | None, error: InvalidInput) -> Result | None:
        """The API server took what this release cannot read: it has failed, and stands in nobody's way."""
        outcome = journal.outcome if journal is not None else ""
        if outcome == "completed" and not is_deleting(obj):
            raise error
        if outcome != "failed" and not is_deleting(obj):
            wrong = replace(fault(error), fix="make another Backup with these corrected")
            return await self._fail(obj, None, journal, wrong)
        if journal is not None and not is_deleting(obj):
            await self._write(obj, telling.failed(self._base(obj, None), _failure(journal), journal))
        await self._finalizer.remove(obj)
        self._runs.forget(key_of(obj))
        return None

    # -- what is stored --------------------------------------------------------------------------------------------

    async def _stored(
        self, obj: Obj, backup: Backup, place: Destination | None, id: str, journal: Journal | None
    ) -> Result | None:
        """It is, or was, in the repository: keep the view true, and take it away when the data went."""
        if await self._finalizer.remove(obj):
            return None
        summary = self._summary(place, id)
        if summary is not None and place is not None:
            obj, journal = await self._noted(obj, place, journal)
            await self._write(obj, telling.completed(self._base(obj, place), summary, journal))
        if place is None or summary is not None or _is_elsewhere(obj, backup, place, journal):
            return Result(requeue_after=SETTLED)
        since = journal.finished if journal is not None else backup.metadata.creation_timestamp
        if since is not None and self._looked_since(place, since + PROVEN_AFTER):
            self._event(obj, "BackupRemoved", f"base backup {id} is no longer in the repository", warning=False)
            key = key_of(obj)
            await self._shared.client.delete(BACKUP, key.name, key.namespace, uid=uid_of(obj))
            return None
        return Result(requeue_after=WAIT * 3)

    async def _noted(self, obj: Obj, place: Destination, journal: Journal | None) -> tuple[Obj, Journal | None]:
        """With the name of the ObjectStore in which it was found: a store may be given another name."""
        before = journal.store if journal is not None else annotations_of(obj).get(STORE, "")
        if before in ("", place.store_name):
            return obj, journal
        if journal is not None:
            journal = msgspec.structs.replace(journal, store=place.store_name)
            return await write(self._shared.client, obj, journal), journal
        key, version = key_of(obj), resource_version_of(obj)
        change = {"metadata": {"annotations": {STORE: place.store_name}}}
        return await self._shared.client.patch(BACKUP, key.name, key.namespace, change, resource_version=version), None

    def _summary(self, place: Destination | None, id: str) -> BackupSummary | None:
        view = place.view(self._shared) if place is not None else None
        if view is None or view.catalog is None:
            return None
        return next((item for item in view.catalog.backups if item.id == id), None)

    def _looked_since(self, place: Destination, moment: datetime) -> bool:
        """Whether the repository was listed after `moment`, and nothing is wrong with it."""
        view = place.view(self._shared)
        if view is None or view.fault is not None or view.catalog is None:
            return False
        return view.catalog.taken > max(moment, self._there_since(place))

    def _there_since(self, place: Destination) -> datetime:
        """When this was first seen to be the Database's place: an older listing may be of the place before."""
        store = place.store
        where = (store.provider, store.endpoint, store.bucket, store.prefix, place.path)
        known = self._places.get(place.key)
        if known is None or known[0] != where:
            present = {key: seen for key, seen in self._places.items() if self._shared.databases.get(key) is not None}
            known = where, self._shared.clock.now()
            self._places = present | {place.key: known}
        return known[1]

    # -- going -----------------------------------------------------------------------------------------------------

    async def _delete(self, obj: Obj, backup: Backup, journal: Journal | None) -> Result | None:
        key = key_of(obj)
        if not self._finalizer.is_on(obj):
            self._runs.forget(key)
            return None
        if journal is not None and not journal.outcome and not self._finalizer.is_skipped(obj):
            database = ObjectKey(key.namespace, backup.spec.database)
            waits = self._shared.databases.get(database) is not None
            job = self._job(obj, backup, journal)
            text = f"{journal.instance} is asked to end it"
            if job is not None:
                waits = waits and not self._runs.cancel(key, job)
            else:
                # Right after a start nobody is known yet. At its deadline the agent ends it by itself.
                late = self._shared.clock.now() >= journal.started + backup.spec.deadline
                waits = waits and not late and not self._shared.observatory.members(database)
                text = f"{journal.instance} is not known yet and is to end it"
            if waits:
                text += "; the annotation yoban.dev/skip-cleanup ends the wait"
                await self._write(obj, telling.running(self._base(obj, None), journal, None, text))
                return Result(requeue_after=WAIT)
        await self._finalizer.remove(obj)
        self._runs.forget(key)
        return None

    # -- telling ---------------------------------------------------------------------------------------------------

    def _base(self, obj: Obj, place: Destination | None) -> dict[str, Any]:
        base: dict[str, Any] = {"observed_generation": int(obj["metadata"].get("generation") or 0)}
        if place is not None:
            base |= {"object_store": place.store_name, "incarnation": place.incarnation}
        if trace := trace_id(annotations_of(obj).get(TRACEPARENT, "")):
            base["trace_id"] = trace
        return base

    async def _write(self, obj: Obj, told: tuple[BackupStatus, Observation]) -> None:
        status = told[0].wire()
        status["conditions"] = conditions_for(obj, [told[1]], telling.KNOWN, self._shared.clock.now())
        await self._status.write(BACKUP, obj, status)

    def _event(self, obj: Obj, reason: str, note: str, *, warning: bool) -> None:
        if self._shared.recorder is not None:
            self._shared.recorder.event(obj, reason, note[:1000], action="Backup", warning=warning)


def _has_ended(old: Obj | None, new: Obj) -> bool:
    """A predicate: an attempt was under way, and is not any more."""
    before, after = read(old) if old is not None else None, read(new)
    return before is not None and not before.outcome and after is not None and after.outcome != ""


def _is_elsewhere(obj: Obj, backup: Backup, place: Destination, journal: Journal | None) -> bool:
    """Whether it was stored in another life of the Database, or another ObjectStore, than what is looked at now."""
    life, store = backup.spec.incarnation, annotations_of(obj).get(STORE)
    if journal is not None:
        life, store = journal.incarnation, journal.store
    return (life or place.incarnation) != place.incarnation or (store or place.store_name) != place.store_name


def _failure(journal: Journal) -> Fault:
    return Fault(journal.reason or "BackupFailed", journal.message or "the backup failed", terminal=True)


def build(manager: Manager, shared: Shared, *, workers: int = 4) -> Controller:
    """Make the controller of Backups and give it, with what it needs, to the manager."""
    runs = Runs(shared.agents, shared.clock, lambda key: controller.enqueue(key))
    reconciler = BackupReconciler(shared, runs)
    controller = Controller("backup", reconciler.reconcile, workers=workers)

    def of_database(key: ObjectKey) -> None:
        for obj in shared.backups.store.by_index(BY_DATABASE, str(key)):
            controller.enqueue(key_of(obj))

    def unfinished_of_database(key: ObjectKey) -> None:
        for obj in shared.backups.store.by_index(BY_DATABASE, str(key)):
            journal = read(obj)
            if journal is None or journal.outcome in ("", "retry"):
                controller.enqueue(key_of(obj))

    def waiting_beside(obj: Obj) -> list[ObjectKey]:
        namespace, database = key_of(obj).namespace, (obj.get("spec") or {}).get("database") or ""
        others = shared.backups.store.by_index(BY_DATABASE, f"{namespace}/{database}")
        return [key_of(other) for other in others if read(other) is None]

    controller.watches(shared.backups, predicate=intent_changed)
    controller.watches(shared.backups, waiting_beside, predicate=_has_ended)
    shared.catalogues.subscribe(of_database)
    shared.observatory.subscribe(unfinished_of_database)
    manager.add(runs, Group.LEADER)
    manager.add(controller)
    return controller
