"""Makes a bucket and marks it as made by one ObjectStore; removes only a bucket with that mark.

Guarantees: the mark is put only into a bucket that we made, or that appeared, empty, after we had noted that it did not
exist and that we were about to make it (a crash in between). Everything may be called again. A bucket that was there
before is used and never removed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

import msgspec

from yoban.errors import IntegrityError, NotFound, OwnedByAnother, Unsupported
from yoban.model.instance import Struct
from yoban.plugins import AlreadyExists, ObjectStore, StoreCapability

MARKER = ".yoban/bucket.json"
"""Key of the creation marker, in the bucket's root."""
PROBE = ".yoban/probe"
"""Key that is written and removed to prove that writing works."""
_LARGEST = 1 << 16

Announce = Callable[[], Awaitable[None]]
"""Writes a note to the ObjectStore that survives a crash."""
Clear = Callable[[], None]
"""Raises `NotReady` while somebody else has a place in the bucket."""


class BucketMarker(Struct):
    """Who made the bucket, and when (UTC)."""

    format: int = 1
    uid: str
    namespace: str
    name: str
    created: datetime


async def ensure(store: ObjectStore, marker: BucketMarker, *, announced: bool, announce: Announce) -> bool:
    """Make the bucket when it is not there; tell whether it is ours.

    Args:
        store: opened on the bucket's root.
        marker: what is put into it.
        announced: `announce` was called at an earlier time, while the bucket did not exist.
        announce: notes durably that the bucket does not exist and is about to be made.

    Raises:
        Unsupported: the provider cannot make buckets.
        OwnedByAnother, AccessDenied: the name is taken, or the credentials do not allow it.
    """
    admin = store.bucket
    if admin is None:
        raise Unsupported(
            "the provider cannot make buckets",
            fix="make the bucket yourself and set create: false",
            reason="CannotCreate",
        )
    made = False
    if not await admin.exists():
        if not announced:
            await announce()
            announced = True
        made = await admin.create()
    found = await read_marker(store)
    if found is not None:
        return found.uid == marker.uid
    if made or (announced and await is_empty(store)):
        data = msgspec.json.encode(marker)
        try:
            await store.put(MARKER, data, if_absent=StoreCapability.CONDITIONAL_PUT in store.capabilities)
        except AlreadyExists:
            found = await read_marker(store)
            return found is not None and found.uid == marker.uid
        return True
    return False


async def read_marker(store: ObjectStore) -> BucketMarker | None:
    """Return the mark of a bucket, None when it has none.

    Raises:
        IntegrityError: something else lies under its key.
    """
    data = bytearray()
    try:
        async for chunk in store.get(MARKER, end=_LARGEST):
            data += chunk
    except NotFound:
        return None
    try:
        return msgspec.json.decode(data, type=BucketMarker)
    except msgspec.MsgspecError as error:
        raise IntegrityError("the bucket's creation marker cannot be read", object=MARKER, cause=str(error)) from error


async def is_empty(store: ObjectStore) -> bool:
    """Tell whether there is no object at all."""
    async for _ in store.list():
        return False
    return True


async def reach(store: ObjectStore) -> None:
    """Prove that the store answers and may be listed. Raises what the store raises."""
    async for _ in store.list():
        return


async def prove_writing(store: ObjectStore) -> None:
    """Prove that objects can be written and removed."""
    await store.put(PROBE, b"yoban")
    await store.delete([PROBE])


async def remove(
    store: ObjectStore, uid: str, *, verified: bool, announce: Announce, clear: Clear
) -> AsyncIterator[int]:
    """Empty and remove the bucket that the ObjectStore `uid` made; yields how many things went so far.

    A bucket that is gone already counts as removed. It takes as long as it takes, and others may come meanwhile.

    Args:
        store: opened on the bucket's root.
        uid: of the ObjectStore.
        verified: `announce` was called at an earlier time: the mark was seen, and may be gone by now.
        announce: notes durably that the mark was seen and the removal begins.
        clear: asked before anything goes, and after each step.

    Raises:
        NotReady: by `clear`; nothing more goes.
        OwnedByAnother: it bears no mark of that ObjectStore (`NotOurBucket`); nothing was touched.
        Unsupported: the provider cannot remove buckets.
    """
    admin = store.bucket
    if admin is None:
        raise Unsupported("the provider cannot remove buckets", fix="remove it yourself", reason="CannotRemove")
    if not await admin.exists():
        return
    marker = await read_marker(store)
    if marker.uid != uid if marker is not None else not verified:
        by = f"it was made by ObjectStore {marker.namespace}/{marker.name}" if marker else "it bears no creation marker"
        raise OwnedByAnother(
            "the bucket was not made by this ObjectStore and is left as it is",
            object=MARKER,
            cause=by,
            fix="remove it yourself if nobody needs it",
            reason="NotOurBucket",
        )
    clear()
    if not verified:
        await announce()
        clear()
    removed = 0
    async for removed in admin.purge():
        yield removed
        clear()
    yield removed
    clear()
    await admin.delete()
