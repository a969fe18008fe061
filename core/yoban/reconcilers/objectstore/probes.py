"""Looks at stores and removes buckets beside the reconciles, which must not wait for either.

Guarantees: one task an ObjectStore at most for each of the two, with a deadline; when it ends the ObjectStore's key is
enqueued; results are kept until the next. A removal that failed is begun again with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from yoban.domain.summary import Fault, fault
from yoban.errors import AccessDenied, OwnedByAnother, Retryable, YobanError
from yoban.kube.backoff import Backoff
from yoban.kube.clock import Clock
from yoban.kube.objects import ObjectKey
from yoban.model.instance import StoreDocument
from yoban.reconcilers.objectstore import bucket
from yoban.reconcilers.objectstore.bucket import Announce, Clear
from yoban.reconcilers.observers import Tasks
from yoban.reconcilers.stores import Stores

log = logging.getLogger(__name__)

CHECK_SECONDS = 45.0
TELL_SECONDS = 5.0
"""Progress of a removal is told at most this often."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be looked at: the store, and whether its bucket is to be made, under which mark."""

    store: StoreDocument
    marker: bucket.BucketMarker
    create: bool
    announced: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found.

    Attributes:
        wish: what was asked.
        at: when, on the monotonic clock.
        ours: the bucket bears our mark.
        capabilities: what the store can do.
        fault: why it cannot be used, None when it can.
    """

    wish: Wish
    at: float
    ours: bool = False
    capabilities: tuple[str, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """How far the removal of a bucket is: things removed, `done`, or why it waits."""

    removed: int = 0
    done: bool = False
    fault: Fault | None = None


class Probes:
    """Tasks and results for all ObjectStores. Made inside the running loop; give it to the manager, which runs it.

    Args:
        stores: opens them.
        clock: for ages and pauses.
        tell: called with an ObjectStore's key when there is news.
    """

    name = "object store probes"

    def __init__(self, stores: Stores, clock: Clock, tell: Callable[[ObjectKey], None]) -> None:
        self._stores = stores
        self._clock = clock
        self._tell = tell
        self._checks: Tasks[ObjectKey] = Tasks("check")
        self._removals: Tasks[ObjectKey] = Tasks("remove bucket")
        self._checked: dict[ObjectKey, Checked] = {}
        self._removed: dict[ObjectKey, Removal] = {}

    async def run(self) -> None:
        """Own the tasks until cancelled; then all of them are ended."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._checks.close()
            await self._removals.close()

    def checked(self, key: ObjectKey) -> Checked | None:
        """Return what was found last."""
        return self._checked.get(key)

    def check(self, key: ObjectKey, wish: Wish, announce: Announce) -> None:
        """Look at the store; nothing when somebody is looking. `announce` as `bucket.ensure` has it."""
        self._checks.start(key, lambda: self._check(key, wish, announce))

    def removal(self, key: ObjectKey) -> Removal | None:
        """Return how far the removal is, None when it was not begun."""
        return self._removed.get(key)

    def remove(self, key: ObjectKey, wish: Wish, *, verified: bool, announce: Announce, clear: Clear) -> None:
        """Begin to remove the bucket; nothing when that is under way or done. The rest as `bucket.remove` has it."""
        known = self._removed.get(key)
        if known is None or not known.done:
            self._removed.setdefault(key, Removal())
            self._removals.start(key, lambda: self._remove(key, wish, verified, announce, clear))

    def forget(self, key: ObjectKey) -> None:
        """The ObjectStore is gone."""
        self._checks.cancel(key)
        self._removals.cancel(key)
        self._checked.pop(key, None)
        self._removed.pop(key, None)

    async def _check(self, key: ObjectKey, wish: Wish, announce: Announce) -> None:
        before = self._checked.get(key)
        ours, wrong = False, None
        capabilities: tuple[str, ...] = ()
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                if wish.create:
                    # The mark lies in the bucket's root, whatever the prefix.
                    async with self._stores.using(msgspec.structs.replace(wish.store, prefix="")) as root:
                        ours = await bucket.ensure(root, wish.marker, announced=wish.announced, announce=announce)
                async with self._stores.using(wish.store) as store:
                    capabilities = tuple(sorted(item.value for item in store.capabilities))
                    await bucket.reach(store)
                    if before is None or before.fault is not None or before.wish.store != wish.store:
                        await bucket.prove_writing(store)
        except Exception as error:
            if not isinstance(error, YobanError | TimeoutError):
                log.exception("check of %s failed", key)
            wrong = store_fault(error)
        self._checked[key] = Checked(wish, self._clock.monotonic(), ours, capabilities, wrong)
        self._tell(key)

    async def _remove(self, key: ObjectKey, wish: Wish, verified: bool, announce: Announce, clear: Clear) -> None:
        pace = Backoff()
        told = self._clock.monotonic()
        while not self._removed[key].done:
            try:
                async with self._stores.using(msgspec.structs.replace(wish.store, prefix="")) as root:
                    begun = self._removed[key].removed
                    async for count in bucket.remove(
                        root, wish.marker.uid, verified=verified, announce=announce, clear=clear
                    ):
                        verified = True
                        self._removed[key] = Removal(begun + count)
                        if self._clock.monotonic() - told >= TELL_SECONDS:
                            told = self._clock.monotonic()
                            self._tell(key)
                self._removed[key] = replace(self._removed[key], done=True, fault=None)
                self._tell(key)
            except Exception as error:
                if not isinstance(error, YobanError | TimeoutError):
                    log.exception("removal of the bucket of %s failed", key)
                self._removed[key] = replace(self._removed[key], fault=store_fault(error))
                self._tell(key)
                if not isinstance(error, Retryable | TimeoutError):
                    return
                await self._clock.sleep(pace.next(self._clock.monotonic()))


def store_fault(error: BaseException) -> Fault:
    """Return what is wrong with a store, in the words of its conditions."""
    found = fault(error)
    if isinstance(error, AccessDenied):
        fix = found.fix or "check the entries of the Secret, and what they are allowed to do with this bucket"
        return replace(found, reason="CredentialsRejected", fix=fix)
    if isinstance(error, OwnedByAnother) and found.reason != "NotOurBucket":
        fix = found.fix or "choose another name for the bucket"
        return replace(found, reason="BucketOfAnother", fix=fix)
    if found.reason in ("NoSuchBucket", "NotFound"):
        fix = "make it, or set create: true"
        return replace(found, reason="BucketMissing", fix=fix, terminal=True, blocking=True)
    if isinstance(error, Retryable | TimeoutError) and found.reason != "BucketShared":
        fix = found.fix or "check endpoint, network and store; it is tried again by itself"
        return replace(found, reason="Unreachable", fix=fix, blocking=True)
    return found
