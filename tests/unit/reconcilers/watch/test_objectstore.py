from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from yoban.reconcilers.kinds import BACKUP_POLICY, DATABASE, OBJECT_STORE
from yoban.reconcilers.objectstore.bucket import MARKER, BucketMarker
from yoban.reconcilers.objectstore.places import may_be_one
from yoban.testing.memory_store import MemoryBucketAdmin

from tests.unit.reconcilers.watch.world import World


def ready(world: World, name: str = "s3") -> tuple[str, str, str]:
    return world.condition(OBJECT_STORE, name)


async def becomes(world: World, reason: str, name: str = "s3", seconds: float = 300.0) -> str:
    await world.until(lambda: ready(world, name)[1] == reason, seconds)
    return ready(world, name)[2]


async def test_a_store_that_works_is_ready(world: World):
    world.store()
    await becomes(world, "Reachable")
    status = world.status(OBJECT_STORE, "s3")
    assert ready(world)[0] == "True"
    assert status["observedGeneration"] == 1 and status["users"] == 0
    assert status["capabilities"] == ["bucket-admin", "conditional-put", "multipart"]
    assert world.find(OBJECT_STORE, "s3")["metadata"]["finalizers"] == ["yoban.dev/objectstore"]
    assert world.bucket().keys() == []


async def test_a_pass_with_nothing_to_do_writes_nothing(world: World):
    world.store()
    await becomes(world, "Reachable")
    await world.rest(5)
    before = len(world.server.writes())
    await world.rest(600)
    assert len(world.server.writes()) == before


@pytest.mark.parametrize(
    "spec, reason, words",
    [
        ({"provider": "floppy"}, "ProviderUnknown", "floppy"),
        ({"bucket": ""}, "InvalidSpec", "spec.bucket"),
        ({"bucket": "absent"}, "BucketMissing", "create: true"),
        ({"provider": "guarded", "credentials": {"secret": "none"}}, "SecretMissing", "Secret shop/none"),
        ({"provider": "guarded", "credentials": {"secret": "empty"}}, "SecretMissing", "accessKey: the key"),
        ({"provider": "guarded", "credentials": {"secret": "odd"}}, "SecretMissing", "no text"),
        ({"provider": "guarded", "credentials": {"secret": "wrong"}}, "CredentialsRejected", "the key is wrong"),
        (
            {"provider": "guarded", "credentials": {"secret": "right"}, "bucket": "taken-1", "create": True},
            "BucketOfAnother",
            "choose another name",
        ),
        ({"provider": ["x"]}, "InvalidSpec", "spec.provider"),
    ],
)
async def test_wrong_inputs_are_told_with_reason_and_advice(world: World, spec, reason, words):
    from yoban.kube.resource import SECRET

    world.secret("empty")
    world.secret("wrong", accessKey="left")
    world.secret("right", accessKey="right")
    world.server.put(SECRET, {"metadata": {"namespace": "shop", "name": "odd"}, "data": {"accessKey": "/w=="}})
    world.store(**spec)
    message = await becomes(world, reason)
    assert ready(world)[0] == "False"
    assert words in message


async def test_a_secret_that_comes_is_noticed(world: World):
    world.store(provider="guarded", credentials={"secret": "key"})
    await becomes(world, "SecretMissing")
    world.secret("key", accessKey="left")
    await becomes(world, "CredentialsRejected")
    world.secret("key", accessKey="right\n")
    await becomes(world, "Reachable")


async def test_a_store_that_stops_and_comes_back(world: World):
    world.store()
    await becomes(world, "Reachable")
    world.cloud.stop()
    assert "tried again" in await becomes(world, "Unreachable")
    world.cloud.start()
    await becomes(world, "Reachable", seconds=30)


async def test_a_bucket_is_made_and_marked(world: World):
    made = world.store(bucket="fresh", prefix="a/b", create=True)
    await becomes(world, "Reachable")
    marker = msgspec.json.decode(world.bucket("fresh").raw(MARKER), type=BucketMarker)
    assert (marker.uid, marker.namespace, marker.name) == (made["metadata"]["uid"], "shop", "s3")
    assert world.status(OBJECT_STORE, "s3")["created"] is True


