"""What goes wrong around a real MySQL: the store, stored objects, and replicas that will never follow again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import PodProcess, World, problem, until
from mysqlside import covered, small, sql, start
from postgres import backup, keys, make_bucket, restored
from yoban.agent.storage import store_config
from yoban.model.control import AgentStatus
from yoban.model.instance import StoreDocument, TargetDocument
from yoban_s3.provider import S3Provider

from deploy.lab.store import LocalStore

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("mysql_programs")]
PATH = "shop/orders/0123456789ab"


async def written(make_world: Callable[..., World], bucket: StoreDocument) -> None:
    """A Database that is gone: a base backup, three rows in files of their own, all of it stored."""
    world = small(make_world)
    world.archive_to(bucket)
    pod = world.pod()
    start(pod)
    await until("it is ready", pod.ready, 120)
    sql(pod, "CREATE TABLE app.t (n int PRIMARY KEY)")
    done = await backup(pod)
    assert done.state == "completed", done
    for number in (1, 2, 3):
        sql(pod, f"INSERT INTO app.t VALUES ({number}); FLUSH BINARY LOGS")
    await covered(pod)
    assert await pod.stop() == 0


def copy(make_world: Callable[..., World], bucket: StoreDocument) -> PodProcess:
    """Its restore, begun."""
    world = small(make_world)
    world.source = world.store = bucket
    restored(world, TargetDocument(type="latest"))
    pod = world.pod()
    start(pod)
    return pod


async def damage(bucket: StoreDocument, key: str, content: bytes | None) -> None:
    """Put other content under a key, or take it away."""
    async with S3Provider().open(store_config(bucket)) as opened:
        if content is None:
            await opened.delete([key])
        else:
            await opened.put(key, content)


async def content(bucket: StoreDocument, key: str) -> bytes:
    async with S3Provider().open(store_config(bucket)) as opened:
        return b"".join([part async for part in opened.get(key)])


async def test_failure_01_and_08_and_12_objects_that_are_missing_cut_or_damaged_stop_the_restore_by_name(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    await written(make_world, bucket)
    log = next(key for key in await keys(bucket, f"{PATH}/log/") if key.count("/") > 4)
    # The second of three files with a row each.
    files = sorted(key for key in await keys(bucket, log.rsplit("/", 1)[0] + "/"))
    victim = files[-2]
    data = next(key for key in await keys(bucket, f"{PATH}/backups/") if "/data/" in key)
    for key, cut in ((victim, False), (victim, True), (data, False)):
        whole = await content(bucket, key)
        broken = bytearray(whole)
        broken[len(broken) // 2] ^= 0xFF
        await damage(bucket, key, bytes(broken[: len(broken) // 2] if cut else broken))
        pod = copy(make_world, bucket)

        async def named(pod: PodProcess = pod, key: str = key) -> bool:
            status = await pod.status()
            return any(key.rsplit("/", 1)[1] in one.message for one in status.problems)

        await until(f"{key} is named", named, 90)
        assert not await pod.ready()
        pod.kill()
        await damage(bucket, key, whole)
    await damage(bucket, victim, None)
    pod = copy(make_world, bucket)
    status = await problem(pod, "LogGap", 60)
    number = victim.rsplit("/", 1)[1].rsplit(".", 1)[0]
    assert any(number in one.message for one in status.problems), status.problems
    assert not await pod.ready()


async def test_failure_11_a_store_that_does_not_answer_is_waited_for_and_never_empty(
    make_world: Callable[..., World],
) -> None:
    with LocalStore() as store:
        bucket = await make_bucket(store)
        await written(make_world, bucket)
        store.stop()
        pod = copy(make_world, bucket)

        async def told() -> AgentStatus | None:
            status = await pod.status()
            return status if status.problems else None

        status = await until("it is told", told, 60)
        assert status.data == "empty"
        assert not await pod.ready()
        assert not pod.data.exists()
        store.start()
        await until("the restore is ready", pod.ready, 120)
        assert sql(pod, "SELECT GROUP_CONCAT(n ORDER BY n) FROM app.t") == "1,2,3"


async def pair(make_world: Callable[..., World]) -> tuple[World, PodProcess, PodProcess]:
    world = small(make_world, instances=2)
    first, second = world.pod(1), world.pod(2)
    start(first)
    start(second)
    await until("the primary is ready", first.ready, 120)
    await until("the replica is ready", second.ready, 120)
    sql(first, "CREATE TABLE app.t (n int PRIMARY KEY); INSERT INTO app.t VALUES (1)")
    await until("it has everything", lambda: sql(second, "SELECT n FROM app.t") == "1", 60)
    return world, first, second


async def again(first: PodProcess, second: PodProcess) -> None:
    """The replica follows again, as one that was copied, and says nothing more."""
    sql(first, "INSERT INTO app.t VALUES (9)")

    async def well() -> bool:
        return not (await second.status()).problems and sql(second, "SELECT COUNT(*) FROM app.t WHERE n = 9") == "1"

    await until("it follows again", well, 90)
    await until("it is ready", second.ready, 120)


async def test_a_replica_with_transactions_of_its_own_is_rebuilt_and_says_why(
    make_world: Callable[..., World],
) -> None:
    _, first, second = await pair(make_world)
    uuid = sql(second, "SELECT @@server_uuid")
    sql(second, "SET GLOBAL super_read_only = OFF; INSERT INTO app.t VALUES (666); SET GLOBAL super_read_only = ON")
    status = await problem(second, "ReplicaBroken", 90)
    broken = next(one for one in status.problems if one.reason == "ReplicaBroken")
    assert f"{uuid}:1" in broken.message and "orders-1" in broken.message
    assert "copied anew" in broken.fix
    await again(first, second)
    assert sql(second, "SELECT GROUP_CONCAT(n ORDER BY n) FROM app.t") == "1,9"
    assert sql(second, "SELECT @@server_uuid") != uuid


async def test_a_replica_whose_logs_were_purged_while_it_was_away_is_rebuilt_and_says_why(
    make_world: Callable[..., World],
) -> None:
    _, first, second = await pair(make_world)
    uuid = sql(second, "SELECT @@server_uuid")
    assert await second.stop() == 0
    sql(first, "INSERT INTO app.t VALUES (2); FLUSH BINARY LOGS")

    def purged() -> bool:
        """Whoever was sent a file a moment ago may hold it still; it is left then, and nobody is told."""
        sql(first, "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY")
        return len(sql(first, "SHOW BINARY LOGS").splitlines()) == 1

    await until("the log is purged", purged)
    start(second)
    status = await problem(second, "ReplicaBroken", 90)
    broken = next(one for one in status.problems if one.reason == "ReplicaBroken")
    assert "no longer has the log" in broken.message
    await again(first, second)
    assert sql(second, "SELECT GROUP_CONCAT(n ORDER BY n) FROM app.t") == "1,2,9"
    assert sql(second, "SELECT @@server_uuid") != uuid
