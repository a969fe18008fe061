"""Making objects as they should be by server-side apply, and writing nothing when they are.

Guarantees: one field manager, forced; the full set of owned fields is sent; a second call with the same desired object and an
up-to-date cache makes no request. Drift by anybody is noticed, and so is a field that is desired no longer (by a hash of the
field names in an annotation). Owners are of the same namespace. Does not read from the server: a stale cache costs one
superfluous apply, which the server finds to be no change.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from yoban.errors import Terminal
from yoban.kube.client import Client
from yoban.kube.compare import covers, digest, project, shape
from yoban.kube.metrics import Tally
from yoban.kube.objects import (
    Obj,
    ObjectKey,
    is_deleting,
    key_of,
    namespace_of,
    owner_reference,
    resource_version_of,
    uid_of,
)
from yoban.kube.resource import Resource

applies_total = Tally("yoban.kube.applies", "Server-side applies by outcome", ("resource", "outcome"))
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of an `ensure`: the object as stored, and whether it was written."""

    object: Obj
    changed: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """What is remembered of a write: the server may store a value in another form, and the cache shows it late."""

    uid: str
    sent: bytes  # what was sent
    form: bytes  # its part of the object as stored
    base: str  # version of the cached object that was found wanting: while the cache has not moved, we know better


class Applier:
    """Applies with one field manager.

    Args:
        client: the way to the API server.
        field_manager: fixed for a controller for ever, else old fields are never given up.
    """

    def __init__(self, client: Client, field_manager: str) -> None:
        self._client = client
        self.field_manager = field_manager
        self.annotation = f"yoban.dev/applied-{field_manager}"
        self._written: OrderedDict[tuple[Resource, ObjectKey], _Written] = OrderedDict()

    async def ensure(
        self, resource: Resource, desired: Obj, *, cached: Obj | None = None, owner: Obj | None = None
    ) -> Applied:
        """Make `desired` so, unless `cached` (the informer's object, or None) shows that it is.

        `desired` holds the full set of fields that this field manager owns and is not changed; `owner` becomes its
        controller. Raises `ApiError`, and `Terminal` for an owner in another namespace.
        """
        wanted = prepare(desired, owner=owner, annotation=self.annotation)
        if cached is not None and not is_deleting(cached) and self._is_so(resource, wanted, cached):
            applies_total.add(str(resource), "unchanged")
            return Applied(cached, False)
        stored = await self._client.apply(resource, wanted, field_manager=self.field_manager)
        applies_total.add(str(resource), "applied")
        self._remember(resource, wanted, stored, resource_version_of(cached) if cached is not None else "")
        return Applied(stored, True)

    def forget(self, resource: Resource, key: ObjectKey) -> None:
        """The object is gone for good; nothing breaks when this is not called."""
        self._written.pop((resource, key), None)

    def _is_so(self, resource: Resource, wanted: Obj, cached: Obj) -> bool:
        if covers(cached, wanted):  # the hash of the field names is among what is compared
            return True
        known = self._written.get((resource, key_of(wanted)))
        if known is None or known.uid != uid_of(cached) or known.sent != digest(wanted):
            return False
        return known.base == resource_version_of(cached) or known.form == digest(project(cached, wanted))

    def _remember(self, resource: Resource, wanted: Obj, stored: Obj, base: str) -> None:
        key = (resource, key_of(wanted))
        self._written[key] = _Written(uid_of(stored), digest(wanted), digest(project(stored, wanted)), base)
        self._written.move_to_end(key)
        if len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)


def prepare(desired: Obj, *, owner: Obj | None = None, annotation: str | None = None) -> Obj:
    """What is sent for `desired`: with its owner, without write-only forms, and with the hash of its field names.

    Pure. Raises `Terminal` for an owner in another namespace, which the garbage collector would take for gone.
    """
    wanted = {name: value for name, value in desired.items() if name != "status"}
    metadata: dict[str, Any] = dict(desired["metadata"])
    if owner is not None:
        if namespace_of(owner) and namespace_of(owner) != namespace_of(desired):
            raise Terminal(
                "an owner must be in the same namespace",
                object=f"{desired.get('kind')} {key_of(desired)}",
                cause=f"its owner is {owner.get('kind')} {key_of(owner)}",
                fix="leave the owner out and clean up by finalizer",
            )
        metadata["ownerReferences"] = [*metadata.get("ownerReferences", ()), owner_reference(owner)]
    wanted["metadata"] = metadata
    if wanted.get("kind") == "Secret" and wanted.get("stringData"):
        # stringData is never read back, so it could not be compared.
        encoded = {k: base64.b64encode(v.encode()).decode() for k, v in wanted.pop("stringData").items()}
        wanted["data"] = {**wanted.get("data", {}), **encoded}
    if annotation is not None:
        metadata["annotations"] = {**metadata.get("annotations", {}), annotation: shape(wanted)}
    return wanted
