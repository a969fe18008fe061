"""Reading Kubernetes objects, which are plain dicts here: keys, names, owners, and copies for editing.

Guarantees: nothing here changes its argument. Objects out of a cache are shared: whoever wants to edit one takes a `copy`
first. Does not validate: a field that is missing reads as empty.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import msgspec

from yoban.kube.resource import Resource

Obj: TypeAlias = dict[str, Any]


class ObjectKey(NamedTuple):
    """The identity of an object among those of its kind; `namespace` is "" for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(obj: Obj) -> ObjectKey:
    """The key of `obj`; KeyError when it has no name."""
    metadata = obj["metadata"]
    return ObjectKey(metadata.get("namespace") or "", metadata["name"])


def name_of(obj: Obj) -> str:
    """`metadata.name`, or ""."""
    return str(obj.get("metadata", {}).get("name", ""))


def namespace_of(obj: Obj) -> str:
    """`metadata.namespace`, or ""."""
    return str(obj.get("metadata", {}).get("namespace") or "")


def uid_of(obj: Obj) -> str:
    """`metadata.uid`, or ""."""
    return str(obj.get("metadata", {}).get("uid", ""))


def resource_version_of(obj: Obj) -> str:
    """`metadata.resourceVersion`, or "": opaque, to be stored, sent back and compared for equality only."""
    return str(obj.get("metadata", {}).get("resourceVersion", ""))


def generation_of(obj: Obj) -> int:
    """`metadata.generation`: rises with each change of the spec; 0 when the kind has none."""
    return int(obj.get("metadata", {}).get("generation") or 0)


def is_deleting(obj: Obj) -> bool:
    """Whether somebody asked for the deletion of `obj` already."""
    return bool(obj.get("metadata", {}).get("deletionTimestamp"))


def labels_of(obj: Obj) -> dict[str, str]:
    """`metadata.labels`: the object's own dict where there is one, not to be changed."""
    return obj.get("metadata", {}).get("labels") or {}


def annotations_of(obj: Obj) -> dict[str, str]:
    """`metadata.annotations`: the object's own dict where there is one, not to be changed."""
    return obj.get("metadata", {}).get("annotations") or {}


def conditions_of(obj: Obj) -> list[dict[str, Any]]:
    """`status.conditions`, or an empty list."""
    return (obj.get("status") or {}).get("conditions") or []


def copy(obj: Obj) -> Obj:
    """A deep copy that may be edited. Quicker than `copy.deepcopy`: objects of the API hold JSON only."""
    duplicate: Obj = msgspec.json.decode(msgspec.json.encode(obj))
    return duplicate


def describe(resource: Resource, namespace: str | None, name: str | None) -> str:
    """How messages name an object: `ConfigMap shop/orders`."""
    if name is None:
        return f"{resource} in {namespace}" if namespace else str(resource)
    return f"{resource.kind} {namespace}/{name}" if namespace else f"{resource.kind} {name}"


def controller_of(obj: Obj) -> dict[str, Any] | None:
    """The owner reference with `controller: true`, or None."""
    for reference in obj.get("metadata", {}).get("ownerReferences") or ():
        if reference.get("controller"):
            found: dict[str, Any] = reference
            return found
    return None


def owner_reference(owner: Obj) -> dict[str, Any]:
    """A reference that makes `owner` the controller of a child in the same namespace.

    KeyError when `owner` was never stored (it has no uid). The API server's garbage collector removes the child after its
    owner; `blockOwnerDeletion` makes a foreground deletion wait for it.
    """
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
