"""Last phase: taking a Database away, in order.

Guarantees: replicas first; then the primary, only once everything it acknowledged is stored (or its volume stays, or
the owner gave up waiting); Services and permissions after the last Pod, credentials after those, volumes as the
deletion policy says, the authority's key at the very end. Backups are never touched, nor is what others made under our
labels. Every step may be repeated; what waits says for what.
"""

from __future__ import annotations

from dataclasses import dataclass

from yoban.domain.summary import Fault, span
from yoban.kube.objects import ObjectKey, controller_of
from yoban.kube.resource import (
    CONFIG_MAP,
    LEASE,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Resource,
)
from yoban.model.database import Database
from yoban.reconcilers.database.builders.names import Names
from yoban.reconcilers.database.caches import Caches
from yoban.reconcilers.database.instances import Instances
from yoban.reconcilers.database.observed import Observed
from yoban.reconcilers.database.writer import Writer

_BEFORE_SECRETS = (
    SERVICE,
    POD_DISRUPTION_BUDGET,
    NETWORK_POLICY,
    ROLE_BINDING,
    ROLE,
    SERVICE_ACCOUNT,
    CONFIG_MAP,
    LEASE,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: `done`, or what is waited for in words; `fault` when somebody may have to act."""

    done: bool = False
    waiting: str = ""
    fault: Fault | None = None


class Teardown:
    """Takes Databases away, a step a pass."""

    def __init__(self, writer: Writer, caches: Caches, instances: Instances, operator_namespace: str) -> None:
        self._writer = writer
        self._caches = caches
        self._instances = instances
        self._namespace = operator_namespace

    async def step(self, database: Database, names: Names, observed: Observed) -> Progress:
        """Do what can be done now."""
        key = ObjectKey(names.namespace, names.database)
        found = self._instances.of(names, key)
        running = {n: objects for n, objects in found.items() if objects.get("stateful") or objects.get("pod")}
        replicas = [n for n in running if n != observed.primary]
        for number in replicas:
            await self._instances.take_away(running[number], volumes=False)
        if replicas:
            return Progress(waiting=f"{', '.join(names.instance(n) for n in sorted(replicas))} must be gone first")
        if running:
            wrong = None if database.skips_cleanup else unarchived(database, observed)
            if wrong is not None:
                return Progress(waiting=wrong.message, fault=wrong)
            for objects in running.values():
                await self._instances.take_away(objects, volumes=False)
            return Progress(waiting="the primary is stopping, and its log is being stored to the end")
        uid = database.metadata.uid
        if await self._remove_all(key, uid, _BEFORE_SECRETS):
            return Progress(waiting="Services and permissions are being removed")
        if await self._remove_all(key, uid, (SECRET,)):
            return Progress(waiting="credentials are being removed")
        if database.spec.deletion_policy == "Delete":
            for objects in found.values():
                await self._instances.take_away(objects, volumes=True)
        await self._writer.client.delete(SECRET, names.ca, self._namespace)
        return Progress(done=True)

    async def _remove_all(self, key: ObjectKey, uid: str, resources: tuple[Resource, ...]) -> bool:
        left = False
        for resource in resources:
            for obj in self._caches.all(resource, key):
                if (controller_of(obj) or {}).get("uid") != uid:
                    continue  # somebody's own, that bears our label: a copy of a Service, say
                await self._writer.delete(resource, obj)
                left = True
        return left


def unarchived(database: Database, observed: Observed) -> Fault | None:
    """Why the primary cannot be stopped yet, None when it can. Pure."""
    document = observed.document
    if document is None or document.archive is None or not observed.initialized or observed.primary is None:
        return None
    agent = observed.agent(observed.primary)
    if agent is not None and not agent.archive.has_log:
        return None
    give_up = "or set the annotation yoban.dev/skip-cleanup to go on without"
    if agent is None or not agent.archive.active:
        if observed.gone(observed.primary) or database.spec.deletion_policy == "Retain":
            return None if database.spec.deletion_policy == "Retain" else _unknown(give_up)
        return _unknown(give_up)
    archive = agent.archive
    if archive.failing_since is not None:
        why = f"the last commits are not stored: {archive.error or 'the object store does not answer'}"
        return Fault("WaitingForArchive", why, f"make the object store reachable, {give_up}", terminal=True)
    # Without a proven moment the lag counts only since somebody began to look.
    known = archive.lag_seconds if archive.window_end is not None else None
    if known is None or known > document.archive.rpo_seconds:
        lag = "unknown" if known is None else span(known)
        return Fault("WaitingForArchive", f"the log is being stored; the archive is behind by {lag}", "")
    return None


def _unknown(give_up: str) -> Fault:
    why = (
        "the primary is not heard from, so nobody can tell whether its last commits are stored, and its volume is to go"
    )
    return Fault("WaitingForArchive", why, f"bring it up, {give_up}", terminal=True)