async def test_a_bucket_that_was_there_is_used_and_never_removed(world: World):
    world.store(create=True, deletionPolicy="Delete")
    assert "never be removed" in await becomes(world, "BucketFound")
    await world.delete(OBJECT_STORE, "s3")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "backups" in world.cloud.buckets


async def test_a_crash_between_making_and_marking_is_made_good(world: World):
    made = world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    # As if the mark had never been written: the note that we were about to make it is all there is.
    world.bucket("fresh").lose(MARKER)
    await world.restart()
    await world.until(lambda: world.bucket("fresh").keys() == [MARKER])
    marker = msgspec.json.decode(world.bucket("fresh").raw(MARKER), type=BucketMarker)
    assert marker.uid == made["metadata"]["uid"]


async def test_a_bucket_that_somebody_filled_meanwhile_is_not_claimed(world: World):
    world.store(bucket="fresh", create=True)
    await becomes(world, "Reachable")
    world.bucket("fresh").lose(MARKER)
    await world.bucket("fresh").put("theirs", b"x")
    await world.restart()
    await becomes(world, "BucketFound")


async def test_a_store_without_finalizer_is_let_go_at_once(world: World):
    world.store(bucket="absent")
    await becomes(world, "BucketMissing")
    await world.delete(OBJECT_STORE, "s3")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)


async def test_deletion_waits_while_somebody_uses_it(world: World):
    world.store()
    world.policy()
    world.database()
    restored = {"restore": {"source": {"objectStore": "s3", "path": "shop/orders/0123456789ab"}}}
    world.database("copy", backup=None, bootstrap=restored)
    await world.until(lambda: world.status(OBJECT_STORE, "s3").get("users") == 3)
    await world.delete(OBJECT_STORE, "s3")
    message = await becomes(world, "InUse")
    assert "Database copy, Database orders, BackupPolicy nightly" in message
    await world.delete(DATABASE, "copy")
    await world.delete(DATABASE, "orders")
    await world.until(lambda: "BackupPolicy nightly" in ready(world)[2] and "orders" not in ready(world)[2])
    assert world.find(OBJECT_STORE, "s3") is not None
    await world.delete(BACKUP_POLICY, "nightly")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "backups" in world.cloud.buckets


async def test_bug_a_database_whose_policy_was_deleted_did_not_count_as_a_user(world: World):
    world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    world.policy()
    world.database()
    await world.until(lambda: world.status(OBJECT_STORE, "s3").get("users") == 2)
    await world.bucket("fresh").put("shop/orders/backup", b"x")
    await world.delete(BACKUP_POLICY, "nightly")
    await world.until(lambda: world.status(OBJECT_STORE, "s3").get("users") == 1)
    await world.delete(OBJECT_STORE, "s3")
    assert "Database orders (its BackupPolicy is missing)" in await becomes(world, "InUse")
    await world.rest(600)
    assert world.bucket("fresh").raw("shop/orders/backup") == b"x"
    world.store("elsewhere")
    world.policy(destinations=[{"objectStore": "elsewhere"}])
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)


async def test_a_database_that_goes_after_its_policy_lets_the_store_go(world: World):
    world.store()
    world.policy()
    world.database()
    await becomes(world, "Reachable")
    await world.delete(BACKUP_POLICY, "nightly")
    await world.delete(OBJECT_STORE, "s3")
    await becomes(world, "InUse")
    await world.delete(DATABASE, "orders")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None, 10)


async def test_a_bucket_of_ours_is_emptied_and_removed(world: World):
    world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    store = world.bucket("fresh")
    for number in range(30):
        await store.put(f"data/{number}", b"x")
    await store.start_upload("data/open")
    await world.delete(OBJECT_STORE, "s3")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "fresh" not in world.cloud.buckets


