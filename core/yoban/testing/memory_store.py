"""An object store in memory: fast, exact, and passes `ObjectStoreContract`.

Guarantees what `ObjectStore` says, within one event loop. A `MemoryCloud` holds buckets, so that several stores can look at
the same objects, and can be stopped: then every call raises `Unavailable`, as a server that does not answer. Keeps
everything in memory and forgets it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from yoban.errors import InvalidInput, NotFound, NotReady, Unavailable, Unsupported
from yoban.plugins import (
    AlreadyExists,
    BucketAdmin,
    Buffer,
    ObjectInfo,
    ObjectStore,
    ObjectStoreProvider,
    Part,
    StoreCapability,
    StoreConfig,
    Upload,
)

CHUNK = 1 << 20
ALL = frozenset(StoreCapability)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Object:
    data: bytes
    modified: datetime
    etag: str


@dataclass(slots=True)
class _Open:
    key: str
    started: datetime
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class _Bucket:
    objects: dict[str, _Object] = field(default_factory=dict)
    uploads: dict[str, _Open] = field(default_factory=dict)


class MemoryCloud:
    """Buckets by name.

    Args:
        now: where objects get their times from.
    """

    def __init__(self, now: Callable[[], datetime] = _now) -> None:
        self.now = now
        self.buckets: dict[str, _Bucket] = {}
        self.running = True
        self.numbers = itertools.count(1)

    def stop(self) -> None:
        """From now on nothing answers."""
        self.running = False

    def start(self) -> None:
        """Answer again."""
        self.running = True


class MemoryStore(ObjectStore):
    """One bucket of a cloud, below one prefix.

    Args:
        cloud: where the objects are; a fresh one when left out.
        bucket: made when left to its default, else it must exist.
        prefix: without `/` at its ends.
        capabilities: to try what a lesser store does.
    """

    def __init__(
        self,
        cloud: MemoryCloud | None = None,
        bucket: str = "",
        prefix: str = "",
        capabilities: frozenset[StoreCapability] = ALL,
    ) -> None:
        self.cloud = cloud or MemoryCloud()
        self.name = bucket or "default"
        self.capabilities = capabilities
        self._prefix = prefix + "/" if prefix else ""
        if not bucket:
            self.cloud.buckets.setdefault(self.name, _Bucket())

    def _bucket(self) -> _Bucket:
        if not self.cloud.running:
            raise Unavailable("the store was stopped", object=self.name)
        if self.name not in self.cloud.buckets:
            raise NotReady("the bucket does not exist", object=self.name, fix="create it", reason="NoSuchBucket")
        return self.cloud.buckets[self.name]

    def _info(self, key: str, item: _Object) -> ObjectInfo:
        return ObjectInfo(key, len(item.data), item.modified, item.etag)

    def _object(self, key: str) -> _Object:
        found = self._bucket().objects.get(self._prefix + key)
        if found is None:
            raise NotFound("there is no such object", object=key)
        return found

    def _store(self, key: str, data: bytes) -> ObjectInfo:
        item = _Object(data, self.cloud.now(), hashlib.sha256(data[: 1 << 16]).hexdigest()[:32])
        self._bucket().objects[self._prefix + key] = item
        return self._info(key, item)

    async def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> ObjectInfo:
        bucket = self._bucket()
        if if_absent:
            if StoreCapability.CONDITIONAL_PUT not in self.capabilities:
                raise Unsupported("no conditional put", object=key)
            if self._prefix + key in bucket.objects:
                raise AlreadyExists("there is an object already", object=key)
        return self._store(key, bytes(data))

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        data = self._object(key).data
        stop = len(data) if end is None else min(end, len(data))
        for offset in range(start, stop, CHUNK):
            self._bucket()
            yield data[offset : min(offset + CHUNK, stop)]

    async def head(self, key: str) -> ObjectInfo:
        return self._info(key, self._object(key))

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncIterator[ObjectInfo]:
        full, cut = self._prefix + prefix, len(self._prefix)
        keys = [key for key in self._bucket().objects if key.startswith(full)]
        for key in sorted(keys, key=str.encode):
            item = self._bucket().objects.get(key)
            if item is not None and key[cut:].encode() > after.encode():
                yield self._info(key[cut:], item)

    async def delete(self, keys: Sequence[str]) -> None:
        objects = self._bucket().objects
        for key in keys:
            objects.pop(self._prefix + key, None)

    def _uploads(self, key: str) -> dict[str, _Open]:
        if StoreCapability.MULTIPART not in self.capabilities:
            raise Unsupported("the store has no multipart uploads", object=key)
        return self._bucket().uploads

    async def start_upload(self, key: str) -> Upload:
        number = f"upload-{next(self.cloud.numbers)}"
        opened = _Open(self._prefix + key, self.cloud.now())
        self._uploads(key)[number] = opened
        return Upload(key, number, opened.started)

    def _open(self, upload: Upload) -> _Open:
        opened = self._uploads(upload.key).get(upload.id)
        if opened is None:
            raise NotFound("there is no such upload", object=upload.key)
        return opened

    async def put_part(self, upload: Upload, number: int, data: Buffer) -> Part:
        content = bytes(data)
        etag = f"{number}-{hashlib.sha256(content[: 1 << 16]).hexdigest()[:16]}"
        self._open(upload).parts[number] = (etag, content)
        return Part(number, etag)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> ObjectInfo:
        opened = self._open(upload)
        if not parts or any(opened.parts.get(part.number, ("", b""))[0] != part.etag for part in parts):
            raise InvalidInput("a part is not there", object=upload.key)
        data = b"".join(opened.parts[part.number][1] for part in sorted(parts, key=lambda part: part.number))
        info = self._store(upload.key, data)
        del self._bucket().uploads[upload.id]
        return info

    async def abort_upload(self, upload: Upload) -> None:
        self._uploads(upload.key).pop(upload.id, None)

    async def list_uploads(self, prefix: str = "") -> AsyncIterator[Upload]:
        full, cut = self._prefix + prefix, len(self._prefix)
        for number, opened in sorted(self._uploads(prefix).items()):
            if opened.key.startswith(full):
                yield Upload(opened.key[cut:], number, opened.started)

    @property
    def bucket(self) -> BucketAdmin | None:
        return MemoryBucketAdmin(self) if StoreCapability.BUCKET_ADMIN in self.capabilities else None

    # What tests do to a store behind its users' backs.

    def raw(self, key: str) -> bytes:
        """Return an object's bytes. Raises KeyError."""
        return self.cloud.buckets[self.name].objects[self._prefix + key].data

    def keys(self, prefix: str = "") -> Sequence[str]:
        """Return all keys below `prefix`, sorted."""
        cut = len(self._prefix)
        return sorted(
            key[cut:] for key in self.cloud.buckets[self.name].objects if key.startswith(self._prefix + prefix)
        )

    def damage(self, key: str, change: Callable[[bytes], bytes]) -> None:
        """Replace an object's bytes by `change(bytes)`."""
        item = self.cloud.buckets[self.name].objects[self._prefix + key]
        item.data = change(item.data)

    def lose(self, key: str) -> None:
        """Remove an object. Raises KeyError."""
        del self.cloud.buckets[self.name].objects[self._prefix + key]

    @property
    def open_uploads(self) -> int:
        """Number of multipart uploads under way in the bucket."""
        return len(self.cloud.buckets[self.name].uploads)


