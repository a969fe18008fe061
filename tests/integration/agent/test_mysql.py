"""Supervisor and agent with MySQL of the lab's image, and a real S3 server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from harness import World, until
from mysqlside import client, covered, small, sql, start
from postgres import backup, keys, restored
from yoban.model.instance import StoreDocument, SwitchoverDocument, TargetDocument

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("mysql_programs")]


async def test_backup_and_restore_to_a_moment(make_world: Callable[..., World], bucket: StoreDocument) -> None:
    world = small(make_world)
    world.archive_to(bucket)
    pod = world.pod()
    start(pod)
    await until("it is ready", pod.ready, 120)
    sql(pod, "CREATE TABLE app.t (n int PRIMARY KEY); INSERT INTO app.t VALUES (1)")
    done = await backup(pod)
    assert done.state == "completed", done
    sql(pod, "INSERT INTO app.t VALUES (2); FLUSH BINARY LOGS; INSERT INTO app.t VALUES (3)")
    await asyncio.sleep(1.1)
    before = datetime.now(UTC)
    await asyncio.sleep(1.1)
    sql(pod, "DELETE FROM app.t")
    await covered(pod)
    status = await pod.status()
    assert status.archive.line and not status.problems, status.problems
    assert await pod.stop() == 0
    copy = small(make_world)
    copy.source = copy.store = bucket
    restored(copy, TargetDocument(type="time", value=before.isoformat()))
    second = copy.pod()
    start(second)
    await until("the restore is ready", second.ready, 120)
    assert sql(second, "SELECT COUNT(*), MAX(n) FROM app.t") == "3\t3"
    status = await second.status()
    assert status.restore is not None
    assert status.restore.state == "done"
    sql(second, "INSERT INTO app.t VALUES (4)")
    again = await backup(second)
    assert again.state == "completed", again
    await covered(second)


async def test_failure_21_the_primary_moves_in_the_middle_of_archiving(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    world = small(make_world, instances=2)
    world.archive_to(bucket)
    first, second = world.pod(1), world.pod(2)
    start(first)
    await until("the primary is ready", first.ready, 120)
    start(second)
    await until("the replica is ready", second.ready, 120)
    sql(first, "CREATE TABLE app.t (n int PRIMARY KEY); INSERT INTO app.t VALUES (1)")
    done = await backup(first)
    assert done.state == "completed", done
    sql(first, "INSERT INTO app.t VALUES (2)")
    await covered(first)
    world.change(switchover=SwitchoverDocument(id="a", target="orders-2"))

    async def moved() -> bool:
        return await second.label() == "primary" and await second.ready()

    await until("the second reigns", moved, 90)
    await until("the first follows", first.ready, 120)
    sql(second, "INSERT INTO app.t VALUES (3)")
    await covered(second)
    lines = {key.split("/")[4] for key in await keys(bucket) if "/log/" in key or "/tail/" in key}
    assert len(lines) == 2, lines
    for pod in (first, second):
        assert not (await pod.status()).problems
    await second.stop()
    await first.stop()
    copy = small(make_world)
    copy.source = copy.store = bucket
    restored(copy, TargetDocument(type="latest"))
    third = copy.pod()
    start(third)
    await until("the restore is ready", third.ready, 120)
    assert sql(third, "SELECT GROUP_CONCAT(n ORDER BY n) FROM app.t") == "1,2,3"


async def test_bug_the_end_of_a_pod_without_its_agent_acknowledged_commits_that_no_replica_held(
    make_world: Callable[..., World],
) -> None:
    world = small(make_world)
    pod = world.pod()
    start(pod)
    await until("it is ready", pod.ready, 120)
    sql(pod, "CREATE TABLE app.t (n int PRIMARY KEY)")
    world.change(durability_mode="synchronous", durability_replicas=1)
    await until("commits wait", lambda: sql(pod, "SELECT @@GLOBAL.rpl_semi_sync_source_enabled") == "1")
    writing = client(pod, "INSERT INTO app.t VALUES (1)")
    waiting = (
        "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_state LIKE 'Waiting for semi-sync ACK%'"
    )
    await until("the commit waits", lambda: sql(pod, waiting) == "1")
    assert pod.agent_pid is not None
    os.kill(pod.agent_pid, signal.SIGSTOP)
    assert await pod.stop() == 0
    _, words = await asyncio.to_thread(writing.communicate, timeout=20)
    assert writing.returncode != 0, "nobody was told that it is committed"
    assert "Lost connection" in words
