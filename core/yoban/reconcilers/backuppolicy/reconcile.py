"""One pass over one BackupPolicy: each Database that names it is looked at, and what is due is asked for.

Guarantees: a need is asked for once (names follow from the need); nothing is asked for while the repository was not read,
so a restart of the operator makes no second backup; what is stored and has no object gets one; retention runs beside.
A fault of one Database leaves the others alone. Never waits for a store or an agent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from opentelemetry import trace

from yoban.domain import retention
from yoban.domain.compliance import Verdict, judge, worst
from yoban.domain.schedule import Due, check
from yoban.domain.summary import Fault, Observation, Truth, fault, not_ready
from yoban.domain.views import asked_name, found_name, missing
from yoban.errors import Terminal, YobanError
from yoban.kube.errors import AlreadyExists
from yoban.kube.objects import Obj, ObjectKey, key_of
from yoban.kube.status import StatusWriter
from yoban.model.backuppolicy import BackupPolicy, BackupPolicyStatus, Offender
from yoban.model.database import Database
from yoban.model.duration import format_duration
from yoban.model.resource import API_VERSION, FOUND_LABEL, POLICY_LABEL, TRACEPARENT
from yoban.reconcilers.backup.journal import STORE
from yoban.reconcilers.backuppolicy.assess import SLOT, Standing, cadence, facts, need, shown, standings
from yoban.reconcilers.backuppolicy.keeper import Keeper
from yoban.reconcilers.candidates import candidates
from yoban.reconcilers.conditions import conditions_for
from yoban.reconcilers.destination import Destination, destination
from yoban.reconcilers.kinds import BACKUP, BACKUP_POLICY
from yoban.reconcilers.shared import BY_POLICY, Shared
from yoban.runtime import Controller, Group, Manager, Result, intent_changed
from yoban.telemetry import traceparent

MANAGER = "yoban-backuppolicy"
KNOWN = ("Ready",)
AT_MOST = 60.0
"""Seconds between passes at most: verdicts tell of things that change by time alone."""
log = logging.getLogger(__name__)
_tracer = trace.get_tracer("yoban.backuppolicy")


@dataclass(frozen=True, slots=True)
class Assessed:
    """One Database: verdict, base backups under way, when to look again (UTC)."""

    name: str
    verdict: Verdict
    running: int = 0
    look_again: datetime | None = None


class BackupPolicyReconciler:
    """Reconciles BackupPolicies.

    Args:
        shared: what all reconcilers share.
        keeper: runs retention.
    """

    def __init__(self, shared: Shared, keeper: Keeper) -> None:
        self._shared = shared
        self._keeper = keeper
        self._status = StatusWriter(shared.client, f"{MANAGER}-status")

    async def reconcile(self, key: ObjectKey) -> Result | None:
        """Bring one BackupPolicy's wish a step further; one that is gone is a success."""
        obj = self._shared.policies.get(key)
        databases = list(self._shared.databases.store.by_index(BY_POLICY, str(key)))
        if obj is None:
            for database in databases:
                self._shared.verdicts.forget(key_of(database))
                self._keeper.forget(key_of(database))
            return None
        now = self._shared.clock.now()
        try:
            policy = BackupPolicy.parse(obj)
            check(cadence(policy.spec), policy.spec.backup_deadline)
        except Terminal as error:
            await self._write(obj, [], not_ready("Ready", fault(error)))
            raise
        assessed = [await self._assess(policy, database, now) for database in databases]
        await self._write(obj, assessed, _summary(assessed))
        times = [(item.look_again - now).total_seconds() for item in assessed if item.look_again is not None]
        return Result(requeue_after=max(1.0, min([*times, AT_MOST])))

    async def _assess(self, policy: BackupPolicy, obj: Obj, now: datetime) -> Assessed:
        """Look at one Database. What nobody expected is told of it alone: the policy's others are looked at all the same."""
        try:
            return await self._look_at(policy, obj, now)
        except YobanError:
            raise
        except Exception as error:
            key = key_of(obj)
            log.exception("Database %s could not be looked at", key)
            verdict = _unmet(fault(error), now)
            self._shared.verdicts.set(key, verdict)
            return Assessed(key.name, verdict)

    async def _look_at(self, policy: BackupPolicy, obj: Obj, now: datetime) -> Assessed:
        key = key_of(obj)
        try:
            database = Database.parse(obj)
            place = await destination(self._shared, database)
        except Terminal as error:
            verdict = _unmet(fault(error), now)
            self._shared.verdicts.set(key, verdict)
            return Assessed(key.name, verdict)
        items = standings(self._shared, key)
        view = place.view(self._shared)
        due_now: Due | None = None
        if view is not None and view.catalog is not None and not database.deleting:
            due_now = need(policy.spec, database, view, items, now)
            await self._show(place, items, [backup.id for backup in view.catalog.backups])
            if due_now.now and view.fault is None and self._someone_ready(key):
                await self._ask(policy, place, due_now, frozenset(key_of(item.obj).name for item in items))
            self._retain(policy, place, items)
        kept = self._keeper.last(key) if policy.spec.retention is not None else None
        verdict = judge(facts(self._shared, place, view, due_now, items, policy.spec, kept), now)
        self._shared.verdicts.set(key, verdict)
        running = sum(item.running for item in items)
        return Assessed(key.name, verdict, running, due_now.look_again if due_now is not None else None)

    def _someone_ready(self, key: ObjectKey) -> bool:
        return any(item.primary and item.ready for item in candidates(self._shared.observatory, key))

    async def _ask(self, policy: BackupPolicy, place: Destination, due_now: Due, taken: frozenset[str]) -> None:
        """Make the Backup; it is the root of its own trace."""
        name = asked_name(place.key.name, due_now.slot, due_now.attempt, taken)
        labels = {POLICY_LABEL: policy.metadata.name}
        with _tracer.start_as_current_span(
            "backup policy",
            context=trace.set_span_in_context(trace.INVALID_SPAN),
            attributes={
                "yoban.database": str(place.key),
                "yoban.policy": policy.metadata.name,
                "yoban.why": due_now.why,
            },
        ):
            annotations = {SLOT: due_now.slot.isoformat()}
            if parent := traceparent():
                annotations[TRACEPARENT] = parent
            await self._create(
                place.key,
                name,
                labels,
                annotations,
                {
                    "database": place.key.name,
                    "deadline": format_duration(policy.spec.backup_deadline),
                    "retries": policy.spec.backup_retries,
                },
            )

    async def _show(self, place: Destination, items: list[Standing], stored: list[str]) -> None:
        """Make an object for each stored base backup that has none."""
        for id in missing(stored, shown(items)):
            await self._create(
                place.key,
                found_name(place.key.name, id),
                {FOUND_LABEL: "true"},
                {STORE: place.store_name},
                {"database": place.key.name, "id": id, "incarnation": place.incarnation},
            )

    async def _create(
        self, key: ObjectKey, name: str, labels: dict[str, str], annotations: dict[str, str], spec: dict[str, object]
    ) -> None:
        backup = {
            "apiVersion": API_VERSION,
            "kind": "Backup",
            "metadata": {
                "name": name,
                "namespace": key.namespace,
                "labels": {"yoban.dev/database": key.name, **labels},
                "annotations": annotations,
            },
            "spec": spec,
        }
        try:
            made = await self._shared.client.create(BACKUP, backup)
        except AlreadyExists:
            return
        # Until the cache has it, another pass would take it for missing; its name keeps that harmless.
        await self._shared.backups.wait_seen(made, 5.0)

    def _retain(self, policy: BackupPolicy, place: Destination, items: list[Standing]) -> None:
        wish = policy.spec.retention
        kept = retention.keep(wish.count, wish.window, wish.grace) if wish is not None else None
        if kept is None:
            return
        running = frozenset(item.journal.id for item in items if item.running and item.journal is not None)
        self._keeper.keep(place, kept, running, every=retention.look_again(kept))

    async def _write(self, obj: Obj, assessed: list[Assessed], seen: Observation) -> None:
        offender = worst([(item.name, item.verdict) for item in assessed])
        status = BackupPolicyStatus(
            observed_generation=int(obj["metadata"].get("generation") or 0),
            databases=len(assessed),
            satisfied=sum(item.verdict.satisfied is True for item in assessed),
            running=sum(item.running for item in assessed),
            worst=None if offender is None else _offender(*offender),
        ).wire()
        status["conditions"] = conditions_for(obj, [seen], KNOWN, self._shared.clock.now())
        await self._status.write(BACKUP_POLICY, obj, status)