class MemoryBucketAdmin(BucketAdmin):
    """Makes and removes a bucket of a cloud."""

    def __init__(self, store: MemoryStore) -> None:
        self._cloud, self._name = store.cloud, store.name

    def _check(self) -> dict[str, _Bucket]:
        if not self._cloud.running:
            raise Unavailable("the store was stopped", object=self._name)
        return self._cloud.buckets

    async def exists(self) -> bool:
        return self._name in self._check()

    async def create(self) -> bool:
        created = self._name not in self._check()
        self._cloud.buckets.setdefault(self._name, _Bucket())
        return created

    async def purge(self) -> AsyncIterator[int]:
        bucket = self._check().get(self._name, _Bucket())
        removed = 0
        for things in (bucket.objects, bucket.uploads):
            for key in list(things):
                things.pop(key, None)
                removed += 1
                yield removed

    async def delete(self) -> None:
        bucket = self._check().get(self._name)
        if bucket is not None and (bucket.objects or bucket.uploads):
            raise NotReady("the bucket is not empty", object=self._name, fix="empty it first")
        self._cloud.buckets.pop(self._name, None)


class MemoryProvider(ObjectStoreProvider):
    """Provider `memory`. All stores that one provider opens share its cloud."""

    name = "memory"
    title = "In memory, for tests"
    capabilities = ALL

    def __init__(self, cloud: MemoryCloud | None = None) -> None:
        self.cloud = cloud or MemoryCloud()

    def check(self, config: StoreConfig) -> None:
        if not config.bucket:
            raise InvalidInput("the bucket has no name", fix="set spec.bucket")

    @asynccontextmanager
    async def open(self, config: StoreConfig) -> AsyncIterator[ObjectStore]:
        yield MemoryStore(self.cloud, config.bucket, config.prefix)
