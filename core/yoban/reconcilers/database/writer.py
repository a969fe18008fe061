"""How the reconciler writes children: applied, never taken from somebody else, and only when something differs.

Guarantees: an object that is not ours by its controller (by its label, when it has none) is never touched, be it in the
cache or not: the cache holds the children of all Databases. A child that the cache does not know is looked for before it
is made, so a stale cache overwrites nothing.
"""

from __future__ import annotations

from typing import Any

from yoban.errors import NotReady, OwnedByAnother
from yoban.kube.apply import Applied, Applier
from yoban.kube.client import Client
from yoban.kube.objects import Obj, controller_of, describe, is_deleting, labels_of, name_of, namespace_of, uid_of
from yoban.kube.resource import Resource
from yoban.model.instance import DATABASE_LABEL

FIELD_MANAGER = "yoban-database"


class Writer:
    """Writes for all Databases. `applier` has the one field manager."""

    def __init__(self, client: Client, applier: Applier) -> None:
        self.client = client
        self._applier = applier

    async def ensure(
        self, resource: Resource, desired: dict[str, Any], cached: Obj | None, owner: Obj | None
    ) -> Applied:
        """Make a child so.

        Args:
            resource: its kind.
            desired: the full set of our fields.
            cached: from the cache; None makes it look at the API server first.
            owner: becomes its controller; None for volume claims and what lies in another namespace.

        Raises:
            OwnedByAnother: the name is taken by somebody's object (`NameTaken`).
            NotReady: the child of an earlier Database of the name, or one being deleted, has not gone yet.
        """
        if cached is None:
            cached = await self.client.find(resource, name_of(desired), namespace_of(desired))
        if owner is not None:
            ours(resource, cached, owner)
        elif cached is not None and not _may_be(desired, cached):
            raise _taken(resource, cached)
        if cached is not None and is_deleting(cached):
            raise NotReady(
                "it is being deleted, and made anew afterwards",
                object=describe(resource, namespace_of(desired), name_of(desired)),
                reason="ChildDeleting",
                retry_after=1.0,
            )
        return await self._applier.ensure(resource, desired, cached=cached, owner=owner)

    async def delete(self, resource: Resource, obj: Obj) -> bool:
        """Ask for the deletion of exactly this object; False when it was asked for, or it is gone, already."""
        if is_deleting(obj):
            return False
        return await self.client.delete(
            resource, name_of(obj), namespace_of(obj), uid=uid_of(obj), propagation="Background"
        )


def ours(resource: Resource, live: Obj | None, owner: Obj) -> Obj | None:
    """Return `live`, what there is by the name of a child of `owner`. To be asked before anything of it is read.

    Raises:
        OwnedByAnother: it is somebody else's (`NameTaken`), another Database's perhaps: `a-store` and the store of `a`.
        NotReady: it is an earlier Database's of the same name, and has not gone yet.
    """
    if live is None:
        return None
    controller = controller_of(live)
    if controller is None:
        if labels_of(live).get(DATABASE_LABEL) != name_of(owner):
            raise _taken(resource, live)
    elif controller.get("uid") != uid_of(owner):
        if controller.get("kind") == owner["kind"] and controller.get("name") == name_of(owner):
            where = describe(resource, namespace_of(live), name_of(live))
            raise NotReady("it belongs to an earlier Database of the same name and has not gone yet", object=where)
        raise _taken(resource, live)
    return live


def _may_be(desired: Obj, live: Obj) -> bool:
    """Whether a child without an owner is ours: its name has the incarnation in it, so that only a label says otherwise."""
    mine, found = labels_of(desired).get(DATABASE_LABEL), labels_of(live).get(DATABASE_LABEL)
    return mine is None or found in (None, mine)


def _taken(resource: Resource, live: Obj) -> OwnedByAnother:
    controller, label = controller_of(live), labels_of(live).get(DATABASE_LABEL)
    cause = f"it belongs to Database {label}" if label else "no Database made it"
    if controller is not None:
        cause = f"it belongs to {controller.get('kind')} {controller.get('name')}"
    return OwnedByAnother(
        "it is somebody else's and was left alone",
        object=describe(resource, namespace_of(live), name_of(live)),
        cause=cause,
        fix="rename or remove it, or give the Database another name",
        reason="NameTaken",
    )
