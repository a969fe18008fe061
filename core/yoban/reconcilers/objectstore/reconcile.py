"""One pass over one ObjectStore.

Guarantees: never waits for a store; says with reason and advice why a store cannot be used; the object goes only when
nobody uses it any more and, where that was asked for, its bucket has gone, which it does not while another ObjectStore has
a place in it. A pass with nothing to do writes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from yoban.domain.summary import Observation, Truth, fault, not_ready
from yoban.errors import NotReady, Terminal, YobanError
from yoban.kube.finalizers import Finalizer
from yoban.kube.objects import Obj, ObjectKey, annotations_of, key_of, name_of
from yoban.kube.status import StatusWriter
from yoban.model.instance import StoreDocument
from yoban.model.objectstore import FINALIZER, CleanUp, ObjectStore, ObjectStoreStatus
from yoban.reconcilers.conditions import conditions_for
from yoban.reconcilers.kinds import OBJECT_STORE
from yoban.reconcilers.objectstore.bucket import BucketMarker
from yoban.reconcilers.objectstore.places import may_share
from yoban.reconcilers.objectstore.probes import Checked, Probes, Removal, Wish
from yoban.reconcilers.shared import BY_POLICY, BY_STORE, Shared
from yoban.runtime import Controller, Group, Manager, Result, intent_changed

MANAGER = "yoban-objectstore"
ANNOUNCED = "yoban.dev/bucket-announced"
"""Annotation: the bucket did not exist when we were about to make it."""
REMOVING = "yoban.dev/bucket-removing"
"""Annotation: the bucket bore our mark when we began to remove it."""
KNOWN = ("Ready",)
CHECK_EVERY = 60.0
CHECK_FAILED_EVERY = 15.0


class ObjectStoreReconciler:
    """Reconciles ObjectStores.

    Args:
        shared: what all reconcilers share.
        probes: looks at stores.
    """

    def __init__(self, shared: Shared, probes: Probes) -> None:
        self._shared = shared
        self._probes = probes
        self._status = StatusWriter(shared.client, f"{MANAGER}-status")
        self._finalizer = Finalizer(shared.client, OBJECT_STORE, FINALIZER)

    async def reconcile(self, key: ObjectKey) -> Result | None:
        """Bring one ObjectStore to its desired state; one that is gone is a success."""
        obj = self._shared.object_stores.get(key)
        if obj is None:
            self._probes.forget(key)
            return None
        try:
            resource = ObjectStore.parse(obj)
        except Terminal as error:
            await self._write(obj, not_ready("Ready", fault(error)))
            raise
        if resource.deleting:
            return await self._delete(obj, resource)
        if await self._finalizer.add(obj):
            return None
        return await self._check(obj, resource)

    async def _check(self, obj: Obj, resource: ObjectStore) -> Result:
        key = key_of(obj)
        try:
            store = await self._shared.stores.describe(resource, fresh=True)
        except Terminal as error:
            # Its Secret may come any time, and nobody watches Secrets of users: look again.
            await self._write(obj, not_ready("Ready", fault(error)))
            return Result(requeue_after=CHECK_FAILED_EVERY)
        wish = self._wish(obj, resource, store)
        checked = self._probes.checked(key)
        current = checked is not None and replace(checked.wish, announced=wish.announced) == wish
        if checked is None or not current or self._age(checked) >= _period(checked):
            self._probes.check(key, wish, lambda: self._note(obj, ANNOUNCED, resource.metadata.uid))
        if checked is None or not current:
            return Result(requeue_after=CHECK_EVERY)
        await self._write(obj, self._observation(resource, checked), checked)
        return Result(requeue_after=max(1.0, _period(checked) - self._age(checked)))

    def _wish(self, obj: Obj, resource: ObjectStore, store: StoreDocument) -> Wish:
        meta = resource.metadata
        created = meta.creation_timestamp or self._shared.clock.now()
        return Wish(
            store=store,
            marker=BucketMarker(uid=meta.uid, namespace=meta.namespace, name=meta.name, created=created),
            create=resource.spec.create,
            announced=annotations_of(obj).get(ANNOUNCED) == meta.uid,
        )

    def _observation(self, resource: ObjectStore, checked: Checked) -> Observation:
        if checked.fault is not None:
            return not_ready("Ready", checked.fault)
        if resource.spec.create and not checked.ours:
            text = "it can be used; the bucket was not made by this ObjectStore, so it will never be removed with it"
            return Observation("Ready", Truth.TRUE, "BucketFound", text)
        return Observation("Ready", Truth.TRUE, "Reachable", "it can be read and written")

    async def _delete(self, obj: Obj, resource: ObjectStore) -> Result | None:
        key = key_of(obj)
        if not self._finalizer.is_on(obj):
            return None
        if not self._finalizer.is_skipped(obj):
            users = self._users(key)
            if users:
                names = ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
                text = f"it is being deleted and waits for {names}; delete them, or have them use another ObjectStore"
                await self._write(obj, Observation("Ready", Truth.FALSE, "InUse", text))
                return None
            if resource.spec.deletion_policy == "Delete" and resource.spec.create:
                waits = await self._remove_bucket(obj, resource)
                if waits is not None:
                    return waits
        await self._finalizer.remove(obj)
        self._probes.forget(key)
        self._shared.stores.forget(resource.metadata.uid)
        return None

    async def _remove_bucket(self, obj: Obj, resource: ObjectStore) -> Result | None:
        """Return what to wait for, None when the bucket has gone or is none of ours."""
        key, uid = key_of(obj), resource.metadata.uid
        try:
            store = await self._shared.stores.describe(resource, fresh=True)
        except YobanError as error:
            remembered = self._shared.stores.remembered(uid)
            if remembered is None:
                await self._write_removal(obj, Removal(fault=fault(error)))
                return Result(requeue_after=CHECK_FAILED_EVERY)
            store = remembered
        state = self._probes.removal(key)
        if state is not None and (state.done or (state.fault and state.fault.reason == "NotOurBucket")):
            return None
        self._probes.remove(
            key,
            self._wish(obj, resource, store),
            verified=annotations_of(obj).get(REMOVING) == uid,
            announce=lambda: self._note(obj, REMOVING, uid),
            clear=lambda: self._require_clear(key, obj["spec"]),
        )
        await self._write_removal(obj, state or Removal())
        return Result(requeue_after=CHECK_FAILED_EVERY)

    def _require_clear(self, key: ObjectKey, spec: dict[str, Any]) -> None:
        """Raise NotReady while others have, or may have, a place in the bucket."""
        others = self._users(key) + self._sharers(key, spec)
        if others:
            raise NotReady(
                "the bucket holds, or may hold, what others store",
                object=f"bucket {spec['bucket']}",
                cause=", ".join(others[:5]),
                fix="delete those first, or set deletionPolicy: Retain",
                reason="BucketShared",
            )

    async def _write_removal(self, obj: Obj, state: Removal) -> None:
        if state.fault is not None:
            text = (
                f"its bucket cannot be removed now: {state.fault}; the annotation yoban.dev/skip-cleanup ends the wait "
                "and leaves the bucket"
            )
            seen = Observation("Ready", Truth.FALSE, state.fault.reason, text)
        else:
            text = f"it is being deleted: {state.removed} things have been removed from its bucket"
            seen = Observation("Ready", Truth.FALSE, "Emptying", text)
        cleanup = CleanUp(removed=state.removed, state="Waiting" if state.fault else "Emptying")
        await self._write(obj, seen, cleanup=cleanup)

    def _sharers(self, key: ObjectKey, spec: dict[str, Any]) -> list[str]:
        """Other ObjectStores, of any namespace that we see, whose data may lie in the same bucket."""
        others = [other for other in self._shared.object_stores.store if key_of(other) != key]
        return sorted(f"ObjectStore {key_of(other)}" for other in others if may_share(spec, other.get("spec") or {}))

    def _users(self, key: ObjectKey) -> list[str]:
        """Everybody who still needs the store: Databases first, they go first."""
        shared = self._shared
        names = {f"Database {name_of(user)}" for user in shared.databases.store.by_index(BY_STORE, str(key))}
        policies = list(shared.policies.store.by_index(BY_STORE, str(key)))
        for policy in policies:
            used_by = shared.databases.store.by_index(BY_POLICY, str(key_of(policy)))
            names |= {f"Database {name_of(user)}" for user in used_by}
        strays = {f"Database {name_of(user)}" for user in self._strays(key.namespace)} - names
        names |= {f"{stray} (its BackupPolicy is missing)" for stray in strays}
        return sorted(names) + sorted(f"BackupPolicy {name_of(policy)}" for policy in policies)

    def _strays(self, namespace: str) -> list[Obj]:
        """Databases whose BackupPolicy is missing: they go on storing their log, in any ObjectStore of the namespace."""
        return [user for user in self._shared.databases.store.objects(namespace) if _lacks_policy(self._shared, user)]

    async def _note(self, obj: Obj, annotation: str, value: str) -> None:
        key = key_of(obj)
        await self._shared.client.patch(
            OBJECT_STORE, key.name, key.namespace, {"metadata": {"annotations": {annotation: value}}}
        )

    async def _write(
        self, obj: Obj, seen: Observation, checked: Checked | None = None, *, cleanup: CleanUp | None = None
    ) -> None:
        status = ObjectStoreStatus(
            observed_generation=int(obj["metadata"].get("generation") or 0),
            users=len(self._users(key_of(obj))),
            created=checked.ours if checked is not None and checked.fault is None else None,
            capabilities=list(checked.capabilities) if checked is not None else [],
            cleanup=cleanup,
        ).wire()
        status["conditions"] = conditions_for(obj, [seen], KNOWN, self._shared.clock.now())
        await self._status.write(OBJECT_STORE, obj, status)

    def _age(self, checked: Checked) -> float:
        return self._shared.clock.monotonic() - checked.at


def _period(checked: Checked) -> float:
    return CHECK_FAILED_EVERY if checked.fault is not None else CHECK_EVERY


def build(manager: Manager, shared: Shared, *, workers: int = 2) -> Controller:
    """Make the controller of ObjectStores and give it, with what it needs, to the manager."""
    probes = Probes(shared.stores, shared.clock, lambda key: controller.enqueue(key))
    reconciler = ObjectStoreReconciler(shared, probes)
    controller = Controller("objectstore", reconciler.reconcile, workers=workers)
    controller.watches(shared.object_stores, predicate=intent_changed)
    controller.watches(shared.policies, _stores_of_policy)
    controller.watches(shared.policies, lambda obj: _stores_beside(shared, obj), predicate=intent_changed)
    controller.watches(shared.databases, lambda obj: _stores_of_database(shared, obj), predicate=intent_changed)
    manager.add(probes, Group.LEADER)
    manager.add(controller)
    return controller


def _stores_of_policy(obj: Obj) -> list[ObjectKey]:
    places = (obj.get("spec") or {}).get("destinations") or []
    return [ObjectKey(key_of(obj).namespace, place["objectStore"]) for place in places if place.get("objectStore")]


def _stores_of_database(shared: Shared, obj: Obj) -> list[ObjectKey]:
    """A Database that comes, changes or goes may use a store, or be the last that did."""
    spec, namespace = obj.get("spec") or {}, key_of(obj).namespace
    restore = (spec.get("bootstrap") or {}).get("restore") or {}
    names = [(restore.get("source") or {}).get("objectStore")]
    if _lacks_policy(shared, obj):
        return _stores_beside(shared, obj)
    policy = shared.policies.get(ObjectKey(namespace, (spec.get("backup") or {}).get("policy") or ""))
    found = [ObjectKey(namespace, name) for name in names if name]
    return found + (_stores_of_policy(policy) if policy is not None else [])


def _stores_beside(shared: Shared, obj: Obj) -> list[ObjectKey]:
    """All ObjectStores of the namespace: a BackupPolicy that comes or goes says of each whether it is used."""
    return [key_of(store) for store in shared.object_stores.store.objects(key_of(obj).namespace)]


def _lacks_policy(shared: Shared, database: Obj) -> bool:
    name = ((database.get("spec") or {}).get("backup") or {}).get("policy") or ""
    return name != "" and shared.policies.get(ObjectKey(key_of(database).namespace, name)) is None
