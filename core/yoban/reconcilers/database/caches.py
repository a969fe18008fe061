"""The caches that the reconciler reads: Databases, their children, and what they refer to.

Guarantees: children are found by the label that names their Database, so those without an owner (volume claims) are
found as well. What is returned is shared and must not be changed. A cache may be behind: whoever decides by an
absence looks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from yoban.kube.informer import Informer
from yoban.kube.objects import Obj, ObjectKey, key_of, labels_of
from yoban.kube.resource import (
    CONFIG_MAP,
    LEASE,
    NETWORK_POLICY,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    POD_DISRUPTION_BUDGET,
    ROLE,
    ROLE_BINDING,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
    Resource,
)
from yoban.model.instance import DATABASE_LABEL
from yoban.reconcilers.kinds import BACKUP_POLICY, DATABASE, OBJECT_STORE
from yoban.runtime import Manager

CHILDREN: tuple[Resource, ...] = (
    SERVICE_ACCOUNT,
    ROLE,
    ROLE_BINDING,
    SERVICE,
    SECRET,
    CONFIG_MAP,
    LEASE,
    PERSISTENT_VOLUME_CLAIM,
    STATEFUL_SET,
    POD,
    POD_DISRUPTION_BUDGET,
    NETWORK_POLICY,
)
AUTHORITY_LABEL = "yoban.dev/authority"
INDEX = "database"


def database_of(obj: Obj) -> Iterable[str]:
    """Index function: `namespace/name` of the Database that a child's label names."""
    name = labels_of(obj).get(DATABASE_LABEL)
    return (str(ObjectKey(key_of(obj).namespace, name)),) if name else ()


@dataclass(frozen=True, slots=True)
class Caches:
    """Informers by what they hold. `authorities` are the CA Secrets in the operator's namespace."""

    databases: Informer
    policies: Informer
    stores: Informer
    authorities: Informer
    children: Mapping[Resource, Informer]

    @classmethod
    def of(cls, manager: Manager, operator_namespace: str) -> Caches:
        """The manager's caches, shared with other controllers where they ask for the same."""

        def cache(resource: Resource) -> Informer:
            return manager.informer(resource, labels=DATABASE_LABEL, indexers={INDEX: database_of})

        return cls(
            databases=manager.informer(DATABASE),
            policies=manager.informer(BACKUP_POLICY),
            stores=manager.informer(OBJECT_STORE),
            authorities=manager.informer(SECRET, labels=AUTHORITY_LABEL, namespaces=[operator_namespace]),
            children={resource: cache(resource) for resource in CHILDREN},
        )

    def child(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        """A child by name, or None."""
        return self.children[resource].get(ObjectKey(namespace, name))

    def all(self, resource: Resource, key: ObjectKey) -> list[Obj]:
        """All children of a kind of one Database."""
        return self.children[resource].store.by_index(INDEX, str(key))
