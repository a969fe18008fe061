"""An object store that fails on request, around any other.

Guarantees: without a fault it behaves as the store inside; a fault strikes the calls that its rule names, in order, and is
counted. Faults are lies that real stores and networks tell: an answer that is lost, a write that never happened, bytes that
changed. `calls` lists what was asked, as `(operation, key)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from yoban.errors import IntegrityError, Unavailable, YobanError
from yoban.plugins import BucketAdmin, Buffer, ObjectInfo, ObjectStore, Part, Upload


def busy() -> YobanError:
    """What a 503 becomes."""
    return Unavailable("the store answers 503 Slow Down")


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise instead of doing it."""

    error: Callable[[], YobanError] = busy


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """Do it, then raise."""

    error: Callable[[], YobanError] = busy


@dataclass(frozen=True, slots=True)
class Drop:
    """Say that it was done, and do nothing (puts and parts)."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """Keep the first `keep` bytes: of what is put, or of a stream, which then ends as if all were there."""

    keep: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Break a stream off after `after` bytes with `error`."""

    after: int
    error: Callable[[], YobanError] = lambda: IntegrityError("the stream ended early")


@dataclass(frozen=True, slots=True)
class Flip:
    """Change one byte: of what is put, or of a stream."""

    at: int


@dataclass(frozen=True, slots=True)
class Delay:
    """Do it `seconds` later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer."""


Fault = Fail | LoseAnswer | Drop | Truncate | Cut | Flip | Delay | Hang


@dataclass(slots=True)
class Rule:
    """Where a fault strikes: operation, pattern of the key, after how many matching calls, how often (None: always)."""

    operation: str
    pattern: str
    fault: Fault
    skip: int = 0
    times: int | None = 1
    struck: int = 0

    def takes(self, operation: str, key: str) -> bool:
        """Count a call; tell whether the fault strikes it."""
        if self.operation not in ("*", operation) or not fnmatchcase(key, self.pattern):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None and self.struck >= self.times:
            return False
        self.struck += 1
        return True


class FaultyStore(ObjectStore):
    """A store with faults.

    Args:
        inner: the store that does the work.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self.rules: list[Rule] = []
        self.calls: list[tuple[str, str]] = []

    def inject(self, operation: str, fault: Fault, *, key: str = "*", skip: int = 0, times: int | None = 1) -> Rule:
        """Let calls fail.

        Args:
            operation: `put`, `create` (a conditional put), `get`, `head`, `list`, `delete`, `start_upload`, `put_part`,
                `complete_upload`, `abort_upload`, `list_uploads`, or `*`.
            fault: what happens.
            key: shell pattern of keys (for `list`: of the prefix).
            skip: matching calls that pass first.
            times: how often; None for ever.

        Returns:
            the rule, which counts in `struck`.
        """
        rule = Rule(operation, key, fault, skip, times)
        self.rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget all faults."""
        self.rules.clear()

    async def _before(self, operation: str, key: str) -> Fault | None:
        self.calls.append((operation, key))
        fault = next((rule.fault for rule in self.rules if rule.takes(operation, key)), None)
        match fault:
            case Fail(error):
                raise error()
            case Hang():
                await asyncio.Event().wait()
            case Delay(seconds):
                await asyncio.sleep(seconds)
        return fault

    async def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> ObjectInfo:
        fault = await self._before("create" if if_absent else "put", key)
        content = _changed(fault, data)
        if isinstance(fault, Drop):
            return ObjectInfo(key, len(content), datetime.now(UTC), _DROPPED)
        info = await self.inner.put(key, content, if_absent=if_absent)
        if isinstance(fault, LoseAnswer):
            raise fault.error()
        return info

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        fault = await self._before("get", key)
        position = 0
        async for piece in self.inner.get(key, start=start, end=end):
            chunk = piece
            match fault:
                case Truncate(keep) if position + len(chunk) > keep:
                    chunk = chunk[: max(0, keep - position)]
                case Cut(after, error) if position + len(chunk) > after:
                    if after > position:
                        yield chunk[: after - position]
                    raise error()
                case Flip(at) if position <= at < position + len(chunk):
                    chunk = _flipped(chunk, at - position)
            position += len(piece)
            if chunk:
                yield chunk

    async def head(self, key: str) -> ObjectInfo:
        await self._before("head", key)
        return await self.inner.head(key)

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncIterator[ObjectInfo]:
        fault = await self._before("list", prefix)
        count = 0
        async for info in self.inner.list(prefix, after=after):
            if isinstance(fault, Cut) and count >= fault.after:
                raise fault.error()
            count += 1
            yield info

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            fault = await self._before("delete", key)
            if not isinstance(fault, Drop):
                await self.inner.delete([key])
            if isinstance(fault, LoseAnswer):
                raise fault.error()

    async def start_upload(self, key: str) -> Upload:
        await self._before("start_upload", key)
        return await self.inner.start_upload(key)

    async def put_part(self, upload: Upload, number: int, data: Buffer) -> Part:
        fault = await self._before("put_part", upload.key)
        if isinstance(fault, Drop):
            return Part(number, _DROPPED)
        part = await self.inner.put_part(upload, number, _changed(fault, data))
        if isinstance(fault, LoseAnswer):
            raise fault.error()
        return part

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> ObjectInfo:
        fault = await self._before("complete_upload", upload.key)
        info = await self.inner.complete_upload(upload, [part for part in parts if part.etag != _DROPPED])
        if isinstance(fault, LoseAnswer):
            raise fault.error()
        return info

    async def abort_upload(self, upload: Upload) -> None:
        await self._before("abort_upload", upload.key)
        await self.inner.abort_upload(upload)

    async def list_uploads(self, prefix: str = "") -> AsyncIterator[Upload]:
        await self._before("list_uploads", prefix)
        async for upload in self.inner.list_uploads(prefix):
            yield upload

    @property
    def bucket(self) -> BucketAdmin | None:
        return self.inner.bucket


_DROPPED = "dropped"


def _changed(fault: Fault | None, data: Buffer) -> Buffer:
    match fault:
        case Truncate(keep):
            return bytes(data)[:keep]
        case Flip(at):
            return _flipped(bytes(data), at)
    return data


def _flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x01
    return bytes(changed)
