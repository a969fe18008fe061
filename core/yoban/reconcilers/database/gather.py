"""Gathering: what is so now, from the caches, and from the API server where a cache's silence would be decided by.

Guarantees: an absence is believed only when the API server says it; the membership comes from the Lease, and when
that is gone, from the volumes and StatefulSets that are there. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from yoban.kube.client import Client
from yoban.kube.objects import Obj, ObjectKey, annotations_of, is_deleting, labels_of, name_of
from yoban.kube.resource import CONFIG_MAP, LEASE, PERSISTENT_VOLUME_CLAIM, POD, STATEFUL_SET
from yoban.model.instance import DATABASE_LABEL, INSTANCE_LABEL
from yoban.reconcilers.database.builders import document as documents
from yoban.reconcilers.database.builders.lease import MEMBERS, Membership
from yoban.reconcilers.database.builders.names import INCARNATION_LABEL, VOLUME_LABEL, Names
from yoban.reconcilers.database.caches import Caches
from yoban.reconcilers.database.instances import noted
from yoban.reconcilers.database.observed import Claim, Observed, claim
from yoban.reconcilers.database.ports import Agents


class Gatherer:
    """Gathers any Database."""

    def __init__(self, client: Client, caches: Caches, agents: Agents) -> None:
        self._client = client
        self._caches = caches
        self._agents = agents

    async def gather(self, names: Names, *, sure: bool = False) -> Observed:
        """One Database now. `sure`: read the Lease and claims from the API server, before numbers are given out."""
        key = ObjectKey(names.namespace, names.database)
        lease = self._caches.child(LEASE, names.namespace, names.lease)
        if lease is None or sure:
            lease = await self._client.find(LEASE, names.lease, names.namespace)
        found = self._caches.all(PERSISTENT_VOLUME_CLAIM, key)
        stateful = self._caches.all(STATEFUL_SET, key)
        config = self._caches.child(CONFIG_MAP, names.namespace, names.spec)
        if sure or lease is None:
            selector = f"{DATABASE_LABEL}={names.database}"
            found = (await self._client.list(PERSISTENT_VOLUME_CLAIM, names.namespace, labels=selector)).items
            stateful = (await self._client.list(STATEFUL_SET, names.namespace, labels=selector)).items
            config = await self._client.find(CONFIG_MAP, names.spec, names.namespace)
        ours = [obj for obj in found if labels_of(obj).get(INCARNATION_LABEL) == names.incarnation]
        claims = {n: claim(obj) for n, obj in _numbered(names, ours) if labels_of(obj).get(VOLUME_LABEL) == "data"}
        document = documents.read(config)
        if lease is not None and MEMBERS in annotations_of(lease):
            membership = Membership.parse(annotations_of(lease))
        else:
            known = [member.number for member in document.members] if document is not None else []
            membership = _found(claims, [n for n, _ in _numbered(names, stateful)], known)
        for number, uid in membership.volumes.items():
            if uid and (number not in claims or claims[number].uid != uid):
                live = await self._client.find(PERSISTENT_VOLUME_CLAIM, names.data(number), names.namespace)
                if live is not None:
                    claims[number] = claim(live)
                else:
                    claims.pop(number, None)
        notes = {noted(obj) for obj in ours} | ({noted(config)} if config is not None else set())
        return Observed(
            names=names,
            lease=lease,
            membership=membership,
            claims=claims,
            notes=frozenset(notes - {""}),
            pods=dict(_numbered(names, self._caches.all(POD, key))),
            stateful_sets={n: obj for n, obj in _numbered(names, stateful) if not is_deleting(obj)},
            agents=self._agents.statuses(key),
            document=document,
        )


def _numbered(names: Names, objects: Iterable[Obj]) -> list[tuple[int, Obj]]:
    """Instances' own objects by number; copies that somebody made, labels and all, are left out."""
    found = []
    for obj in objects:
        number = names.number(labels_of(obj).get(INSTANCE_LABEL, ""))
        if number is not None and name_of(obj) in names.objects(number):
            found.append((number, obj))
    return sorted(found, key=lambda pair: (pair[0], name_of(pair[1])))


def _found(claims: dict[int, Claim], stateful: list[int], known: list[int]) -> Membership:
    """The membership as it must have been when the Lease was lost: the volumes tell, and where there is none, the rest."""
    volumes = {number: entry.uid for number, entry in claims.items() if not entry.deleting}
    if not volumes:
        volumes = dict.fromkeys({*stateful, *known}, "")
    return Membership(max([0, *stateful, *known, *claims]), volumes)
