"""One repository in one object store, with everything that can be done to it."""

from __future__ import annotations

from collections.abc import Callable

from yoban.kube.backoff import Random, default_random
from yoban.kube.clock import Clock
from yoban.plugins import ObjectStore
from yoban.repository.access import Access, RetryPolicy
from yoban.repository.backups import Backups
from yoban.repository.catalog import Catalog, CatalogReader
from yoban.repository.holds import Restores
from yoban.repository.identity import IdentityObject
from yoban.repository.layout import Layout
from yoban.repository.manifest import Manifest
from yoban.repository.marks import Marks
from yoban.repository.restore import BackupReader, ReaderOptions, RestoreProgress
from yoban.repository.retention import Retention, RetentionDone, RetentionPlan
from yoban.repository.segments import LogStore
from yoban.repository.tail import TailStore
from yoban.repository.terms import Terms
from yoban.repository.verify import Verifier, VerifyReport


class Repository:
    """The backups and the log of one life of a Database's data. Usable by many tasks at once; opens nothing by itself.

    Args:
        store: where it lies.
        root: `<namespace>/<name>/<incarnation>`, below the store's own prefix.
        clock: for delays and notes.
        retry: how patient calls are.

    Raises:
        InvalidInput: `root` is not such a path.
    """

    def __init__(
        self,
        store: ObjectStore,
        root: str,
        *,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
        random: Random = default_random,
    ) -> None:
        access = Access(store, clock=clock, retry=retry, random=random)
        layout = Layout(root)
        self.root = root
        self.store = store
        self.identity = IdentityObject(access, layout)
        self.terms = Terms(access, layout)
        self.marks = Marks(access, layout)
        self.log = LogStore(access, layout)
        self.tail = TailStore(access, layout)
        self.backups = Backups(access, layout)
        self.restores = Restores(access, layout)
        self._access = access
        self._layout = layout
        self._catalog = CatalogReader(access, layout)
        self._retention = Retention(access, layout)

    async def catalog(self) -> Catalog:
        """Read what is there now. Manifests are read once in the life of this object. Raises Retryable."""
        return await self._catalog.read()

    def reader(
        self,
        manifest: Manifest,
        *,
        options: ReaderOptions | None = None,
        progress: Callable[[RestoreProgress], None] | None = None,
    ) -> BackupReader:
        """Return what puts a base backup back; see `BackupReader`."""
        return BackupReader(self._access, self._layout, manifest, options=options, progress=progress)

    async def apply_retention(self, plan: RetentionPlan) -> RetentionDone:
        """Carry out a plan of `plan_retention`; see `Retention.apply`."""
        return await self._retention.apply(plan)

    async def verify(self, *, deep: bool = False) -> VerifyReport:
        """Compare what is stored with what was recorded; see `Verifier.run`."""
        return await Verifier(self._access, self._layout).run(deep=deep)
