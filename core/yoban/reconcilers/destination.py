"""Where a Database's backups and log go: its policy, its store, its place there.

Read from caches (and the credentials from the API server); says by name what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from yoban.domain.identity import incarnation, repository_path
from yoban.errors import InvalidInput, NotFound
from yoban.kube.objects import ObjectKey
from yoban.model.backuppolicy import BackupPolicy
from yoban.model.database import Database
from yoban.model.instance import StoreDocument
from yoban.plugins import Engine
from yoban.reconcilers.catalogues import View
from yoban.reconcilers.shared import Shared


@dataclass(frozen=True, slots=True)
class Destination:
    """Everything that is needed to look at, or write to, a Database's repository."""

    key: ObjectKey
    policy: BackupPolicy
    store_name: str
    store: StoreDocument
    path: str
    incarnation: str
    engine: Engine

    def view(self, shared: Shared) -> View | None:
        """Return what was found there last; None when nobody looked yet. From now on somebody looks."""
        return shared.catalogues.view(self.key, self.store, self.path, self.engine)


async def destination(shared: Shared, database: Database) -> Destination:
    """Return where a Database's backups go.

    Raises:
        InvalidInput: it has no policy (`NoPolicy`), or its engine is not known.
        NotFound: the policy (`PolicyMissing`), the ObjectStore or its Secret is missing.
        Unsupported: a plugin is disabled.
        Retryable: the API server does not answer.
    """
    namespace, name = database.key
    engine = shared.registry.engine(database.spec.engine)
    if database.spec.backup is None:
        raise InvalidInput(
            "the Database has no BackupPolicy",
            object=str(database),
            fix="set spec.backup.policy",
            reason="NoPolicy",
        )
    found = shared.policies.get(ObjectKey(namespace, database.spec.backup.policy))
    if found is None:
        raise NotFound(
            "there is no such BackupPolicy",
            object=f"BackupPolicy {namespace}/{database.spec.backup.policy}",
            fix="create it, or correct spec.backup.policy",
            reason="PolicyMissing",
        )
    policy = BackupPolicy.parse(found)
    store_name = policy.spec.destinations[0].object_store
    life = incarnation(database.metadata.uid)
    return Destination(
        key=ObjectKey(namespace, name),
        policy=policy,
        store_name=store_name,
        store=await shared.stores.document(namespace, store_name),
        path=repository_path(namespace, name, life),
        incarnation=life,
        engine=engine,
    )
