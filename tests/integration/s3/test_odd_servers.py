"""S3 clones and bad days: what the plugin sends, and what it makes of answers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib

import pytest
from aiohttp import web
from yoban.errors import (
    AccessDenied,
    DeadlineExceeded,
    IntegrityError,
    OwnedByAnother,
    Unavailable,
)
from yoban.plugins import AlreadyExists, ObjectStore, Part, Upload
from yoban_s3 import client

from tests.integration.s3.fake import Fake, failure, serving


async def fine(request: web.Request) -> web.Response:
    return web.Response(headers={"ETag": '"tag"'})


async def read(store: ObjectStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.get(key)])


async def test_failure_13_a_server_that_rejects_trailers_and_chunked_signatures() -> None:
    async def strict(request: web.Request) -> web.Response:
        encoded = request.headers.get("Content-Encoding", "")
        if "x-amz-trailer" in request.headers or "aws-chunked" in encoded:
            return failure(400, "InvalidArgument")
        if request.headers.get("x-amz-content-sha256", "").startswith("STREAMING"):
            return failure(501, "NotImplemented")
        if request.method == "POST" and "uploads" in request.query:
            return web.Response(
                text="<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>",
                content_type="application/xml",
            )
        return await fine(request)

    async with serving(strict) as (fake, store):
        await store.put("k", b"x" * (3 << 20))
        await store.put("c", b"x", if_absent=True)
        upload = await store.start_upload("m")
        await store.put_part(upload, 1, bytearray(5 << 20))
    puts = [seen for seen in fake.seen if seen.method == "PUT"]
    assert [len(seen.body) for seen in puts] == [3 << 20, 1, 5 << 20]
    assert {seen.headers["x-amz-content-sha256"] for seen in puts} == {"UNSIGNED-PAYLOAD"}  # hashed once, by us
    assert puts[1].headers["if-none-match"] == "*"


async def test_a_put_carries_the_checksum_of_its_bytes() -> None:
    async with serving(fine) as (fake, store):
        await store.put("k", memoryview(b"0123456789"))
    expected = base64.b64encode(zlib.crc32(b"0123456789").to_bytes(4, "big")).decode()
    assert fake.seen[0].headers["x-amz-checksum-crc32"] == expected


async def test_bug_a_part_carried_no_checksum_of_its_bytes() -> None:
    async with serving(fine) as (fake, store):
        await store.put_part(Upload("k", "u"), 1, bytearray(b"x" * (5 << 20)))
    expected = base64.b64encode(hashlib.md5(b"x" * (5 << 20), usedforsecurity=False).digest()).decode()
    assert fake.seen[0].headers["content-md5"] == expected


async def test_a_part_that_was_damaged_on_its_way_is_sent_again() -> None:
    async def damaged(request: web.Request) -> web.Response:
        return failure(400, "BadDigest")

    async with serving(damaged) as (_, store):
        with pytest.raises(Unavailable):
            await store.put_part(Upload("k", "u"), 1, b"x")


async def test_no_secret_is_sent_or_told() -> None:
    async def denied(request: web.Request) -> web.Response:
        return failure(403, "InvalidAccessKeyId")

    async with serving(denied) as (fake, store):
        with pytest.raises(AccessDenied) as error:
            await store.put("k", b"x")
    assert "very-secret" not in str(error.value)
    assert "very-secret" not in str(fake.seen)


async def test_failure_11_a_503_is_retryable_and_tried_once_here() -> None:
    async def busy(request: web.Request) -> web.Response:
        response = failure(503, "SlowDown")
        response.headers["Retry-After"] = "3"
        return response

    async with serving(busy) as (fake, store):
        with pytest.raises(Unavailable) as error:
            await read(store, "k")
    assert error.value.retry_after == 3.0
    assert len(fake.seen) == 1


async def test_failure_11_a_proxy_s_404_without_a_code_is_not_absence() -> None:
    async def proxy(request: web.Request) -> web.Response:
        return web.Response(status=404, text="<html>no such host</html>", content_type="text/html")

    async with serving(proxy) as (_, store):
        for call in (lambda: read(store, "k"), lambda: store.head("k")):
            with pytest.raises(Unavailable):
                await call()
        assert store.bucket is not None
        with pytest.raises(Unavailable):
            await store.bucket.exists()


async def test_failure_08_a_body_shorter_than_announced_raises() -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000", "ETag": '"t"'})
        await response.prepare(request)
        await response.write(b"x" * 600)
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(short) as (_, store):
        with pytest.raises((IntegrityError, Unavailable)) as error:
            await read(store, "the/key")
    assert error.value.object == "the/key"


async def test_silence_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.3)

    async def silent(request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and "half" in request.path:
            response = web.StreamResponse(headers={"Content-Length": "1000", "ETag": '"t"'})
            await response.prepare(request)
            await response.write(b"x" * 600)
            await asyncio.sleep(5)
            return response
        await asyncio.sleep(5)
        return web.Response()

    async with serving(silent) as (_, store):
        for call in (store.head("k"), store.put("k", b"x"), read(store, "k"), read(store, "half")):
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(call, 3)


async def test_a_listing_that_breaks_off_raises() -> None:
    async def lost(request: web.Request) -> web.Response:
        text = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
        return web.Response(text=text, content_type="application/xml")

    async with serving(lost) as (_, store):
        with pytest.raises(Unavailable):
            [info async for info in store.list("k")]


async def test_a_completion_with_an_error_in_its_body_is_no_completion() -> None:
    async def late(request: web.Request) -> web.Response:
        text = "<Error><Code>InternalError</Code><Message>sorry</Message></Error>"
        return web.Response(text=text, content_type="application/xml")

    async with serving(late) as (_, store):
        with pytest.raises(Unavailable):
            await store.complete_upload(Upload("k", "u"), [Part(1, "t")])


async def test_a_completion_that_says_nothing_is_no_completion() -> None:
    async def empty(request: web.Request) -> web.Response:
        text = "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
        return web.Response(text=text, content_type="application/xml")

    async with serving(empty) as (_, store):
        with pytest.raises(Unavailable):
            await store.complete_upload(Upload("k", "u"), [Part(1, "t")])


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "MissingContentMD5")])
async def test_a_server_without_multi_object_delete(status: int, code: str) -> None:
    async def single(request: web.Request) -> web.Response:
        return failure(status, code) if request.method == "POST" else web.Response(status=204)

    async with serving(single) as (fake, store):
        await store.delete(["a", "b"])
        await store.delete(["c"])
    assert sorted(seen.path for seen in fake.seen if seen.method == "DELETE") == [f"/bucket/{key}" for key in "abc"]
    assert [seen.method for seen in fake.seen].count("POST") == 1, "it is not asked again"


async def test_bug_a_thousand_objects_went_one_after_another_and_never_within_the_deadline() -> None:
    under_way, most = 0, 0

    async def single(request: web.Request) -> web.Response:
        nonlocal under_way, most
        if request.method == "POST":
            return failure(501, "NotImplemented")
        under_way += 1
        most = max(most, under_way)
        for _ in range(5):
            await asyncio.sleep(0)
        under_way -= 1
        return failure(403, "AccessDenied") if request.path.endswith("/k7") else web.Response(status=204)

    async with serving(single) as (_, store):
        await store.delete([f"j{number}" for number in range(100)])
        assert 4 < most <= 16
        with pytest.raises(AccessDenied) as error:
            await store.delete([f"k{number}" for number in range(10)])
    assert error.value.object == "k7"


async def test_a_delete_that_leaves_a_key_raises() -> None:
    async def partly(request: web.Request) -> web.Response:
        text = "<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code></Error></DeleteResult>"
        return web.Response(text=text, content_type="application/xml")

    async with serving(partly) as (_, store):
        with pytest.raises(AccessDenied) as error:
            await store.delete(["a", "b"])
    assert error.value.object == "b"


async def test_a_conflict_between_conditional_puts_is_tried_again() -> None:
    async def conflict(request: web.Request) -> web.Response:
        return failure(409, "ConditionalRequestConflict")

    async with serving(conflict) as (_, store):
        with pytest.raises(Unavailable):
            await store.put("k", b"x", if_absent=True)

    async def exists(request: web.Request) -> web.Response:
        return failure(412, "PreconditionFailed")

    async with serving(exists) as (_, store):
        with pytest.raises(AlreadyExists):
            await store.put("k", b"x", if_absent=True)


async def test_a_bucket_of_somebody_else() -> None:
    async def foreign(request: web.Request) -> web.Response:
        return web.Response(status=403)

    async with serving(foreign) as (_, store):
        assert store.bucket is not None
        with pytest.raises(AccessDenied):
            await store.bucket.exists()
        with pytest.raises(OwnedByAnother):
            await store.bucket.create()

    for code, status in (("BucketAlreadyExists", 409), ("BucketAlreadyOwnedByYou", 409), ("InternalError", 500)):

        async def taken(request: web.Request, code: str = code, status: int = status) -> web.Response:
            return failure(status, code) if request.method == "PUT" else failure(404, "NoSuchBucket")

        async with serving(taken) as (_, store):
            assert store.bucket is not None
            if code == "BucketAlreadyOwnedByYou":
                assert await store.bucket.create() is False
                continue
            with pytest.raises(OwnedByAnother if status == 409 else Unavailable):
                await store.bucket.create()


def page(name: str, *entries: str) -> web.Response:
    return web.Response(text=f"<{name}>{''.join(entries)}</{name}>", content_type="application/xml")


async def test_purge_on_a_server_without_versions_and_multi_object_delete() -> None:
    keys = ["a", "b"]

    async def plain(request: web.Request) -> web.Response:
        if "uploads" in request.query or "versions" in request.query or request.method == "POST":
            return failure(501, "NotImplemented")
        if request.method == "DELETE":
            keys.remove(request.path.rsplit("/", 1)[1])
            return web.Response(status=204)
        return page("ListBucketResult", *(f"<Contents><Key>{key}</Key></Contents>" for key in keys))

    async with serving(plain) as (_, store):
        assert store.bucket is not None
        assert [count async for count in store.bucket.purge()] == [2]
    assert keys == []


async def test_purge_takes_up_what_another_aborted() -> None:
    async def uploads(request: web.Request) -> web.Response:
        if request.method == "DELETE":
            return failure(404, "NoSuchUpload")
        if "uploads" in request.query:
            return page("ListMultipartUploadsResult", "<Upload><Key>k</Key><UploadId>u</UploadId></Upload>")
        return page("ListBucketResult")

    async with serving(uploads) as (_, store):
        assert store.bucket is not None
        assert [count async for count in store.bucket.purge()] == []


async def test_uploads_over_several_pages() -> None:
    async def pages(request: web.Request) -> web.Response:
        if "key-marker" in request.query:
            return page("ListMultipartUploadsResult", "<Upload><Key>b</Key><UploadId>2</UploadId></Upload>")
        more = (
            "<IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker><NextUploadIdMarker>1</NextUploadIdMarker>"
        )
        return page("ListMultipartUploadsResult", more, "<Upload><Key>a</Key><UploadId>1</UploadId></Upload>")

    async with serving(pages) as (_, store):
        found = [upload async for upload in store.list_uploads("")]
    assert [(upload.key, upload.id, upload.started) for upload in found] == [("a", "1", None), ("b", "2", None)]


async def test_a_bucket_that_cannot_be_removed() -> None:
    async def busy(request: web.Request) -> web.Response:
        return failure(503, "SlowDown")

    async with serving(busy) as (_, store):
        assert store.bucket is not None
        with pytest.raises(Unavailable):
            await store.bucket.delete()
        with pytest.raises(Unavailable):
            [count async for count in store.bucket.purge()]


async def test_the_loop_is_free_while_a_body_is_sent() -> None:
    lags: list[float] = []

    async def beat() -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            lags.append(loop.time() - before)

    async with serving(fine) as (fake, store):
        task = asyncio.create_task(beat())
        await store.put("k", bytearray(32 << 20))
        task.cancel()
    assert isinstance(fake, Fake)
    assert len(fake.seen[0].body) == 32 << 20
    assert len(lags) > 3


async def test_a_workload_without_an_identity_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with serving(fine, credentials={}) as (fake, store):
        with pytest.raises(AccessDenied) as error:
            await store.head("k")
    assert "Secret" in error.value.fix
    assert fake.seen == []
