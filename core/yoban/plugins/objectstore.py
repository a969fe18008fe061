"""Where backups and logs go: a flat space of keys with bytes.

A provider opens stores; a store serves one bucket below one prefix. Keys are relative to that prefix, use `/`, and have
at most 800 bytes. All methods are safe to call again after a failure. Every failure is one of: `NotFound` (the store said
that it is absent), `AccessDenied`, `AlreadyExists` (conditional put), `IntegrityError`, or `Unavailable` and
`DeadlineExceeded` (anything else; try again). The difference between the first and the last two decides whether a
restore ends early without anybody knowing: never map an answer that did not arrive to `NotFound`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from yoban.errors import Terminal

Buffer = bytes | bytearray | memoryview


class AlreadyExists(Terminal):
    """A conditional put found an object under the key; nothing was changed."""

    reason = "AlreadyExists"


class StoreCapability(Enum):
    """What a store can do beyond put, get, list and delete."""

    CONDITIONAL_PUT = "conditional-put"
    """`put(if_absent=True)` is atomic against all writers."""
    MULTIPART = "multipart"
    """Objects can be made of parts: `start_upload` and what follows it."""
    BUCKET_ADMIN = "bucket-admin"
    """`bucket` can make and remove the bucket."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """How to reach a store; made from an ObjectStore resource and its Secret.

    Attributes:
        bucket: name of the bucket (or whatever the provider calls its largest unit).
        prefix: key prefix without leading or trailing `/`, or "".
        endpoint: URL of the service, or "" for the provider's own.
        region: region, or "".
        ca_bundle: PEM certificates to trust beside the system's, or b"".
        credentials: entries of the Secret by name; empty means the workload's own identity.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    ca_bundle: bytes = b""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as listed: key relative to the prefix, size in bytes, last change in UTC, the store's own tag."""

    key: str
    size: int
    modified: datetime
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload under way: key, the store's id of it, and when it was started (UTC)."""

    key: str
    id: str
    started: datetime | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is stored: number from 1, and the store's tag of it."""

    number: int
    etag: str


class ObjectStore(ABC):
    """One bucket below one prefix. Usable by many tasks at once; it bounds its connections itself."""

    capabilities: frozenset[StoreCapability] = frozenset()
    """What it can do beyond put, get, list and delete."""

    @abstractmethod
    async def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> ObjectInfo:
        """Store `data` (at most 64 MiB) under `key`; when it returns, a `get` by anyone sees it.

        Args:
            key: relative key.
            data: content; not changed while the call runs.
            if_absent: store only when there is nothing; needs CONDITIONAL_PUT.

        Raises:
            AlreadyExists: with `if_absent`, something is there.
            Unsupported: `if_absent` without the capability.
        """

    @abstractmethod
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Stream bytes [start, end) of an object, in chunks of at most 1 MiB.

        Raises, before the first chunk or at any later one:
            NotFound: the store says there is no such object.
            IntegrityError: the stream ended before the length that the store had announced.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object. Raises NotFound."""

    @abstractmethod
    def list(self, prefix: str = "", *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield all objects whose key starts with `prefix`, in byte order of keys, those after `after` only.

        An absent prefix lists empty. A listing that could not be completed raises; it never just ends early.
        """

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, any number; those already gone count as removed. On a versioned bucket the current versions."""

    async def start_upload(self, key: str) -> Upload:
        """Begin a multipart upload. Raises Unsupported without MULTIPART."""
        raise _no_multipart(key)

    async def put_part(self, upload: Upload, number: int, data: Buffer) -> Part:
        """Store one part; every part but the last has the same size, at least 5 MiB. Again with the same number
        replaces it."""
        raise _no_multipart(upload.key)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> ObjectInfo:
        """Make the object of its parts, atomically."""
        raise _no_multipart(upload.key)

    async def abort_upload(self, upload: Upload) -> None:
        """Give up an upload and free its parts; one already gone counts as given up."""
        raise _no_multipart(upload.key)

    def list_uploads(self, prefix: str = "") -> AsyncIterator[Upload]:
        """Yield uploads under way whose key starts with `prefix`."""
        raise _no_multipart(prefix)

    @property
    def bucket(self) -> BucketAdmin | None:
        """Administration of the bucket itself; None without BUCKET_ADMIN."""
        return None


class BucketAdmin(ABC):
    """Makes and removes the bucket. Used only for an ObjectStore with `create: true`."""

    @abstractmethod
    async def exists(self) -> bool:
        """Tell whether the bucket exists and is reachable with these credentials.

        Raises:
            AccessDenied: it exists and belongs to somebody else, or the credentials do not allow to look.
        """

    @abstractmethod
    async def create(self) -> bool:
        """Make the bucket; False when it was there already and is ours to use.

        Raises:
            OwnedByAnother: the name is taken by somebody else.
        """

    @abstractmethod
    def purge(self) -> AsyncIterator[int]:
        """Remove everything in the whole bucket, versions, delete markers and open uploads too.

        Yields the number of things removed so far. May be stopped and called again.
        """

    @abstractmethod
    async def delete(self) -> None:
        """Remove the empty bucket; one already gone counts as removed.

        Raises:
            NotReady: it is not empty.
        """


class ObjectStoreProvider(ABC):
    """What a plugin declares: a kind of object store, by name."""

    name: str
    """Value of `spec.provider` (lower case letters, digits, `-`)."""
    title: str
    """For people."""
    capabilities: frozenset[StoreCapability] = frozenset()
    """What its stores can do."""
    secret_keys: Mapping[str, str] = {}
    """Entries that the credentials Secret must have, with a description each; empty when it needs none."""

    @abstractmethod
    def check(self, config: StoreConfig) -> None:
        """Check a configuration without I/O.

        Raises:
            InvalidInput: a bucket name, endpoint or credential entry that cannot work; says which and what to do.
        """

    @abstractmethod
    def open(self, config: StoreConfig) -> AbstractAsyncContextManager[ObjectStore]:
        """Open a store. Entering does no I/O that could fail for a store that is down; leaving frees connections."""


def _no_multipart(key: str) -> Terminal:
    from yoban.errors import Unsupported

    return Unsupported("the store has no multipart uploads", object=key)
