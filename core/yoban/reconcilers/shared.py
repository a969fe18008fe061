"""What all reconcilers of the operator share: one of each for the process.

Made once, at start; the command `yoban operator` gives its runnables to the manager and the rest to the controllers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from yoban.kube.client import Client
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.events import Recorder
from yoban.kube.informer import Informer
from yoban.kube.objects import Obj, namespace_of
from yoban.plugins.registry import Registry
from yoban.reconcilers.agents import Agents
from yoban.reconcilers.catalogues import Catalogues
from yoban.reconcilers.kinds import BACKUP, BACKUP_POLICY, DATABASE, OBJECT_STORE
from yoban.reconcilers.observatory import Observatory
from yoban.reconcilers.stores import Stores
from yoban.reconcilers.verdicts import Verdicts
from yoban.runtime import Group, Manager

BY_STORE = "store"
"""Index: `namespace/name` of the ObjectStore that a BackupPolicy or a Database names."""
BY_POLICY = "policy"
"""Index: `namespace/name` of the BackupPolicy that a Database names."""
BY_DATABASE = "database"
"""Index: `namespace/name` of the Database that a Backup names."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Clients, caches and observers of the process."""

    client: Client
    registry: Registry
    clock: Clock
    stores: Stores
    agents: Agents
    observatory: Observatory
    catalogues: Catalogues
    databases: Informer
    object_stores: Informer
    policies: Informer
    backups: Informer
    recorder: Recorder | None = None
    verdicts: Verdicts = field(default_factory=Verdicts)


def share(
    manager: Manager,
    registry: Registry,
    *,
    clock: Clock | None = None,
    agents: Agents | None = None,
    recorder: Recorder | None = None,
) -> Shared:
    """Make what is shared, and give its runnables to the manager. To be called once, before the manager runs."""
    clock = clock or SystemClock()
    agents = agents or Agents()
    databases = manager.informer(DATABASE, indexers={BY_POLICY: policy_of, BY_STORE: source_store_of})
    object_stores = manager.informer(OBJECT_STORE)
    policies = manager.informer(BACKUP_POLICY, indexers={BY_STORE: policy_stores_of})
    backups = manager.informer(BACKUP, indexers={BY_DATABASE: database_of})
    stores = Stores(manager.client, registry, object_stores.get, clock=clock)
    observatory = Observatory(agents, clock=clock)
    catalogues = Catalogues(stores, clock=clock)
    manager.add(observatory, Group.LEADER)
    manager.add(catalogues, Group.LEADER)
    return Shared(
        client=manager.client,
        registry=registry,
        clock=clock,
        stores=stores,
        agents=agents,
        observatory=observatory,
        catalogues=catalogues,
        databases=databases,
        object_stores=object_stores,
        policies=policies,
        backups=backups,
        recorder=recorder,
    )


def policy_of(obj: Obj) -> list[str]:
    """Index function of Databases: their BackupPolicy."""
    name = ((obj.get("spec") or {}).get("backup") or {}).get("policy")
    return [f"{namespace_of(obj)}/{name}"] if name else []


def source_store_of(obj: Obj) -> list[str]:
    """Index function of Databases: the ObjectStore that they are restored from."""
    restore = ((obj.get("spec") or {}).get("bootstrap") or {}).get("restore") or {}
    name = (restore.get("source") or {}).get("objectStore")
    return [f"{namespace_of(obj)}/{name}"] if name else []


def policy_stores_of(obj: Obj) -> list[str]:
    """Index function of BackupPolicies: their ObjectStores."""
    places = (obj.get("spec") or {}).get("destinations") or []
    return [f"{namespace_of(obj)}/{place['objectStore']}" for place in places if place.get("objectStore")]


def database_of(obj: Obj) -> list[str]:
    """Index function of Backups: their Database."""
    name = (obj.get("spec") or {}).get("database")
    return [f"{namespace_of(obj)}/{name}"] if name else []
