"""One pass over one Database: gather, decide, act, tell.

Guarantees: level-triggered and repeatable: a pass may be cut off between any two writes and the next one goes on; a
pass with nothing to do writes nothing. What ends a pass before its time is told, unless it passes by itself. Order of
writes: numbers before what bears them, keys before what they sign, the document before Pods, claims before
StatefulSets. Never waits for an agent or a store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from yoban.domain.compliance import Verdict
from yoban.domain.summary import Fault, fault
from yoban.errors import InvalidInput, Terminal, YobanError
from yoban.kube.apply import Applier, prepare
from yoban.kube.client import Client
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.errors import ApiError, Forbidden, NotFound, Rejected
from yoban.kube.finalizers import Finalizer
from yoban.kube.objects import Obj, ObjectKey, annotations_of, generation_of, is_deleting, name_of, resource_version_of
from yoban.kube.resource import (
    CONFIG_MAP,
    LEASE,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Resource,
)
from yoban.kube.status import StatusWriter
from yoban.model.control import Push
from yoban.model.database import FINALIZER, Database
from yoban.model.instance import LEASE_POSITION, LEASE_SUCCESSOR, ArchiveDocument, InstanceDocument, LeaseDocument
from yoban.model.resource import RESTART, SWITCHOVER
from yoban.plugins.registry import Registry
from yoban.reconcilers.database.admit import Admitted, OperatorFacts, admit, check_version, names_of
from yoban.reconcilers.database.builders import document as documents
from yoban.reconcilers.database.builders.lease import Asked, lease, reign
from yoban.reconcilers.database.builders.names import Names
from yoban.reconcilers.database.builders.networkpolicy import network_policy
from yoban.reconcilers.database.builders.pdb import disruption_budget
from yoban.reconcilers.database.builders.rbac import role, role_binding, service_account
from yoban.reconcilers.database.builders.secrets import store_secret
from yoban.reconcilers.database.builders.services import services
from yoban.reconcilers.database.builders.statefulset import template_digest
from yoban.reconcilers.database.caches import Caches
from yoban.reconcilers.database.events import Events, Tell
from yoban.reconcilers.database.gather import Gatherer
from yoban.reconcilers.database.instances import Built, Instances
from yoban.reconcilers.database.keys import Keys
from yoban.reconcilers.database.membership import MembershipPlan, plan
from yoban.reconcilers.database.observed import INITIALIZED_NOTE, Observed
from yoban.reconcilers.database.operations import Operations, Wishes, operate, primary_first
from yoban.reconcilers.database.pods import Podless
from yoban.reconcilers.database.ports import Agents, Catalogued, Catalogues, Credentials, Stores
from yoban.reconcilers.database.references import References, Resolver
from yoban.reconcilers.database.report import Told, ended, status
from yoban.reconcilers.database.story import tidings
from yoban.reconcilers.database.succession import heir
from yoban.reconcilers.database.teardown import Progress, Teardown
from yoban.reconcilers.database.writer import FIELD_MANAGER, Writer, ours
from yoban.reconcilers.kinds import DATABASE
from yoban.runtime import Result

log = logging.getLogger(__name__)

SOON = 10.0
"""Seconds until another look while something is under way or wrong."""
LATER = 30.0
"""Seconds until another look at a Database that is well: its figures move on."""
HEARING = 15.0
"""Seconds within which an agent that answers has been heard, by a process that has just begun to ask it."""
RESTART_ORDER = "yoban.dev/restart-order"
"""Annotation of the spec ConfigMap: `primary` or `replicas`, who restarts first for the last change of settings."""


class DatabaseReconciler:
    """Reconciles Databases. One for the process; `reconcile` is given to a controller."""

    def __init__(
        self,
        client: Client,
        caches: Caches,
        registry: Registry,
        operator: OperatorFacts,
        *,
        agents: Agents,
        stores: Stores,
        catalogues: Catalogues,
        verdict: Callable[[ObjectKey], Verdict | None] | None = None,
        tell: Tell | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._caches = caches
        self._registry = registry
        self._operator = operator
        self._agents = agents
        self._catalogues = catalogues
        self._events = Events(tell)
        self._verdict = verdict or (lambda key: None)
        self._clock = clock or SystemClock()
        writer = Writer(client, Applier(client, FIELD_MANAGER))
        self._writer = writer
        self._status = StatusWriter(client, f"{FIELD_MANAGER}-status")
        self._finalizer = Finalizer(client, DATABASE, FINALIZER)
        self._gatherer = Gatherer(client, caches, agents)
        self._resolver = Resolver(caches, stores, catalogues)
        self._keys = Keys(writer, caches, operator.namespace)
        self._instances = Instances(writer, caches, operator)
        self._teardown = Teardown(writer, caches, self._instances, operator.namespace)
        self._figures_at: dict[ObjectKey, datetime] = {}
        self._last_told: dict[ObjectKey, dict[str, Any]] = {}
        self._pulses: dict[ObjectKey, tuple[str, float]] = {}
        self._taking_away: dict[ObjectKey, float] = {}
        self._podless = Podless(self._clock)

    async def reconcile(self, key: ObjectKey) -> Result | None:
        """Bring one Database a step closer to what it is to be. May be called at any time, also for what is gone."""
        obj = self._caches.databases.get(key)
        if obj is None:
            self._forget(key)
            return None
        try:
            database = Database.parse(obj)
        except Exception as error:
            await self._report(obj, Told(wanted=0, faults=(fault(error),)))
            if isinstance(error, InvalidInput):
                return None
            raise
        try:
            if is_deleting(obj):
                return await self._take_away(obj, database)
            if await self._finalizer.add(obj):
                return None  # the write wakes us again
            return await self._keep(obj, database)
        except Exception as error:
            if isinstance(error, ApiError) and not isinstance(error, Forbidden | Rejected):
                raise  # it passes by itself
            await self._tell_end(obj, database, error)
            if isinstance(error, Terminal):
                self._events.tell(obj, error.reason, str(error), warning=True)
                return Result(requeue_after=LATER)
            raise

    # -- keeping -----------------------------------------------------------------------------------------------------

    async def _keep(self, obj: Obj, database: Database) -> Result:
        now = self._clock.now()
        admitted = admit(database, self._registry, self._operator)
        observed = await self._gatherer.gather(admitted.names)
        if observed.initialized and observed.document is not None:
            check_version(admitted, observed.document.version)
        references = await self._resolver.resolve(admitted, initialized=observed.initialized)
        faults = [*references.faults, *references.restore_faults]
        if faults and not observed.initialized and observed.document is None:
            told = Told(
                database.spec.instances,
                observed,
                tuple(map(_blocking, faults)),
                admitted,
                backed_up=database.spec.backup is not None,
            )
            await self._report(obj, told)
            return Result(requeue_after=SOON)
        await self._ensure_surroundings(admitted, obj)
        authority, credentials = await self._keys.authority(admitted, obj, now)
        await self._keys.accounts(admitted, obj)
        await self._ensure_stores(admitted, references, observed, obj)
        observed, decided, asked = await self._members(admitted, observed, obj)
        await self._succeed(admitted, observed, decided, obj)
        numbers = decided.membership.numbers
        await self._ensure(ROLE, role(admitted.names, admitted.engine.name, numbers), obj)
        # After the Role: whoever may not escalate cannot bind a Role that the API server does not know.
        await self._ensure(ROLE_BINDING, role_binding(admitted.names, admitted.engine.name), obj)
        operations = self._operate(admitted, observed, decided, asked, obj)
        asked = await self._refuse(admitted, decided, operations, asked, obj)
        document = await self._document(admitted, observed, decided, operations, references, obj, now)
        self._inform(admitted, document, references, credentials)
        built = Built()
        if not decided.data_lost:
            await self._instances.volumes(admitted, observed, decided.membership, asked, obj, built)
            for number in sorted(set(numbers) - set(built.refused)):
                with built.member(number):
                    await self._keys.certificates(admitted, obj, number, authority, now)
                    await self._instances.ensure(admitted, observed, number, obj)
            await self._remove_former(admitted, numbers, obj)
            await self._replace(admitted, observed, operations, obj)
            await self._replace_tokenless(admitted, observed, numbers, obj)
        faults += built.faults
        catalogued = self._catalogued(admitted, references)
        for reason, note in built.events:
            self._events.tell(obj, reason, note)
        self._events.problems(obj, observed, numbers)
        if decided.data_lost:
            self._events.tell(obj, "DataLost", "; ".join(decided.why), warning=True, once=True)
        for refused in built.refused.values():
            raise refused
        told = Told(
            wanted=database.spec.instances,
            observed=observed,
            faults=tuple(faults),
            admitted=admitted,
            operations=operations,
            members=numbers,
            data_lost=decided.data_lost,
            catalogued=catalogued,
            backed_up=database.spec.backup is not None,
            store=_store_of(references),
            verdict=self._verdict(ObjectKey(admitted.names.namespace, admitted.names.database)),
            paused=database.spec.paused,
            podless=self._podless.of(ObjectKey(admitted.names.namespace, admitted.names.database), observed, numbers),
        )
        well = await self._report(obj, told)
        return Result(requeue_after=LATER if well else SOON)

    async def _ensure(self, resource: Resource, desired: Obj, owner: Obj) -> None:
        metadata = desired["metadata"]
        cached = self._caches.child(resource, metadata["namespace"], metadata["name"])
        await self._writer.ensure(resource, desired, cached, owner)

    async def _ensure_surroundings(self, admitted: Admitted, obj: Obj) -> None:
        names, engine, blueprint = admitted.names, admitted.engine.name, admitted.blueprint
        await self._ensure(SERVICE_ACCOUNT, service_account(names, engine), obj)
        for service in services(blueprint):
            await self._ensure(SERVICE, service, obj)
        await self._ensure(POD_DISRUPTION_BUDGET, disruption_budget(blueprint), obj)
        await self._ensure(NETWORK_POLICY, network_policy(blueprint), obj)

    async def _ensure_stores(self, admitted: Admitted, references: References, observed: Observed, obj: Obj) -> None:
        names, engine = admitted.names, admitted.engine.name
        for name, store, broken in (
            (names.store, references.store, references.faults),
            (names.source, references.source, references.restore_faults),
        ):
            cached = ours(SECRET, self._caches.child(SECRET, names.namespace, name), obj)
            # While a reference is broken, what is mounted stays: a running archive is better than none.
            if not broken or cached is None:
                await self._writer.ensure(SECRET, store_secret(names, engine, name, store), cached, obj)

    async def _members(
        self, admitted: Admitted, observed: Observed, obj: Obj
    ) -> tuple[Observed, MembershipPlan, Asked]:
        """Decide which instances exist, and write it down before anything is made of it; so too what was asked for."""
        names, wanted = admitted.names, admitted.database.spec.instances
        decided, asked = self._plan(admitted, observed, wanted), self._asked(admitted, observed, obj)
        if decided.membership != observed.membership or asked != observed.asked or observed.lease is None:
            # Numbers are given out now: a cache must not be behind.
            observed = await self._gatherer.gather(names, sure=True)
            decided, asked = self._plan(admitted, observed, wanted), self._asked(admitted, observed, obj)
        desired = lease(names, admitted.engine.name, decided.membership, asked)
        cached = observed.lease
        if cached is None and observed.initialized:
            cached = await self._restore_lease(admitted, desired, observed, obj)
        await self._writer.ensure(LEASE, desired, cached, obj)
        return observed, decided, asked

    def _plan(self, admitted: Admitted, observed: Observed, wanted: int) -> MembershipPlan:
        if admitted.database.spec.paused and observed.membership.numbers:
            wanted = len(observed.membership.numbers)
        return plan(observed, wanted)

    def _asked(self, admitted: Admitted, observed: Observed, obj: Obj) -> Asked:
        """The owner's switchover request. While there is no Lease, the ConfigMap tells what was asked before."""
        before = observed.asked
        if observed.lease is None:
            config = self._caches.child(CONFIG_MAP, admitted.names.namespace, admitted.names.spec)
            before = Asked.parse(annotations_of(config or {}))
        return before.seen(annotations_of(obj).get(SWITCHOVER), observed.switchover_begun)

    async def _restore_lease(self, admitted: Admitted, desired: Obj, observed: Observed, obj: Obj) -> Obj:
        """A Lease that was deleted is made anew with the marks that must not be lost; agents bring the rest."""
        names = admitted.names
        config = self._caches.child(CONFIG_MAP, names.namespace, names.spec)
        marks = reign(annotations_of(config)) if config is not None else {}
        marks.setdefault(INITIALIZED_NOTE, names.incarnation)
        body = prepare(desired, owner=obj)
        body["metadata"] = {**body["metadata"], "annotations": {**body["metadata"]["annotations"], **marks}}
        self._events.tell(obj, "LeaseRestored", f"Lease {names.lease} was gone and is made anew", warning=True)
        return await self._client.create(LEASE, body, field_manager=f"{FIELD_MANAGER}-restore")

    async def _succeed(self, admitted: Admitted, observed: Observed, decided: MembershipPlan, obj: Obj) -> None:
        """Name who takes the Lease after a primary whose volume is gone: it cannot come back by itself."""
        lease_now = observed.lease
        if decided.leaving is None or decided.data_lost or lease_now is None or admitted.database.spec.paused:
            return
        key = ObjectKey(admitted.names.namespace, admitted.names.database)
        quiet = self._quiet(key, lease_now)
        found = heir(observed, decided.membership, admitted.engine.positions, quiet)
        if found is None or annotations_of(lease_now).get(LEASE_SUCCESSOR) == found.instance:
            return
        notes = {LEASE_SUCCESSOR: found.instance, LEASE_POSITION: found.position}
        # Only if nobody wrote to it since it was read: a renewal would mean that somebody reigns.
        await self._client.patch(
            LEASE,
            admitted.names.lease,
            admitted.names.namespace,
            {"metadata": {"annotations": notes}, "spec": {"holderIdentity": ""}},
            resource_version=resource_version_of(lease_now),
        )
        lost = admitted.names.instance(decided.leaving)
        self._events.tell(
            obj, "PrimaryLost", f"the volume of {lost} is gone; {found.instance} takes over", warning=True
        )

    def _quiet(self, key: ObjectKey, lease_now: Obj) -> float:
        """Seconds since the Lease was first seen to be as it is."""
        pulse, now = str(lease_now.get("spec")), self._clock.monotonic()
        known = self._pulses.get(key)
        if known is None or known[0] != pulse:
            known = self._pulses[key] = (pulse, now)
        return now - known[1]

    def _operate(
        self, admitted: Admitted, observed: Observed, decided: MembershipPlan, asked: Asked, obj: Obj
    ) -> Operations:
        notes = annotations_of(obj)
        numbers = decided.membership.numbers
        existing = tuple(number for number in numbers if number in observed.stateful_sets)
        if decided.data_lost or not existing:
            return Operations()
        outdated = self._instances.outdated(admitted, observed, existing)
        config = self._caches.child(CONFIG_MAP, admitted.names.namespace, admitted.names.spec)
        wishes = Wishes(
            numbers=numbers,
            generation=generation_of(obj),
            restart=notes.get(RESTART, ""),
            asked=asked,
            outdated=outdated,
            template=template_digest(self._instances.desired(admitted, observed, existing[0]))[:8],
            leaving=decided.leaving,
            primary_first=annotations_of(config or {}).get(RESTART_ORDER) == "primary",
            paused=admitted.database.spec.paused,
        )
        return operate(observed, wishes)

    async def _refuse(
        self, admitted: Admitted, decided: MembershipPlan, operations: Operations, asked: Asked, obj: Obj
    ) -> Asked:
        """Note that the owner's request cannot be: what is told as failed must not be carried out weeks later."""
        outcome = operations.outcome
        if outcome is None or outcome.state != "failed" or asked.begun or asked.refused:
            return asked
        asked = replace(asked, refused=outcome.message)
        await self._ensure(LEASE, lease(admitted.names, admitted.engine.name, decided.membership, asked), obj)
        return asked

    async def _document(
        self,
        admitted: Admitted,
        observed: Observed,
        decided: MembershipPlan,
        operations: Operations,
        references: References,
        obj: Obj,
        now: datetime,
    ) -> InstanceDocument:
        """The document, revised when it says something else, and its ConfigMap."""
        database, names, previous = admitted.database, admitted.names, observed.document
        spec = database.spec
        archive = references.archive
        if references.faults:
            # A server whose log is to be stored nowhere may recycle it: better that it waits for what is broken.
            archive = previous.archive if previous is not None else _unresolved(admitted)
        restore = references.restore
        if references.restore_faults and previous is not None:
            # A founder that is not told of the restore would make an empty database in its place.
            restore = restore or previous.restore
        wanted = InstanceDocument(
            generation=database.metadata.generation,
            namespace=names.namespace,
            database=names.database,
            uid=database.metadata.uid,
            incarnation=names.incarnation,
            engine=admitted.engine.name,
            version=admitted.blueprint.version,
            founder=names.instance(decided.founder) if decided.founder is not None else "",
            members=documents.members(admitted.blueprint, decided.membership.numbers),
            engine_config=dict(spec.engine_config),
            settings=dict(spec.settings),
            durability_mode=spec.durability.mode,
            durability_replicas=spec.durability.replicas,
            restore=restore,
            archive=archive,
            lease=LeaseDocument(name=names.lease),
            switchover=operations.switchover,
            restarts=dict(operations.restarts),
            paused=spec.paused,
        )
        document = documents.revised(wanted, previous, seconds=int(now.timestamp()))
        cached = self._caches.child(CONFIG_MAP, names.namespace, names.spec)
        notes = _notes(admitted, observed, previous, annotations_of(cached or {}).get(RESTART_ORDER, ""))
        await self._ensure(CONFIG_MAP, documents.spec_config_map(admitted.blueprint, document, notes), obj)
        if previous is not None and document.switchover not in (None, previous.switchover):
            assert document.switchover is not None
            self._events.tell(obj, "Switchover", f"{document.switchover.target} is to become the primary")
        return document

    async def _remove_former(self, admitted: Admitted, numbers: tuple[int, ...], obj: Obj) -> None:
        names = admitted.names
        key = ObjectKey(names.namespace, names.database)
        if not self._instances.former(names, key, numbers):
            return
        # One cache may be ahead of the other: what goes is decided by the Lease as it is, never by a copy of it.
        sure = await self._gatherer.gather(names, sure=True)
        spared = {*numbers, *sure.membership.numbers, *((sure.primary,) if sure.primary is not None else ())}
        for name in await self._instances.remove_former(names, key, tuple(spared)):
            self._events.tell(obj, "InstanceRemoved", f"instance {name} is being removed", once=True)

    async def _replace(self, admitted: Admitted, observed: Observed, operations: Operations, obj: Obj) -> None:
        number = operations.replace
        if number is None or not self._instances.replaceable(admitted, observed, number):
            return
        pod = observed.pods.get(number)
        if pod is not None and await self._writer.delete(POD, pod):
            self._events.tell(obj, "PodReplaced", f"the Pod of {admitted.names.instance(number)} is replaced")

    async def _replace_tokenless(
        self, admitted: Admitted, observed: Observed, numbers: tuple[int, ...], obj: Obj
    ) -> None:
        # All at once: without a token nobody can reign, so there is no service left to protect by going one by one.
        for pod in self._instances.tokenless(admitted, observed, numbers):
            if await self._writer.delete(POD, pod):
                note = f"Pod {name_of(pod)} is replaced: its ServiceAccount was deleted, and its token with it"
                self._events.tell(obj, "TokenLost", note, warning=True)

    def _inform(
        self, admitted: Admitted, document: InstanceDocument, references: References, credentials: Credentials
    ) -> None:
        key = ObjectKey(admitted.names.namespace, admitted.names.database)
        self._agents.observe(key, document.members, credentials)
        self._agents.push(key, Push(document=document, store=references.store, source=references.source))

    def _catalogued(self, admitted: Admitted, references: References) -> Catalogued | None:
        if references.store is None:
            return None
        names = admitted.names
        key = ObjectKey(names.namespace, names.database)
        return self._catalogues.look(key, references.store, names.repository, admitted.engine)

    def _watch(self, names: Names, observed: Observed) -> None:
        """Keep an eye on its agents in a pass that does not get as far as `_inform`, the first of a process included."""
        credentials = self._keys.known(names)
        if observed.document is not None and observed.document.members and credentials is not None:
            self._agents.observe(ObjectKey(names.namespace, names.database), observed.document.members, credentials)

    # -- taking away -------------------------------------------------------------------------------------------------

    async def _take_away(self, obj: Obj, database: Database) -> Result | None:
        if not self._finalizer.is_on(obj):
            return None
        names = names_of(database)
        observed = await self._gatherer.gather(names)
        self._watch(names, observed)
        if self._unheard(names, observed):
            progress = Progress(waiting="its primary is asked whether everything is stored")
        else:
            progress = await self._teardown.step(database, names, observed)
        if progress.done:
            await self._finalizer.remove(obj)
            self._forget(ObjectKey(names.namespace, names.database))
            return None
        told = Told(
            wanted=database.spec.instances,
            observed=observed,
            members=observed.membership.numbers,
            faults=(progress.fault,) if progress.fault is not None else (),
            activity=progress.waiting,
            backed_up=database.spec.backup is not None,
            deleting=True,
        )
        await self._report(obj, told)
        if progress.fault is not None:
            self._events.tell(obj, progress.fault.reason, str(progress.fault), warning=True, once=True)
        return Result(requeue_after=SOON)

    def _unheard(self, names: Names, observed: Observed) -> bool:
        """Whether a process that has just begun to look may still hear from the primary."""
        now = self._clock.monotonic()
        since = self._taking_away.setdefault(ObjectKey(names.namespace, names.database), now)
        if observed.primary is None or observed.primary not in observed.pods:
            return False
        return observed.agent(observed.primary) is None and now - since < HEARING

    # -- telling -----------------------------------------------------------------------------------------------------

    async def _tell_end(self, obj: Obj, database: Database, error: Exception) -> None:
        """Tell what ended a pass."""
        told = Told(
            wanted=database.spec.instances,
            backed_up=database.spec.backup is not None,
            deleting=is_deleting(obj),
            paused=database.spec.paused,
        )
        try:
            known = await self._known(told, database)
            await self._report(obj, replace(known, faults=(ended(error, known),)))
        except YobanError as failed:
            if isinstance(error, Terminal):
                raise  # else nobody would try again before long
            log.warning("%s: what ended the pass cannot be told: %s", database, failed)
        except Exception:  # what is known may be what is wrong
            await self._report(obj, replace(told, faults=(ended(error, told),)))

    async def _known(self, told: Told, database: Database) -> Told:
        """Add what is known in spite of an error, so that a status loses nothing that was in it."""
        names = names_of(database)
        observed = await self._gatherer.gather(names)
        self._watch(names, observed)
        told = replace(told, observed=observed, members=observed.membership.numbers)
        if told.deleting:
            return told
        with suppress(Exception):  # it may be what is wrong
            admitted = admit(database, self._registry, self._operator)
            references = await self._resolver.resolve(admitted, initialized=observed.initialized)
            told = replace(
                told,
                admitted=admitted,
                data_lost=self._plan(admitted, observed, told.wanted).data_lost,
                catalogued=self._catalogued(admitted, references),
                store=_store_of(references),
                verdict=self._verdict(ObjectKey(admitted.names.namespace, admitted.names.database)),
            )
        return told

    async def _report(self, obj: Obj, told: Told) -> bool:
        """Write the status if it says something new; whether the Database is well."""
        key = ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"])
        now = self._clock.now()
        wanted, fresh = status(obj, told, now, self._figures_at.get(key))
        try:
            written = await self._status.write(DATABASE, obj, wanted)
        except NotFound:
            return True
        if fresh:
            self._figures_at[key] = now
        if written:
            log.info("%s: %s", key, wanted["conditions"][0]["message"])
            # The cache may still be behind the last write: nothing is told twice.
            for one in tidings(self._last_told.get(key) or obj.get("status") or {}, wanted):
                self._events.tell(obj, one.reason, one.note, warning=one.warning)
            self._last_told[key] = wanted
        return bool(wanted["phase"] == "Running" and not told.faults)

    def _forget(self, key: ObjectKey) -> None:
        self._agents.forget(key)
        self._catalogues.forget(key)
        self._figures_at.pop(key, None)
        self._events.forget(key)
        self._last_told.pop(key, None)
        self._pulses.pop(key, None)
        self._taking_away.pop(key, None)
        self._podless.forget(key)


