"""How the reconciler writes children: applied, never taken from somebody else, and only when something differs.

Guarantees: an object that is not ours by owner (or by label, for volume claims) is never touched; a child that the
cache does not know is looked for before it is made, so a stale cache overwrites nothing.
"""

from __future__ import annotations

from typing import Any

from yoban.errors import NotReady, OwnedByAnother
from yoban.kube.apply import Applied, Applier
from yoban.kube.client import Client
from yoban.kube.objects import Obj, controller_of, describe, is_deleting, name_of, namespace_of, uid_of
from yoban.kube.resource import Resource

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
            if cached is not None:
                _check_ours(resource, cached, owner)
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


def _check_ours(resource: Resource, live: Obj, owner: Obj | None) -> None:
    where = describe(resource, namespace_of(live), name_of(live))
    if owner is None:
        return  # a name with the incarnation in it is nobody else's
    controller = controller_of(live)
    if controller is not None and controller.get("uid") == uid_of(owner):
        return
    if controller is not None and controller.get("kind") == owner["kind"] and controller.get("name") == name_of(owner):
        raise NotReady("it belongs to an earlier Database of the same name and has not gone yet", object=where)
    raise _taken(where)


def _taken(where: str) -> OwnedByAnother:
    return OwnedByAnother(
        "it is somebody else's and was left alone",
        object=where,
        fix="rename or remove it, or give the Database another name",
        reason="NameTaken",
    )