async def test_bug_a_bucket_was_emptied_with_what_another_objectstore_had_in_it(world: World):
    world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    world.store("other", bucket="fresh", prefix="other")
    await becomes(world, "Reachable", "other")
    await world.bucket("fresh").put("other/shop/orders/backup", b"x")
    await world.delete(OBJECT_STORE, "s3")
    message = await becomes(world, "BucketShared")
    assert "ObjectStore shop/other" in message and "Retain" in message
    await world.rest(600)
    assert world.bucket("fresh").raw("other/shop/orders/backup") == b"x"
    assert world.bucket("fresh").raw(MARKER)
    await world.delete(OBJECT_STORE, "other")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "fresh" not in world.cloud.buckets


async def test_bug_a_removal_that_was_tried_again_emptied_the_bucket_of_an_objectstore_made_meanwhile(world: World):
    made = world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    # The operator ended in the middle of the purge, and stays away while another one begins to use the bucket.
    world.annotate(OBJECT_STORE, "s3", bucket_removing=made["metadata"]["uid"])
    await world.stop()
    world.server.edit(
        OBJECT_STORE, "shop", "s3", lambda obj: obj["metadata"].update(deletionTimestamp="2026-01-01T00:20:00Z")
    )
    world.store("other", bucket="fresh", prefix="other")
    await world.bucket("fresh").put("other/shop/orders/backup", b"x")
    await world.start()
    assert "ObjectStore shop/other" in await becomes(world, "BucketShared")
    await world.rest(600)
    assert world.bucket("fresh").raw("other/shop/orders/backup") == b"x"
    await world.delete(OBJECT_STORE, "other")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "fresh" not in world.cloud.buckets


async def test_bug_a_bucket_was_emptied_to_its_end_although_an_objectstore_came_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    purge = MemoryBucketAdmin.purge

    async def slowly(self: MemoryBucketAdmin) -> AsyncIterator[int]:
        async for count in purge(self):
            await asyncio.sleep(1)
            yield count

    monkeypatch.setattr(MemoryBucketAdmin, "purge", slowly)
    world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    for number in range(60):
        await world.bucket("fresh").put(f"data/{number}", b"x")
    await world.delete(OBJECT_STORE, "s3")
    await becomes(world, "Emptying")
    world.store("other", bucket="fresh", prefix="data")
    assert "ObjectStore shop/other" in await becomes(world, "BucketShared")
    await world.rest(600)
    assert len(world.bucket("fresh").keys()) > 30
    await world.delete(OBJECT_STORE, "other")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)


async def test_bug_the_same_bucket_at_an_endpoint_written_otherwise_was_not_recognised(world: World):
    world.store(bucket="fresh", endpoint="https://minio.shop:9000", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    world.store("other", bucket="fresh", prefix="other", endpoint="https://MinIO.shop.svc.cluster.local:9000/")
    await becomes(world, "Reachable", "other")
    await world.bucket("fresh").put("other/shop/orders/backup", b"x")
    await world.delete(OBJECT_STORE, "s3")
    assert "ObjectStore shop/other" in await becomes(world, "BucketShared")
    await world.rest(600)
    assert world.bucket("fresh").raw("other/shop/orders/backup") == b"x"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("", ""),
        ("https://minio:9000", "https://minio:9000/"),
        ("https://minio:9000", "HTTPS://MINIO:9000"),
        ("https://s3.example.com", "https://s3.example.com:443"),
        ("http://s3.example.com:80", "https://s3.example.com."),
        ("http://minio.shop", "http://minio.shop.svc"),
        ("http://minio.shop.svc:9000", "http://minio.shop.svc.cluster.local:9000"),
        ("http://minio.shop.svc:9000", "http://minio.shop.svc.another.domain:9000"),
        ("http://minio:9000", "http://minio.shop.svc:9000"),
        ("http://0.minio.shop.svc:9000", "http://0.minio.shop:9000"),
        ("", "https://s3.amazonaws.com"),
        ("", "https://s3.eu-central-1.amazonaws.com"),
        ("", "https://bucket.vpce-1.s3.eu-central-1.vpce.amazonaws.com"),
        ("http://[fd00::1]:9000", "http://[FD00::1]:9000/"),
        ("http://[fd00::1:9000", "http://[FD00::1:9000/"),
    ],
)
def test_endpoints_that_may_be_one_service(left: str, right: str):
    assert may_be_one(left, right) and may_be_one(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("http://minio:9000", "http://minio:9001"),
        ("http://minio.shop:9000", "http://minio.other:9000"),
        ("http://minio:9000", "http://minio2:9000"),
        ("http://minio:9000", "http://minio.example.com:9000"),
        ("https://gate/one", "https://gate/two"),
        ("", "http://minio.shop.svc:9000"),
        ("", "http://minio:9000"),
        ("", "http://10.0.0.1:9000"),
        ("", "http://[fd00::1]:9000"),
    ],
)
def test_endpoints_that_are_two(left: str, right: str):
    assert not may_be_one(left, right) and not may_be_one(right, left)


