"""`ObjectStore` over S3.

Guarantees the contract's edges that S3 leaves open: a HEAD's 404 is told from a missing bucket; a range beyond the end
is empty; a stream that ends before its announced length raises; keys that a multi-object delete could not remove raise.
Each put carries a CRC-32 of the stored bytes in a header (never a trailer), and each part of an upload their MD5 (which,
unlike a CRC, need not be announced when the upload is begun), so that a server rejects a body damaged on its way. A host
that forbids MD5 sends parts without.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
from botocore.exceptions import ClientError
from yoban.errors import IntegrityError, InvalidInput, NotFound, Unavailable, Unsupported
from yoban.plugins import BucketAdmin, Buffer, ObjectInfo, ObjectStore, Part, StoreConfig, Upload

from yoban_s3.bucket import S3Bucket
from yoban_s3.client import connected
from yoban_s3.declaration import CAPABILITIES
from yoban_s3.failures import code_of, mapped, raise_first

CHUNK = 1 << 20
_PAGE = 1000
_AT_ONCE = 16
"""Single objects that are being deleted at a time: a thousand must be gone within the deadline of one call."""


class S3Store(ObjectStore):
    """One bucket below one prefix. Made by the provider."""

    capabilities = CAPABILITIES

    def __init__(self, client: Any, config: StoreConfig) -> None:
        self._client = client
        self._name = config.bucket
        self._prefix = config.prefix + "/" if config.prefix else ""
        self._admin = S3Bucket(client, config)
        self._one_by_one = False

    def _key(self, key: str) -> str:
        return self._prefix + key

    async def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> ObjectInfo:
        extra = {"IfNoneMatch": "*"} if if_absent else {}
        with mapped(key, self._name):
            answer = await self._client.put_object(
                Bucket=self._name, Key=self._key(key), Body=data, ChecksumCRC32=await _crc32(data), **extra
            )
        return ObjectInfo(key, memoryview(data).nbytes, datetime.now(UTC), _tag(answer))

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if end is not None and end <= start:
            await self.head(key)
            return
        extra = {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        try:
            with mapped(key, self._name):
                answer = await self._client.get_object(Bucket=self._name, Key=self._key(key), **extra)
        except InvalidInput as error:
            if isinstance(error.__cause__, ClientError) and code_of(error.__cause__)[1] == 416:
                return  # nothing of the object lies in the range
            raise
        announced = int(answer["ContentLength"])
        content: aiohttp.StreamReader = answer["Body"].raw_stream.content
        received = 0
        try:
            while True:
                with mapped(key, self._name):
                    try:
                        chunk = await _chunk(content)
                    except aiohttp.ClientPayloadError as error:
                        raise _cut(key, received, announced) from error
                if not chunk:
                    break
                received += len(chunk)
                yield chunk
        finally:
            answer["Body"].close()
        if received != announced:
            raise _cut(key, received, announced)

    async def head(self, key: str) -> ObjectInfo:
        try:
            with mapped(key, self._name):
                answer = await self._client.head_object(Bucket=self._name, Key=self._key(key))
        except NotFound:
            with mapped(key, self._name):  # a HEAD has no body that would tell what is missing
                await self._client.list_objects_v2(Bucket=self._name, Prefix=self._key(key), MaxKeys=1)
            raise
        return ObjectInfo(key, int(answer["ContentLength"]), _time(answer["LastModified"]), _tag(answer))

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncIterator[ObjectInfo]:
        full = self._key(prefix)
        start = {"StartAfter": self._key(after)} if after else {}
        token: dict[str, str] = {}
        while True:
            with mapped(prefix, self._name):
                page = await self._client.list_objects_v2(
                    Bucket=self._name, Prefix=full, MaxKeys=_PAGE, **(token or start)
                )
            for entry in page.get("Contents", ()):
                key = entry["Key"][len(self._prefix) :]
                if key.encode() > after.encode():
                    yield ObjectInfo(key, int(entry["Size"]), _time(entry["LastModified"]), _tag(entry))
            if not page.get("IsTruncated"):
                return
            if not page.get("NextContinuationToken"):
                raise Unavailable("the listing broke off: the store says there is more and not where", object=prefix)
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _PAGE):
            batch = keys[first : first + _PAGE]
            if not self._one_by_one:
                try:
                    await self._delete_many(batch)
                    continue
                except (Unsupported, InvalidInput):
                    # Some servers have no multi-object delete, or ask for a Content-MD5 that the SDK no longer sends.
                    self._one_by_one = True
            await self._delete_singly(batch)

    async def _delete_singly(self, keys: Sequence[str]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def delete(key: str) -> None:
            async with slots:
                with mapped(key, self._name):
                    await self._client.delete_object(Bucket=self._name, Key=self._key(key))

        tasks = [asyncio.create_task(delete(key)) for key in keys]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _delete_many(self, keys: Sequence[str]) -> None:
        wanted = {"Objects": [{"Key": self._key(key)} for key in keys], "Quiet": True}
        with mapped(keys[0], self._name):
            answer = await self._client.delete_objects(Bucket=self._name, Delete=wanted)
        raise_first(answer.get("Errors", ()), self._name)

    async def start_upload(self, key: str) -> Upload:
        with mapped(key, self._name):
            answer = await self._client.create_multipart_upload(Bucket=self._name, Key=self._key(key))
        return Upload(key, answer["UploadId"], datetime.now(UTC))

    async def put_part(self, upload: Upload, number: int, data: Buffer) -> Part:
        digest = await _md5(data)
        extra = {"ContentMD5": digest} if digest is not None else {}
        with mapped(upload.key, self._name):
            answer = await self._client.upload_part(
                Bucket=self._name, Key=self._key(upload.key), UploadId=upload.id, PartNumber=number, Body=data, **extra
            )
        return Part(number, answer["ETag"])

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> ObjectInfo:
        listed = [
            {"PartNumber": part.number, "ETag": part.etag} for part in sorted(parts, key=lambda part: part.number)
        ]
        with mapped(upload.key, self._name):
            answer = await self._client.complete_multipart_upload(
                Bucket=self._name, Key=self._key(upload.key), UploadId=upload.id, MultipartUpload={"Parts": listed}
            )
        if "ETag" not in answer:  # S3 may answer 200 and put an error into the body
            raise Unavailable("the store did not say that the upload is complete", object=upload.key)
        return await self.head(upload.key)

    async def abort_upload(self, upload: Upload) -> None:
        try:
            with mapped(upload.key, self._name):
                await self._client.abort_multipart_upload(
                    Bucket=self._name, Key=self._key(upload.key), UploadId=upload.id
                )
        except NotFound:
            return

    async def list_uploads(self, prefix: str = "") -> AsyncIterator[Upload]:
        async for entry in self._admin.uploads(self._key(prefix)):
            yield Upload(entry["Key"][len(self._prefix) :], entry["UploadId"], _started(entry))

    @property
    def bucket(self) -> BucketAdmin:
        return self._admin


@asynccontextmanager
async def opened(config: StoreConfig) -> AsyncIterator[ObjectStore]:
    """Yield a store; no request is made."""
    async with connected(config) as client:
        yield S3Store(client, config)


async def _chunk(content: aiohttp.StreamReader) -> bytes:
    """Return up to 1 MiB, as much as is there once anything is; b"" at the end."""
    first = await content.readany()
    if not first or len(first) >= CHUNK // 4:
        return first
    parts, size = [first], len(first)
    while size < CHUNK // 4:
        more = await content.readany()
        if not more:
            break
        parts.append(more)
        size += len(more)
    return b"".join(parts)


def _cut(key: str, received: int, announced: int) -> IntegrityError:
    return IntegrityError(
        "the stream ended early", object=key, cause=f"{received} of {announced} bytes came", reason="ObjectCutShort"
    )


async def _crc32(data: Buffer) -> str:
    """CRC-32 as S3 writes it."""
    large = memoryview(data).nbytes > CHUNK
    value = await asyncio.to_thread(zlib.crc32, data) if large else zlib.crc32(data)
    return base64.b64encode(value.to_bytes(4, "big")).decode()


async def _md5(data: Buffer) -> str | None:
    """MD5 as S3 wants it, which proves nothing but that the body came whole; None where it is forbidden."""
    large = memoryview(data).nbytes > CHUNK
    try:
        digest = await asyncio.to_thread(_hashed, data) if large else _hashed(data)
    except ValueError:
        return None
    return base64.b64encode(digest).decode()


def _hashed(data: Buffer) -> bytes:
    return hashlib.new("md5", data, usedforsecurity=False).digest()


def _tag(answer: dict[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _time(value: Any) -> datetime:
    return value.astimezone(UTC) if isinstance(value, datetime) else datetime.now(UTC)


def _started(entry: dict[str, Any]) -> datetime | None:
    value = entry.get("Initiated")
    return value.astimezone(UTC) if isinstance(value, datetime) else None
