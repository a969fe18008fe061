"""`BucketAdmin` over S3.

Guarantees: `purge` leaves nothing that would keep the bucket from being removed, versions, delete markers and open uploads
included, also on servers that know no versions. A bucket that another account owns is never taken for ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from yoban.errors import AccessDenied, InvalidInput, NotFound, NotReady, OwnedByAnother, Unavailable, Unsupported
from yoban.plugins import BucketAdmin, StoreConfig

from yoban_s3.failures import code_of, mapped, raise_first


class S3Bucket(BucketAdmin):
    """The bucket of one store, all of it, whatever the store's prefix."""

    def __init__(self, client: Any, config: StoreConfig) -> None:
        self._client = client
        self._name = config.bucket
        self._region = config.region
        self._aws = not config.endpoint

    async def exists(self) -> bool:
        try:
            with mapped(f"bucket {self._name}", self._name):
                await self._client.head_bucket(Bucket=self._name)
            return True
        except (NotFound, NotReady):
            pass
        try:  # a HEAD has no body that would tell what is missing
            with mapped(f"bucket {self._name}", self._name):
                await self._client.list_objects_v2(Bucket=self._name, MaxKeys=1)
        except NotReady:
            return False
        return True

    async def create(self) -> bool:
        if await self._ours():
            return False
        extra: dict[str, Any] = {}
        if self._aws and self._region not in ("", "us-east-1"):
            extra["CreateBucketConfiguration"] = {"LocationConstraint": self._region}
        try:
            with mapped(f"bucket {self._name}", self._name):
                await self._client.create_bucket(Bucket=self._name, **extra)
        except (Unavailable, InvalidInput) as error:
            code, _ = code_of(error.__cause__) if hasattr(error.__cause__, "response") else ("", 0)
            if code == "BucketAlreadyOwnedByYou":
                return False
            if code == "BucketAlreadyExists":
                raise self._taken(code) from error
            raise
        return True

    async def _ours(self) -> bool:
        try:
            return await self.exists()
        except AccessDenied as error:
            raise self._taken("access to it is denied") from error

    def _taken(self, cause: str) -> OwnedByAnother:
        return OwnedByAnother(
            "the bucket's name is taken by another account",
            object=f"bucket {self._name}",
            cause=cause,
            fix="choose another name",
        )

    async def purge(self) -> AsyncIterator[int]:
        removed = 0
        async for entry in self.uploads(""):
            try:
                with mapped(entry["Key"], self._name):
                    await self._client.abort_multipart_upload(
                        Bucket=self._name, Key=entry["Key"], UploadId=entry["UploadId"]
                    )
            except NotFound:
                continue
            removed += 1
            yield removed
        while things := await self._page():
            await self._remove(things)
            removed += len(things)
            yield removed

    async def _page(self) -> list[dict[str, str]]:
        """The first versions and delete markers, or plain objects where the server knows no versions."""
        found: list[dict[str, str]] = []
        try:
            with mapped(f"bucket {self._name}", self._name):
                page = await self._client.list_object_versions(Bucket=self._name, MaxKeys=1000)
        except (NotReady, NotFound):
            return []
        except Unsupported:
            page = {}
        for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            thing = {"Key": entry["Key"]}
            if entry.get("VersionId"):
                thing["VersionId"] = entry["VersionId"]
            found.append(thing)
        if found:
            return found
        with mapped(f"bucket {self._name}", self._name):
            plain = await self._client.list_objects_v2(Bucket=self._name, MaxKeys=1000)
        return [{"Key": entry["Key"]} for entry in plain.get("Contents", ())]

    async def _remove(self, things: list[dict[str, str]]) -> None:
        try:
            with mapped(f"bucket {self._name}", self._name):
                answer = await self._client.delete_objects(Bucket=self._name, Delete={"Objects": things, "Quiet": True})
        except (Unsupported, InvalidInput):
            for thing in things:
                with mapped(thing["Key"], self._name):
                    await self._client.delete_object(Bucket=self._name, **thing)
            return
        raise_first(answer.get("Errors", ()), self._name)

    async def delete(self) -> None:
        try:
            with mapped(f"bucket {self._name}", self._name):
                await self._client.delete_bucket(Bucket=self._name)
        except NotFound:
            return
        except NotReady as error:
            if error.reason != "NoSuchBucket":
                raise
        except Unavailable as error:
            if hasattr(error.__cause__, "response") and code_of(error.__cause__)[0] == "BucketNotEmpty":
                raise NotReady(
                    "the bucket is not empty", object=f"bucket {self._name}", fix="empty it first"
                ) from error
            raise

    async def uploads(self, prefix: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the open uploads below `prefix`, which counts from the bucket's root, as the SDK describes them."""
        marker: dict[str, str] = {}
        while True:
            try:
                with mapped(prefix, self._name):
                    page = await self._client.list_multipart_uploads(Bucket=self._name, Prefix=prefix, **marker)
            except (NotReady, Unsupported):
                if prefix:
                    raise
                return
            for entry in page.get("Uploads", ()):
                yield entry
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}