async def test_retain_is_the_default(world: World):
    world.store(bucket="fresh", create=True)
    await becomes(world, "Reachable")
    await world.delete(OBJECT_STORE, "s3")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "fresh" in world.cloud.buckets


async def test_deletion_waits_for_a_store_that_is_down_and_says_so(world: World):
    world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    world.cloud.stop()
    await world.delete(OBJECT_STORE, "s3")
    message = await becomes(world, "Unreachable")
    assert "cannot be removed now" in message and "skip-cleanup" in message
    assert world.status(OBJECT_STORE, "s3")["cleanup"]["state"] == "Waiting"
    await world.rest(600)
    assert world.find(OBJECT_STORE, "s3") is not None
    world.cloud.start()
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "fresh" not in world.cloud.buckets


async def test_skip_cleanup_ends_the_wait(world: World):
    world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    world.cloud.stop()
    await world.delete(OBJECT_STORE, "s3")
    await becomes(world, "Unreachable")
    world.annotate(OBJECT_STORE, "s3", skip_cleanup="true")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    world.cloud.start()
    assert "fresh" in world.cloud.buckets


async def test_a_removal_goes_on_after_a_restart_although_the_mark_went_first(world: World):
    made = world.store(bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    await world.bucket("fresh").put("zzz", b"x")
    # The operator ended in the middle of the purge: noted, the mark gone, something left.
    world.annotate(OBJECT_STORE, "s3", bucket_removing=made["metadata"]["uid"])
    world.bucket("fresh").lose(MARKER)
    await world.stop()
    world.server.edit(
        OBJECT_STORE, "shop", "s3", lambda obj: obj["metadata"].update(deletionTimestamp="2026-01-01T00:20:00Z")
    )
    await world.start()
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "fresh" not in world.cloud.buckets


async def test_a_bucket_with_the_mark_of_another_is_left(world: World):
    world.store(bucket="fresh", create=True)
    await becomes(world, "Reachable")
    world.store("other", bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "BucketFound", "other")
    await world.delete(OBJECT_STORE, "other")
    await world.until(lambda: world.find(OBJECT_STORE, "other") is None)
    assert world.bucket("fresh").raw(MARKER)


async def test_a_marker_that_cannot_be_read_is_told(world: World):
    await world.bucket("backups").put(MARKER, b"nonsense")
    world.store(create=True)
    assert "marker cannot be read" in await becomes(world, "IntegrityError")


async def test_credentials_that_went_are_remembered_for_the_clean_up(world: World):
    from yoban.kube.resource import SECRET

    world.secret("key", accessKey="right")
    world.store(provider="guarded", credentials={"secret": "key"}, bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    world.server.remove(SECRET, "shop", "key")
    await world.delete(OBJECT_STORE, "s3")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "fresh" not in world.cloud.buckets


async def test_without_any_credentials_the_clean_up_waits(world: World):
    from yoban.kube.resource import SECRET

    world.secret("key", accessKey="right")
    world.store(provider="guarded", credentials={"secret": "key"}, bucket="fresh", create=True, deletionPolicy="Delete")
    await becomes(world, "Reachable")
    world.server.remove(SECRET, "shop", "key")
    await world.restart()
    await becomes(world, "SecretMissing")
    await world.delete(OBJECT_STORE, "s3")
    await world.until(lambda: "cannot be removed now" in ready(world)[2])
    world.secret("key", accessKey="right")
    await world.until(lambda: world.find(OBJECT_STORE, "s3") is None)
    assert "fresh" not in world.cloud.buckets
