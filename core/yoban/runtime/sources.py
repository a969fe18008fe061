"""From a change of an object to the keys that have to be reconciled for it.

Guarantees: handlers made here only enqueue. What a first list brings, and what a relist shows unchanged, goes behind
every real change. An update enqueues the keys of the old and of the new object, so that a changed owner leaves nobody
behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from yoban.kube.informer import Handler
from yoban.kube.objects import (
    Obj,
    ObjectKey,
    annotations_of,
    generation_of,
    is_deleting,
    key_of,
    labels_of,
    resource_version_of,
)
from yoban.kube.resource import Resource
from yoban.kube.store import Store
from yoban.kube.workqueue import INITIAL, NORMAL, WorkQueue

Mapping: TypeAlias = Callable[[Obj], Iterable[ObjectKey]]
"""Pure and total: the keys to reconcile when this object changes."""

Predicate: TypeAlias = Callable[[Obj | None, Obj], bool]
"""(old or None, new): whether an addition or an update is worth a pass. Deletions always are."""

Priority: TypeAlias = int | Callable[[Obj | None, Obj], int]
"""Of a change, fixed or by (old or None, new)."""


def itself(obj: Obj) -> Iterable[ObjectKey]:
    """The object's own key: for the root kind of a controller."""
    return (key_of(obj),)


def owner_of(owner: Resource, *, controller_only: bool = True) -> Mapping:
    """A mapping to the owner of that kind, of any version of its group."""

    def mapping(obj: Obj) -> Iterable[ObjectKey]:
        namespace = key_of(obj).namespace if owner.namespaced else ""
        for reference in obj["metadata"].get("ownerReferences") or ():
            group = str(reference.get("apiVersion", "")).rpartition("/")[0]
            if reference.get("kind") != owner.kind or group != owner.group:
                continue
            if controller_only and not reference.get("controller"):
                continue
            yield ObjectKey(namespace, reference["name"])

    return mapping


def users_of(store: Store, index: str, value: Callable[[Obj], str] | None = None) -> Mapping:
    """A mapping to the objects of `store` whose `index` has the changed object under `value` (default: `namespace/name`).

    For references by name: the index of the root kind says which names an object refers to.
    """

    def mapping(obj: Obj) -> Iterable[ObjectKey]:
        wanted = value(obj) if value is not None else str(key_of(obj))
        return [key_of(user) for user in store.by_index(index, wanted)]

    return mapping


def by_label(label: str) -> Mapping:
    """A mapping to the object of the same namespace that the label names."""

    def mapping(obj: Obj) -> Iterable[ObjectKey]:
        name = labels_of(obj).get(label)
        return (ObjectKey(key_of(obj).namespace, name),) if name else ()

    return mapping


def intent_changed(old: Obj | None, new: Obj) -> bool:
    """A predicate for root kinds: spec (by `generation`), labels, annotations, finalizers or deletion changed.

    Not the status, which the controller writes itself.
    """
    if old is None or resource_version_of(old) == resource_version_of(new):
        return True
    return (
        generation_of(old) != generation_of(new)
        or is_deleting(old) != is_deleting(new)
        or annotations_of(old) != annotations_of(new)
        or labels_of(old) != labels_of(new)
        or old["metadata"].get("finalizers") != new["metadata"].get("finalizers")
    )


def enqueue(
    queue: WorkQueue[ObjectKey],
    mapping: Mapping = itself,
    *,
    predicate: Predicate | None = None,
    priority: Priority = NORMAL,
) -> Handler:
    """The handler that puts keys into `queue`; see the module."""

    def weight(old: Obj | None, new: Obj) -> int:
        return priority(old, new) if callable(priority) else priority

    def on_add(obj: Obj, initial: bool) -> None:
        if predicate is None or predicate(None, obj):
            level = INITIAL if initial else weight(None, obj)
            for key in mapping(obj):
                queue.add(key, priority=level)

    def on_update(old: Obj, new: Obj) -> None:
        if predicate is not None and not predicate(old, new):
            return
        unchanged = resource_version_of(old) == resource_version_of(new)
        level = INITIAL if unchanged else weight(old, new)
        keys = list(mapping(new))
        if not unchanged:
            keys += [key for key in mapping(old) if key not in keys]
        for key in keys:
            queue.add(key, priority=level)

    def on_delete(obj: Obj, stale: bool) -> None:
        level = weight(obj, obj)
        for key in mapping(obj):
            queue.add(key, priority=level)

    return Handler(on_add, on_update, on_delete)
