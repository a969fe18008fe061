"""Writing the status of an object, only when it changed.

Guarantees: a status that says the same but for its timestamps is not written, so a controller does not wake itself;
fields that are desired no longer are given up. Moving figures are the caller's concern: round them, or leave them out
for a while. Reads nothing from the server.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from yoban.kube.client import Client
from yoban.kube.compare import covers, digest
from yoban.kube.metrics import Tally
from yoban.kube.objects import Obj, ObjectKey, key_of, resource_version_of, uid_of
from yoban.kube.resource import Resource

VOLATILE = frozenset(("lastTransitionTime", "lastProbeTime", "lastHeartbeatTime", "lastUpdateTime", "observedAt"))

status_writes_total = Tally("yoban.kube.status.writes", "Status writes by outcome", ("resource", "outcome"))
_REMEMBERED = 20_000


def without_times(value: Any) -> Any:
    """`value` without the fields that only say when."""
    if isinstance(value, dict):
        return {name: without_times(entry) for name, entry in value.items() if name not in VOLATILE}
    if isinstance(value, list):
        return [without_times(entry) for entry in value]
    return value


class StatusWriter:
    """Applies status with one field manager.

    Args:
        client: the way to the API server.
        field_manager: other than that of the spec's applier.
    """

    def __init__(self, client: Client, field_manager: str) -> None:
        self._client = client
        self.field_manager = field_manager
        self._written: OrderedDict[tuple[Resource, ObjectKey], tuple[str, bytes, str]] = OrderedDict()

    async def write(self, resource: Resource, cached: Obj, status: dict[str, Any]) -> bool:
        """Make `status` (all fields that this manager owns) the status of `cached`; False when it is already.

        Timestamps alone are no change. Raises `ApiError`: `NotFound` when the object is gone.
        """
        live = without_times(cached.get("status") or {})
        wanted = without_times(status)
        key = (resource, key_of(cached))
        uid, mark, version = uid_of(cached), digest(wanted), resource_version_of(cached)
        known = self._written.get(key)
        same = known is not None and known[:2] == (uid, mark)
        # After a restart nothing is remembered: then only an equal status is proof that no field has to be given up. A
        # cache that has not moved since our last write does not show it yet.
        if live == wanted or (same and (covers(live, wanted) or (known is not None and known[2] == version))):
            status_writes_total.add(str(resource), "unchanged")
            return False
        metadata = {"name": key[1].name}
        if key[1].namespace:
            metadata["namespace"] = key[1].namespace
        obj = {"metadata": {**metadata, "uid": uid}, "status": status}
        await self._client.apply_status(resource, obj, field_manager=self.field_manager)
        status_writes_total.add(str(resource), "written")
        self._written[key] = (uid, mark, version)
        self._written.move_to_end(key)
        if len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
        return True

    def forget(self, resource: Resource, key: ObjectKey) -> None:
        """The object is gone for good; nothing breaks when this is not called."""
        self._written.pop((resource, key), None)
