"""What goes wrong around a real server: the store, stored objects, volumes, the agent in the middle of its work."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest
from harness import PodProcess, World, problem, until
from postgres import BINARIES, backup, keys, make_bucket, restoring, sql, stored_after, up
from yoban.agent.storage import store_config
from yoban.model.control import JobRequest, JobStatus
from yoban.model.instance import StoreDocument, SwitchoverDocument
from yoban_s3.provider import S3Provider

from deploy.lab.store import LocalStore

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not (BINARIES / "postgres").exists(), reason="needs PostgreSQL 15"),
]
LOG = "shop/orders/0123456789ab/log/00000001/"


async def test_a_store_that_stops_is_told_and_nothing_is_lost(make_world: Callable[..., World]) -> None:
    with LocalStore() as store:
        world = make_world("postgres", "15")
        pod = await up(world, await make_bucket(store))
        sql(pod, "create table t (n int)")
        store.stop()
        for n in range(3):
            sql(pod, f"insert into t values ({n}); select pg_switch_wal()")
        status = await problem(pod, "ArchiveFailing")
        assert status.archive.failing_since is not None
        assert status.archive.backlog >= 3
        text = next(item.message for item in status.problems if item.reason == "ArchiveFailing")
        assert "kept on the volume" in text
        assert "writes stop" in text
        assert await pod.ready()
        sql(pod, "insert into t values (99)")
        store.start()
        await stored_after(pod, datetime.now(UTC))

        async def caught_up() -> bool:
            status = await pod.status()
            return not status.archive.backlog and status.archive.failing_since is None and not status.problems

        await until("it has caught up", caught_up, 90)


@pytest.mark.timeout(600)  # each change of primary first tries to store the log for 40 s
async def test_bug_what_lay_before_two_changes_of_primary_without_a_store_could_not_be_restored(
    make_world: Callable[..., World],
) -> None:
    """The reign between them ended before it could be recorded, and nobody told where its line had begun."""
    with LocalStore() as store:
        bucket = await make_bucket(store)
        world = make_world("postgres", "15", instances=2)
        first, second = world.pod(1), world.pod(2)
        second.start()
        await up(world, bucket)
        await until("the replica is ready", second.ready, 120)
        sql(first, "create table t (n int); insert into t values (1)")
        done = await backup(first)
        assert done.state == "completed", done
        await stored_after(first, datetime.now(UTC))
        store.stop()
        moment = datetime.now(UTC)
        for number, (here, there) in enumerate(((first, second), (second, first)), 2):
            sql(here, f"insert into t values ({number})")
            world.change(switchover=SwitchoverDocument(id=f"s{number}", target=there.name))
            await until(f"{there.name} is the primary", lambda there=there: is_primary(there), 120)
            await until("the old primary follows", here.ready, 120)
            await asyncio.sleep(1.1)
            moment = datetime.fromisoformat(sql(there, "select now()"))
            await asyncio.sleep(1.1)
        sql(first, "delete from t")
        store.start()
        await stored_after(first, datetime.now(UTC), 120)
        for pod in (second, first):
            assert await pod.stop() == 0

        third = restoring(make_world("postgres", "15"), bucket, type="time", value=moment.astimezone(UTC).isoformat())
        await until("the restore is ready", third.ready, 120)
        assert sql(third, "select string_agg(n::text, ' ' order by n) from t") == "1 2 3"


async def is_primary(pod: PodProcess) -> bool:
    return await pod.label() == "primary" and bool(await pod.ready())


async def test_a_segment_gone_in_the_middle_stops_the_restore_by_name(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    world = make_world("postgres", "15")
    pod = await up(world, bucket)
    done = await backup(pod)
    assert done.state == "completed", done
    for n in range(4):
        sql(pod, f"create table t{n} (n int); select pg_switch_wal()")
    await stored_after(pod, datetime.now(UTC))
    assert await pod.stop() == 0
    segments = [key for key in await keys(bucket, LOG) if not key.endswith(".backup")]
    lost = segments[-2]
    async with S3Provider().open(store_config(bucket)) as opened:
        await opened.delete([lost])
    second = restoring(make_world("postgres", "15"), bucket, type="latest")
    status = await problem(second, "LogGap")
    assert any(lost.rsplit("/", 1)[1] in item.message for item in status.problems)
    assert not await second.ready()


async def test_a_damaged_object_stops_the_restore_by_name(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    world = make_world("postgres", "15")
    pod = await up(world, bucket)
    done = await backup(pod)
    assert done.state == "completed", done
    assert await pod.stop() == 0
    data = [key for key in await keys(bucket, "shop/orders/0123456789ab/backups/") if "/data/" in key]
    async with S3Provider().open(store_config(bucket)) as opened:
        content = bytearray(b"".join([part async for part in opened.get(data[0])]))
        content[len(content) // 2] ^= 0xFF
        await opened.put(data[0], bytes(content))
    second = restoring(make_world("postgres", "15"), bucket, type="latest")

    async def named() -> bool:
        status = await second.status()
        return any(data[0].rsplit("/", 1)[1] in item.message for item in status.problems)

    await until("the object is named", named, 60)
    assert not await second.ready()


async def test_a_cancelled_backup_leaves_nothing(make_world: Callable[..., World], bucket: StoreDocument) -> None:
    world = make_world("postgres", "15")
    pod = await up(world, bucket)
    job = f"/v1/jobs/{uuid.uuid4()}"
    await pod.call("PUT", job, JobRequest(kind="backup", id="20260101T000000Z-aaaaaa"))
    await asyncio.sleep(0.3)
    assert (await pod.call("DELETE", job))[0] == 204
    status = msgspec.json.decode((await pod.call("GET", job))[1], type=JobStatus)
    assert status.state in ("cancelled", "completed")
    if status.state == "cancelled":
        assert not await keys(bucket, "shop/orders/0123456789ab/backups/")
    assert (await backup(pod)).state == "completed"


async def test_an_agent_killed_in_a_backup_knows_the_job_no_more(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    world = make_world("postgres", "15")
    pod = await up(world, bucket)
    server, agent = pod.server_pid, pod.agent_pid
    job = f"/v1/jobs/{uuid.uuid4()}"
    await pod.call("PUT", job, JobRequest(kind="backup", id="20260101T000000Z-bbbbbb"))
    os.kill(agent or 0, signal.SIGKILL)
    await until("a new agent runs", lambda: pod.agent_pid not in (None, agent))
    await until("it is ready", pod.ready)

    async def unknown() -> bool:
        return (await pod.call("GET", job))[0] == 404

    await until("the job is unknown", unknown)
    assert pod.server_pid == server
    assert (await backup(pod)).state == "completed"


async def test_a_replicas_volume_that_is_lost_is_copied_anew(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    world = make_world("postgres", "15", instances=2)
    world.archive_to(bucket)
    first, second = world.pod(1), world.pod(2)
    first.start()
    second.start()
    await until("the primary is ready", first.ready, 120)
    await until("the replica is ready", second.ready, 120)
    await second.stop()
    shutil.rmtree(second.data.parent)
    sql(first, "create table t (n int); insert into t select generate_series(1, 10)")
    second.start()
    await until("the replica is ready", second.ready, 120)
    await until("it has everything", lambda: sql(second, "select count(*) from t") == "10")


async def test_the_wrong_version_is_told_and_touches_nothing(make_world: Callable[..., World]) -> None:
    world = make_world("postgres", "17")
    pod = world.pod()
    pod.start()
    status = await problem(pod, "VersionMismatch")
    assert status.data == "empty"
    assert not pod.data.exists()


async def test_a_restart_that_is_asked_for_is_done_once(make_world: Callable[..., World]) -> None:
    world = make_world("postgres", "15")
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready, 120)
    server = pod.server_pid
    world.change(restarts={"orders-1": "now"})
    await until("another server runs", lambda: pod.server_pid not in (None, server))
    server = pod.server_pid
    await until("it is ready", pod.ready)
    assert (await pod.status()).restart == "now"
    await asyncio.sleep(3)
    assert pod.server_pid == server
