"""The one way in which this package calls an object store: each call with a deadline, tried again, named when it fails.

Guarantees: a `Retryable` failure is tried again with growing, jittered delays and then raised with the object's key; a
listing or stream that broke off goes on where it stopped; `read` answers None only for a 404 that a successful listing
confirms; every failure is a `YobanError`, whatever the store's plugin lets through. Does not guarantee that a call which
failed left nothing behind: a put whose answer was lost may have happened, so callers of `create` compare what is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from yoban.errors import DeadlineExceeded, IntegrityError, NotFound, Retryable, Unavailable, YobanError
from yoban.kube.backoff import BackoffPolicy, Random, default_random
from yoban.kube.clock import Clock, SystemClock
from yoban.plugins import AlreadyExists, Buffer, ObjectInfo, ObjectStore, Part, StoreCapability, Upload

T = TypeVar("T")
_log = logging.getLogger(__name__)
SLOWEST = 1 << 20
"""Bytes a second that a store takes at least: what is sent has so much time beside the deadline of its call."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient calls are.

    Attributes:
        attempts: how often a call is tried before its last failure is raised.
        call_seconds: deadline of one try, beside the time that the bytes take which it sends; of a stream or listing, of
            each of its steps.
        backoff: delays between tries.
    """

    attempts: int = 5
    call_seconds: float = 60.0
    backoff: BackoffPolicy = field(default=BackoffPolicy(initial=0.25, cap=10.0, jitter=0.5))


class Access:
    """Calls to one store. Safe for many tasks at once."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
        random: Random = default_random,
    ) -> None:
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self.retry = retry or RetryPolicy()
        self._random = random

    async def again(self, object: str, call: Callable[[], Awaitable[T]], *, sends: int = 0) -> T:
        """Await `call()`, which sends so many bytes, under the deadline, again after `Retryable`.

        Raises:
            Retryable: the last failure, when every try failed, with `object` named.
            Terminal: at once.
        """
        attempt = 0
        while True:
            try:
                return await self._within(object, call, sends)
            except Retryable as error:
                attempt += 1
                await self._pause(attempt, object, error)

    async def _within(self, object: str, call: Callable[[], Awaitable[T]], sends: int = 0) -> T:
        seconds = self.retry.call_seconds + sends / SLOWEST
        try:
            async with asyncio.timeout(seconds):
                return await call()
        except (YobanError, StopAsyncIteration):
            raise
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the object store did not answer within {seconds:.4g} s", object=object, fix=_CHECK
            ) from error
        except Exception as error:
            # The contract names every failure. One that it does not name is the plugin's fault, and says nothing about the
            # object; let through it would end whoever calls, agents among them.
            _log.warning("the object store's plugin failed at %s", object, exc_info=True)
            raise Unavailable(
                "the object store's plugin failed", object=object, cause=f"{type(error).__name__}: {error}", fix=_PLUGIN
            ) from error

    async def _pause(self, attempt: int, object: str, error: Retryable) -> None:
        """Sleep before try `attempt` (from 1), or raise `error` when there were enough."""
        if attempt >= self.retry.attempts:
            if not error.object:
                error.object = object
            raise error
        delay = self.retry.backoff.delay(attempt - 1, self._random)
        await self.clock.sleep(max(delay, error.retry_after or 0.0))

    async def put(self, key: str, data: Buffer) -> ObjectInfo:
        """Store, replacing what is there."""
        return await self.again(key, lambda: self.store.put(key, data), sends=_bytes(data))

    async def create(self, key: str, data: Buffer) -> bool:
        """Store only when nothing is there.

        Returns:
            False when something is there now: somebody else's, or ours from a try whose answer was lost.

        Without the capability CONDITIONAL_PUT it looks first; two writers at the same moment may then both succeed.
        """
        if StoreCapability.CONDITIONAL_PUT not in self.store.capabilities:
            if await self.head(key) is not None:
                return False
            await self.put(key, data)
            return True
        try:
            await self.again(key, lambda: self.store.put(key, data, if_absent=True), sends=_bytes(data))
        except AlreadyExists:
            return False
        return True

    async def head(self, key: str) -> ObjectInfo | None:
        """Return size and time of an object, None when it is proven absent."""

        async def call() -> ObjectInfo | None:
            try:
                return await self.store.head(key)
            except NotFound:
                await self._confirm(key)
                return None

        return await self.again(key, call)

    async def read(self, key: str, *, start: int = 0, end: int | None = None) -> bytes | None:
        """Return bytes [start, end) of an object, None when it is proven absent."""

        async def call() -> bytes | None:
            parts: list[bytes] = []
            try:
                async with aclosing(_closable(self.store.get(key, start=start, end=end))) as chunks:
                    async for chunk in chunks:
                        parts.append(chunk)
            except NotFound:
                await self._confirm(key)
                return None
            except IntegrityError as error:  # the connection was cut: the next try may bring all of it
                raise Unavailable("the object arrived cut short", object=key, cause=str(error)) from error
            return b"".join(parts)

        try:
            return await self.again(key, call)
        except Unavailable as error:
            if isinstance(error.__cause__, IntegrityError):
                error.__cause__.object = error.__cause__.object or key
                raise error.__cause__ from None
            raise

    async def confirm_absent(self, key: str) -> bool:
        """Tell by a listing whether nothing is under `key`. Raises when the listing cannot be had."""
        async with aclosing(self.walk(key)) as found:
            async for info in found:
                return info.key != key  # in byte order a key comes before all that it is a prefix of
        return True

    async def _confirm(self, key: str) -> None:
        if not await self.confirm_absent(key):
            raise Unavailable("the store says that it is absent, and lists it", object=key)

    async def stream(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield an object's bytes, going on after a break where it stopped.

        Raises:
            NotFound: proven absent.
            IntegrityError: again and again it ends before its announced length.
        """
        position, attempt = 0, 0
        while True:
            try:
                async with aclosing(_closable(self.store.get(key, start=position))) as chunks:
                    while True:
                        try:
                            chunk = await self._within(key, chunks.__anext__)
                        except StopAsyncIteration:
                            return
                        if chunk:  # progress
                            position += len(chunk)
                            attempt = 0
                            yield chunk
            except NotFound:
                if await self.confirm_absent(key):
                    raise
                attempt += 1
                await self._pause(attempt, key, Unavailable("the store says that it is absent, and lists it"))
            except Retryable as error:
                attempt += 1
                await self._pause(attempt, key, error)
            except IntegrityError as error:
                attempt += 1
                if attempt >= self.retry.attempts:
                    error.object = error.object or key
                    raise
                await self._pause(attempt, key, Unavailable("the object arrived cut short"))

    async def walk(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        """Yield what is below `prefix` in byte order, going on after a break where it stopped."""
        last, attempt = "", 0
        while True:
            try:
                async with aclosing(_closable(self.store.list(prefix, after=last))) as found:
                    while True:
                        try:
                            info = await self._within(prefix, found.__anext__)
                        except StopAsyncIteration:
                            return
                        last, attempt = info.key, 0
                        yield info
            except Retryable as error:
                attempt += 1
                await self._pause(attempt, prefix, error)

    async def listed(self, prefix: str) -> list[ObjectInfo]:
        """Return everything below `prefix` in byte order."""
        return [info async for info in self.walk(prefix)]

    async def first(self, prefix: str, after: str) -> str | None:
        """Return the first key below `prefix` that comes after `after`, None when there is none."""

        async def call() -> str | None:
            async with aclosing(_closable(self.store.list(prefix, after=after))) as found:
                async for info in found:
                    return info.key
            return None

        return await self.again(prefix, call)

    async def folders(self, prefix: str) -> list[str]:
        """Return what follows `prefix` up to the next `/`, with one call for each however much lies in it."""
        found: list[str] = []
        after = ""
        while (key := await self.first(prefix, after)) is not None:
            name, slash, _ = key[len(prefix) :].partition("/")
            if slash:
                found.append(name)
            after = f"{prefix}{name}/\U0010ffff" if slash else key
        return found

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, any number; those already gone count as removed."""
        for first in range(0, len(keys), 1000):
            batch = keys[first : first + 1000]
            await self.again(batch[0], lambda batch=batch: self.store.delete(batch))  # type: ignore[misc]

    async def start_upload(self, key: str) -> Upload:
        """Begin a multipart upload."""
        return await self.again(key, lambda: self.store.start_upload(key))

    async def put_part(self, upload: Upload, number: int, data: Buffer) -> Part:
        """Store a part; again replaces it."""
        return await self.again(upload.key, lambda: self.store.put_part(upload, number, data), sends=_bytes(data))

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> None:
        """Make the object of its parts. A try whose answer was lost is recognised by the object being there."""
        tried = False

        async def call() -> None:
            nonlocal tried
            try:
                await self.store.complete_upload(upload, parts)
            except NotFound:
                if not tried or await self.head(upload.key) is None:
                    raise
            finally:
                tried = True

        await self.again(upload.key, call)

    async def abort(self, upload: Upload) -> None:
        """Give up an upload as far as the store lets us now; what is left is found by `abort_uploads`."""
        try:
            await self._within(upload.key, lambda: self.store.abort_upload(upload))
        except YobanError as error:  # the error that brought us here is the one to be heard
            _log.warning("an upload could not be given up and is swept later: %s", error)

    async def abort_uploads(self, prefix: str, *, before: datetime | None = None) -> int:
        """Give up all uploads under way below `prefix`, or those known to be started before then; returns how many.

        None where the store has no uploads.
        """
        if StoreCapability.MULTIPART not in self.store.capabilities:
            return 0

        async def found() -> list[Upload]:
            return [
                upload
                async for upload in self.store.list_uploads(prefix)
                if before is None or (upload.started is not None and upload.started < before)
            ]

        uploads = await self.again(prefix, found)
        for upload in uploads:
            await self.again(upload.key, lambda upload=upload: self.store.abort_upload(upload))  # type: ignore[misc]
        return len(uploads)


_CHECK = "check the object store and the network to it"
_PLUGIN = "see the traceback in the log, and report it to whoever made the plugin"


def _bytes(data: Buffer) -> int:
    return memoryview(data).nbytes


async def _closable(source: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Make any asynchronous iterator one that can be closed, and that closes what it wraps."""
    try:
        async for item in source:
            yield item
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