def _offender(name: str, verdict: Verdict) -> Offender:
    # Without figures that move: the status is written when something changed, not every minute.
    return Offender(database=name, reason=verdict.reason, message=_steady(verdict))


_STEADY = {
    "LogBehind": "the log is further behind than the policy allows",
    "TermMissing": "the record of its newest reign is missing; its condition Recoverable says which, and what to do",
}


def _steady(verdict: Verdict) -> str:
    return _STEADY.get(verdict.reason, verdict.message[:1024])


def _unmet(wrong: Fault, now: datetime) -> Verdict:
    return Verdict(False, now, wrong.reason, str(wrong))


def _summary(assessed: list[Assessed]) -> Observation:
    offender = worst([(item.name, item.verdict) for item in assessed])
    if offender is not None:
        name, verdict = offender
        return Observation("Ready", Truth.FALSE, verdict.reason, f"Database {name}: {_steady(verdict)}")
    unknown = [item.name for item in assessed if item.verdict.satisfied is None]
    if unknown:
        return Observation("Ready", Truth.UNKNOWN, "Unknown", f"nothing is known yet of {', '.join(unknown[:5])}")
    if not assessed:
        return Observation("Ready", Truth.TRUE, "Unused", "no Database names this policy")
    return Observation("Ready", Truth.TRUE, "Satisfied", f"it holds for all of {len(assessed)} Databases")


