"""The repository and the plugin together on a real S3 server."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from yoban.errors import AccessDenied, DeadlineExceeded, IntegrityError, NotReady, Unavailable
from yoban.kube.backoff import BackoffPolicy
from yoban.plugins import BackupItem, DirectoryItem, LinkItem, ObjectStore, StoreConfig
from yoban.repository import Repository, RetryPolicy, WriterOptions
from yoban.testing.faulty_store import Drop, FaultyStore, Flip, Truncate
from yoban_s3 import client
from yoban_s3 import store as stored
from yoban_s3.provider import S3Provider

from tests.unit.repository.parts import META, ROOT, Session, end, file_item, mixed, noise, segment, tree

if TYPE_CHECKING:
    from deploy.lab.store import LocalStore

pytestmark = pytest.mark.server
MIB = 1 << 20
QUICK = RetryPolicy(attempts=3, call_seconds=5, backoff=BackoffPolicy(initial=0.05, cap=0.1))


@pytest.fixture
def config(local_store: LocalStore) -> StoreConfig:
    return StoreConfig(
        bucket=f"it-{secrets.token_hex(4)}",
        prefix="some/prefix",
        endpoint=local_store.endpoint,
        region=local_store.region,
        credentials={"accessKeyId": local_store.access_key, "secretAccessKey": local_store.secret_key},
    )


@pytest.fixture
async def store(config: StoreConfig, local_store: LocalStore) -> AsyncIterator[ObjectStore]:
    async with S3Provider().open(config) as store:
        assert store.bucket is not None
        await store.bucket.create()
        try:
            yield store
        finally:
            local_store.thaw()
            local_store.start()


@pytest.fixture
def faulty(store: ObjectStore) -> FaultyStore:
    return FaultyStore(store)


@pytest.fixture
def repo(faulty: FaultyStore) -> Repository:
    return Repository(faulty, ROOT, retry=QUICK)


async def back_up(repo: Repository, folder: Path, **options: Any) -> None:
    items: list[BackupItem] = [
        DirectoryItem("d"),
        file_item(folder, "d/big", mixed(20 * MIB)),
        file_item(folder, "d/noise", noise(12 * MIB)),
        *(file_item(folder, f"d/{number}", mixed(3000)) for number in range(100)),
        LinkItem("link", "d"),
    ]
    settings = WriterOptions(object_bytes=8 * MIB, put_bytes=5 * MIB, **options)
    async with repo.backups.writer("b1", META, options=settings) as writer:
        session = Session(items)
        await writer.store(session)
        finished = await session.finish()
        await writer.add(finished.items)
        await writer.complete(session.begin, end())


async def test_a_backup_comes_back(repo: Repository, store: ObjectStore, tmp_path: Path) -> None:
    await back_up(repo, tmp_path / "data")
    target = tmp_path / "target"
    target.mkdir()
    await repo.reader(await repo.backups.manifest("b1")).restore(lambda path: target / path)
    found = tree(target)
    assert {name: found[name] for name in tree(tmp_path / "data")} == tree(tmp_path / "data")
    assert found["label"] == b"the label"
    assert (await repo.verify(deep=True)).findings == ()
    assert [upload async for upload in store.list_uploads()] == []


async def test_failure_12_partial_multipart_or_corrupt_object(
    repo: Repository, faulty: FaultyStore, store: ObjectStore, tmp_path: Path
) -> None:
    for operation, fault in (("put_part", Drop()), ("put", Drop()), ("put", Truncate(2000))):
        faulty.heal()
        faulty.inject(operation, fault, key="*/data/*")
        with pytest.raises(IntegrityError):
            await back_up(repo, tmp_path / operation / type(fault).__name__)
        assert [info.key async for info in store.list("")] == []
    faulty.heal()
    faulty.inject("put", Flip(3000), key="*/data/*")
    await back_up(repo, tmp_path / "data")  # same size, other bytes: only reading can tell
    report = await repo.verify(deep=True)
    assert [finding.kind.value for finding in report.findings] == ["damaged"]
    with pytest.raises(IntegrityError) as error:
        await repo.reader(await repo.backups.manifest("b1")).restore(lambda path: tmp_path / "t" / path)
    assert error.value.object == report.findings[0].key


async def test_failure_11_the_store_stops_in_the_middle_of_a_restore(
    repo: Repository, local_store: LocalStore, tmp_path: Path
) -> None:
    await back_up(repo, tmp_path / "data")
    manifest = await repo.backups.manifest("b1")
    told: list[int] = []

    def stop(progress: Any) -> None:
        if not told:
            local_store.kill()
        told.append(progress.done)

    with pytest.raises((Unavailable, DeadlineExceeded)) as error:
        await repo.reader(manifest, progress=stop).restore(lambda path: tmp_path / "t" / path)
    assert "/backups/b1/data/" in error.value.object
    local_store.start()
    await repo.reader(manifest).restore(lambda path: tmp_path / "again" / path)
    assert (tmp_path / "again/d/big").read_bytes() == (tmp_path / "data/d/big").read_bytes()


async def test_failure_11_a_frozen_store_is_a_deadline(
    repo: Repository, local_store: LocalStore, config: StoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.5)
    path = tmp_path / "segment"
    path.write_bytes(mixed(100_000))
    async with S3Provider().open(config) as store:
        repo = Repository(store, ROOT, retry=QUICK)
        await repo.log.put_segment("1", segment("1", 1), path)
        local_store.freeze()
        for call in (repo.log.is_stored, repo.log.confirm_absent):
            with pytest.raises(DeadlineExceeded):
                await call("1", segment("1", 1))
        with pytest.raises(DeadlineExceeded):
            await repo.log.fetch("1", segment("1", 1), tmp_path / "fetched")
        local_store.thaw()
        assert await repo.log.fetch("1", segment("1", 1), tmp_path / "fetched") == 100_000


async def test_failure_06_twin_primaries_push_the_same_name(repo: Repository, tmp_path: Path) -> None:
    async def push(number: int) -> bool:
        path = tmp_path / str(number)
        path.write_bytes(noise(50_000))
        try:
            await repo.log.put_segment("1", segment("1", 1), path)
        except IntegrityError:
            return False
        return True

    assert sum(await asyncio.gather(*(push(number) for number in range(10)))) == 1


async def test_a_cancelled_backup_leaves_no_upload(
    repo: Repository, store: ObjectStore, faulty: FaultyStore, tmp_path: Path
) -> None:
    task = asyncio.create_task(back_up(repo, tmp_path))
    async with asyncio.timeout(20):
        while not any(operation == "put_part" for operation, _ in faulty.calls):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [upload async for upload in store.list_uploads()] == []
    # A server may still carry out a request whose connection was closed, after the clean-up: that is what sweeping is for.
    async with asyncio.timeout(20):
        while [info.key async for info in store.list("")]:
            await repo.backups.sweep(timedelta(0))
            await asyncio.sleep(0.1)


async def test_wrong_credentials(config: StoreConfig, store: ObjectStore) -> None:
    for wrong in ({"secretAccessKey": "no"}, {"accessKeyId": "nobody"}):
        async with S3Provider().open(replace(config, credentials={**config.credentials, **wrong})) as other:
            for call in (lambda: other.head("k"), lambda: other.put("k", b"x")):
                with pytest.raises(AccessDenied):
                    await call()  # type: ignore[no-untyped-call]
            assert other.bucket is not None
            with pytest.raises(AccessDenied):
                await other.bucket.exists()


async def test_a_bucket_that_is_not_there(config: StoreConfig) -> None:
    async with S3Provider().open(replace(config, bucket="no-such-bucket")) as other:
        repo = Repository(other, ROOT, retry=QUICK)
        with pytest.raises(NotReady) as error:
            await repo.catalog()
        assert error.value.reason == "NoSuchBucket"


async def test_an_untrusted_certificate(local_store: LocalStore, config: StoreConfig) -> None:
    with type(local_store)(tls=True) as server:
        credentials = {"accessKeyId": server.access_key, "secretAccessKey": server.secret_key}
        untrusted = replace(config, endpoint=server.endpoint, credentials=credentials)
        async with S3Provider().open(untrusted) as store:
            with pytest.raises(Unavailable) as error:
                await store.head("k")
            assert error.value.reason == "TlsFailed"


async def test_purge_takes_versions_and_markers(store: ObjectStore, config: StoreConfig) -> None:
    raw: Any = store._client  # type: ignore[attr-defined]
    status = {"Status": "Enabled"}
    await raw.put_bucket_versioning(Bucket=config.bucket, VersioningConfiguration=status)
    for _ in range(3):
        await store.put("k", os.urandom(10))
    await store.delete(["k"])
    await store.put("other", b"x")
    versions = await raw.list_object_versions(Bucket=config.bucket)
    assert len(versions["Versions"]) + len(versions.get("DeleteMarkers", ())) >= 5
    bucket = store.bucket
    assert bucket is not None
    with pytest.raises(NotReady):
        await bucket.delete()
    assert [count async for count in bucket.purge()][-1] >= 5
    await bucket.delete()
    assert await bucket.exists() is False


async def test_the_certificate_file_is_private_and_goes(local_store: LocalStore, config: StoreConfig) -> None:
    with type(local_store)(tls=True) as server:
        assert server.ca_file is not None
        path = Path(client._bundle(server.folder, server.ca_file.read_bytes()))
        assert path.stat().st_mode & 0o777 == 0o600
        assert server.ca_file.read_bytes().strip() in path.read_bytes()


async def test_a_part_whose_body_changed_on_its_way_is_refused(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await store.start_upload("k")
    await store.put_part(upload, 1, noise(5 * MIB))

    async def of_another(data: object) -> str:
        return base64.b64encode(bytes(16)).decode()

    monkeypatch.setattr(stored, "_md5", of_another)
    with pytest.raises(Unavailable, match="BadDigest"):
        await store.put_part(upload, 1, noise(5 * MIB))
    await store.abort_upload(upload)
