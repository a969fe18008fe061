"""What a Database refers to: its policy, the store behind it, and where it is restored from.

Guarantees: what is missing or wrong becomes a fault with reason and fix, never a guess. A running Database keeps what
it has while a reference is broken. Asks the API server and caches only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from yoban.domain.identity import incarnation, repository_path
from yoban.domain.summary import Fault, fault
from yoban.errors import InvalidInput, NotFound, NotReady, YobanError
from yoban.kube.objects import ObjectKey, uid_of
from yoban.model.backuppolicy import BackupPolicy
from yoban.model.bootstrap import Source, Target
from yoban.model.database import Database
from yoban.model.instance import ArchiveDocument, RestoreDocument, StoreDocument, TargetDocument
from yoban.reconcilers.database.admit import Admitted
from yoban.reconcilers.database.caches import Caches
from yoban.reconcilers.database.ports import Catalogues, Stores


@dataclass(frozen=True, slots=True)
class References:
    """What was found.

    Attributes:
        policy: the BackupPolicy, None without one or when it is missing.
        archive: where the log goes, None when nowhere (or unknown: see `faults`).
        store: configuration of that store.
        restore: what to restore from, None when nothing is to be restored (any more).
        source: configuration of the store to restore from.
        faults: what is wrong with the policy or its store; `restore_faults` with the restore.
    """

    policy: BackupPolicy | None = None
    archive: ArchiveDocument | None = None
    store: StoreDocument | None = None
    restore: RestoreDocument | None = None
    source: StoreDocument | None = None
    faults: tuple[Fault, ...] = field(default=())
    restore_faults: tuple[Fault, ...] = field(default=())


class Resolver:
    """Resolves references of Databases."""

    def __init__(self, caches: Caches, stores: Stores, catalogues: Catalogues) -> None:
        self._caches = caches
        self._stores = stores
        self._catalogues = catalogues

    async def resolve(self, admitted: Admitted, *, initialized: bool) -> References:
        """Find everything. A restore matters only until the data exists."""
        database, names = admitted.database, admitted.names
        policy: BackupPolicy | None = None
        archive: ArchiveDocument | None = None
        store: StoreDocument | None = None
        faults: list[Fault] = []
        if database.spec.backup is not None:
            try:
                policy = self._policy(names.namespace, database.spec.backup.policy)
                store = await self._store_of(policy)
                archive = ArchiveDocument(
                    path=names.repository,
                    rpo_seconds=policy.spec.rpo.total_seconds(),
                    policy=policy.metadata.name,
                )
            except YobanError as error:
                faults.append(fault(error))
        restore: RestoreDocument | None = None
        source: StoreDocument | None = None
        restore_faults: list[Fault] = []
        bootstrap = database.spec.bootstrap
        if not initialized and bootstrap is not None and bootstrap.restore is not None:
            try:
                path, source = await self._source(database, bootstrap.restore.source)
                restore = RestoreDocument(path=path, target=_target(bootstrap.restore.target))
                self._check_restore(admitted, source, path)
            except YobanError as error:
                restore_faults.append(fault(error))
        return References(policy, archive, store, restore, source, tuple(faults), tuple(restore_faults))

    def _policy(self, namespace: str, name: str) -> BackupPolicy:
        found = self._caches.policies.get(ObjectKey(namespace, name))
        if found is None:
            raise NotFound(
                "there is no such policy",
                object=f"BackupPolicy {namespace}/{name}",
                fix="create it, or name another in spec.backup.policy",
                reason="PolicyMissing",
            )
        return BackupPolicy.parse(found)

    async def _store_of(self, policy: BackupPolicy) -> StoreDocument:
        return await self._stores.document(policy.metadata.namespace, policy.spec.destinations[0].object_store)

    async def _source(self, database: Database, source: Source) -> tuple[str, StoreDocument]:
        namespace = database.metadata.namespace
        if source.object_store is not None:
            return source.path or "", await self._stores.document(namespace, source.object_store)
        name = source.database or ""
        found = self._caches.databases.get(ObjectKey(namespace, name))
        if found is None:
            raise NotFound(
                "there is no such Database to restore from",
                object=f"Database {namespace}/{name}",
                fix="name the objectStore and path instead: they work when the Database is gone",
                reason="SourceMissing",
            )
        other = Database.parse(found)
        if other.spec.backup is None:
            raise InvalidInput(
                "the Database to restore from has no backup policy",
                object=str(other),
                fix="name the objectStore and path of its backups instead",
                reason="SourceMissing",
            )
        life = source.incarnation or incarnation(uid_of(found))
        store = await self._store_of(self._policy(namespace, other.spec.backup.policy))
        return repository_path(namespace, name, life), store

    def _check_restore(self, admitted: Admitted, source: StoreDocument, path: str) -> None:
        names = admitted.names
        if path == names.repository:
            raise InvalidInput(
                "a Database cannot be restored from itself",
                object=path,
                reason="SourceMissing",
                fix="name another path",
            )
        if admitted.target is None:
            return
        key = ObjectKey(names.namespace, names.database)
        plan = self._catalogues.plan(key, source, path, admitted.engine, admitted.target)
        if plan is None:
            raise NotReady("the backups to restore from are being looked up", object=path, reason="CheckingSource")


def _target(target: Target) -> TargetDocument:
    return TargetDocument(
        type=target.type,
        value=target.value or "",
        exclusive=target.exclusive,
        line=target.line or "",
        backup=target.backup or "",
        skip=list(target.skip),
    )