def build(manager: Manager, shared: Shared, *, workers: int = 2) -> Controller:
    """Make the controller of BackupPolicies and give it, with what it needs, to the manager."""

    def of_database(key: ObjectKey) -> None:
        obj = shared.databases.get(key)
        for policy in _policies_of(obj) if obj is not None else ():
            controller.enqueue(policy, after=1.0)

    def retained(key: ObjectKey) -> None:
        shared.catalogues.demand(key)
        of_database(key)

    keeper = Keeper(shared.stores, shared.clock, retained)
    reconciler = BackupPolicyReconciler(shared, keeper)
    controller = Controller("backuppolicy", reconciler.reconcile, workers=workers)
    controller.watches(shared.policies, predicate=intent_changed)
    controller.watches(shared.databases, _policies_of, predicate=intent_changed)
    controller.watches(shared.backups, lambda obj: _policies_of_backup(shared, obj), predicate=intent_changed)
    shared.catalogues.subscribe(of_database)
    shared.observatory.subscribe(of_database)
    manager.add(keeper, Group.LEADER)
    manager.add(controller)
    return controller


def _policies_of(obj: Obj) -> list[ObjectKey]:
    name = ((obj.get("spec") or {}).get("backup") or {}).get("policy")
    return [ObjectKey(key_of(obj).namespace, name)] if name else []


def _policies_of_backup(shared: Shared, obj: Obj) -> list[ObjectKey]:
    name = (obj.get("spec") or {}).get("database") or ""
    database = shared.databases.get(ObjectKey(key_of(obj).namespace, name))
    return _policies_of(database) if database is not None else []