def _unresolved(admitted: Admitted) -> ArchiveDocument | None:
    """Where the log is to go, when that is all that is known of it."""
    backup = admitted.database.spec.backup
    return ArchiveDocument(path=admitted.names.repository, policy=backup.policy) if backup is not None else None


def _store_of(references: References) -> str:
    """Name of the ObjectStore of its policy, "" for none."""
    return references.policy.spec.destinations[0].object_store if references.policy is not None else ""


def _blocking(wrong: Fault) -> Fault:
    """A fault that keeps this pass from going on, be it for a while only."""
    return replace(wrong, blocking=True)


def _notes(admitted: Admitted, observed: Observed, previous: InstanceDocument | None, order: str) -> dict[str, str]:
    """Annotations of the spec ConfigMap: marks of the Lease that must survive it, and the order of restarts."""
    notes: dict[str, str] = {}
    if observed.initialized:
        notes[INITIALIZED_NOTE] = admitted.names.incarnation
        if observed.lease is not None:
            notes |= reign(annotations_of(observed.lease))
    if previous is not None and dict(previous.settings) != dict(admitted.database.spec.settings):
        first = primary_first(
            admitted.engine, admitted.blueprint.version, previous.settings, admitted.database.spec.settings
        )
        order = "" if first is None else "primary" if first else "replicas"
    if order:
        notes[RESTART_ORDER] = order
    return notes
