"""Supervisor and agent with PostgreSQL of this machine, and a real S3 server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest
from harness import PodProcess, World, until
from postgres import BINARIES, backup, keys, restoring, sql, stored_after, up
from yoban.agent.storage import store_config
from yoban.model.instance import StoreDocument, SwitchoverDocument
from yoban_s3.provider import S3Provider

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not (BINARIES / "postgres").exists(), reason="needs PostgreSQL 15"),
]


async def test_a_new_database_comes_up(make_world: Callable[..., World]) -> None:
    world = make_world("postgres", "15")
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready, 120)
    status = await pod.status()
    assert status.server is not None
    assert status.server.role == "primary"
    assert not status.problems
    assert sql(pod, "select pg_is_in_recovery()") == "f"


async def test_backup_and_restore_to_a_moment(make_world: Callable[..., World], bucket: StoreDocument) -> None:
    pod = await up(make_world("postgres", "15"), bucket)
    sql(pod, "create table t (n int); insert into t select generate_series(1, 1000)")
    done = await backup(pod)
    assert done.state == "completed", done
    assert done.backup is not None
    sql(pod, "insert into t values (1001)")
    await asyncio.sleep(1.1)
    before = datetime.fromisoformat(sql(pod, "select now()"))
    await asyncio.sleep(1.1)
    sql(pod, "delete from t")
    await stored_after(pod, datetime.fromisoformat(sql(pod, "select now()")))
    assert await pod.stop() == 0
    second = restoring(make_world("postgres", "15"), bucket, type="time", value=before.astimezone(UTC).isoformat())
    await until("the restore is ready", second.ready, 120)
    assert sql(second, "select count(*), max(n) from t") == "1001|1001"
    status = await second.status()
    assert status.restore is not None
    assert status.restore.state == "done"
    sql(second, "insert into t values (1002)")
    again = await backup(second)
    assert again.state == "completed", again


async def test_bug_an_accident_right_after_the_moment_was_replayed(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    """The proof of what is stored reached the moment, and not the accident, whose log was stored behind it."""
    pod = await up(make_world("postgres", "15"), bucket)
    sql(pod, "create table t (n int); insert into t select generate_series(1, 1000)")
    done = await backup(pod)
    assert done.state == "completed", done
    sql(pod, "insert into t values (1001)")
    await asyncio.sleep(1.1)
    await stored_after(pod, datetime.now(UTC))
    (mark,) = await keys(bucket, "shop/orders/0123456789ab/marks/")
    async with S3Provider().open(store_config(bucket)) as store:
        proof = b"".join([part async for part in store.get(mark)])
    told = msgspec.json.decode(proof.splitlines()[1])
    committed, proven = (datetime.fromisoformat(told[name]) for name in ("lastCommit", "time"))
    moment = committed + (proven - committed) / 2
    sql(pod, "delete from t; select pg_switch_wal()")
    await stored_after(pod, datetime.now(UTC))
    assert await pod.stop() == 0
    async with S3Provider().open(store_config(bucket)) as store:
        await store.put(mark, proof)

    second = restoring(make_world("postgres", "15"), bucket, type="time", value=moment.isoformat())
    await until("the restore is ready", second.ready, 120)
    assert sql(second, "select count(*), max(n) from t") == "1001|1001"


async def test_replicas_follow_and_a_switchover_loses_nothing(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    world = make_world("postgres", "15", instances=2)
    world.archive_to(bucket)
    first, second = world.pod(1), world.pod(2)
    first.start()
    second.start()
    await until("the primary is ready", first.ready, 120)
    await until("the replica is ready", second.ready, 120)
    assert (await second.status()).server.role == "replica"  # type: ignore[union-attr]
    assert await until("labelled", second.label) == "replica"
    sql(first, "create table t (n int); insert into t select generate_series(1, 1000)")
    done = await backup(second, f"localhost:{first.member.control}")
    assert done.state == "completed", done

    world.change(switchover=SwitchoverDocument(id="a", target="orders-2"))
    await until("the second is labelled primary", lambda: _is(second, "primary"), 120)
    await until("the second is ready", second.ready, 120)
    assert sql(second, "select count(*) from t") == "1000"
    sql(second, "insert into t values (1001)")
    await until("the first follows", lambda: _is(first, "replica"), 120)
    await until("the first is ready", first.ready, 120)
    await until("it has everything", lambda: sql(first, "select count(*) from t") == "1001")
    lease = await world.cluster.lease()
    assert lease["spec"]["holderIdentity"] == "orders-2"
    assert lease["metadata"]["annotations"]["yoban.dev/term"] == "2"

    async def recorded() -> bool:
        archive = (await second.status()).archive
        return archive.active and archive.line == "00000002" and archive.window_end is not None

    await until("the new reign is archived", recorded)


async def _is(pod: PodProcess, role: str) -> bool:
    return await pod.label() == role
