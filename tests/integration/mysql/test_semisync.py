"""Commits that wait for replicas: none is acknowledged too early, and waiting shuts nobody out."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import asyncmy
import pytest
from asyncmy.connection import Connection
from yoban.errors import NotReady
from yoban.plugins import Account, Durability, DurabilityMode, Role, StopMode
from yoban_mysql.engine import MySqlEngine
from yoban_mysql.names import SOCKET

from tests.integration.mysql.world import Instance, World, ask, eventually, hang_up

pytestmark = pytest.mark.server

SYNCHRONOUS = Durability(DurabilityMode.SYNCHRONOUS, 1)


async def test_semi_synchronous_commits_wait_for_a_replica_and_never_degrade(world: World) -> None:
    one = await world.primary(durability=SYNCHRONOUS)
    two = await world.replica(one, durability=SYNCHRONOUS)
    async with asyncio.timeout(20):
        while not any(link.synchronous for link in (await world.engine.server.status(one.ctx)).replicas):
            await asyncio.sleep(0.05)
    app = await one.as_app()
    async with asyncio.timeout(10):
        await ask(app, "CREATE TABLE t (n int PRIMARY KEY)")
        await ask(app, "INSERT INTO t VALUES (1)")
    assert two.process is not None
    two.process.send_signal(signal.SIGKILL)
    await two.process.wait()
    held = asyncio.create_task(ask(app, "INSERT INTO t VALUES (2)"))
    done, _ = await asyncio.wait({held}, timeout=3)
    assert not done
    assert await one.value("SELECT COUNT(*) FROM app.t") == 1, "nobody sees what no replica holds"
    assert (await world.engine.server.status(one.ctx)).problem == ""
    await two.start(Role.REPLICA, one)
    async with asyncio.timeout(20):
        await held
    await two.until("SELECT COUNT(*) = 2 FROM app.t")
    hang_up(app)
    # What was declared otherwise takes effect at once.
    one.change(durability=Durability())
    await one.care()
    assert await one.value("SELECT @@GLOBAL.rpl_semi_sync_source_enabled") == 0
    one.change(durability=Durability(DurabilityMode.SYNCHRONOUS, 2))
    await one.care()
    assert await one.value("SELECT @@GLOBAL.rpl_semi_sync_source_wait_for_replica_count") == 2


async def test_bug_a_clean_stop_acknowledged_commits_that_no_replica_held(world: World) -> None:
    one = await world.primary(durability=SYNCHRONOUS)
    two = await world.replica(one, durability=SYNCHRONOUS)
    app = await one.as_app()
    await ask(app, "CREATE TABLE t (n int PRIMARY KEY)")
    await two.stop(StopMode.IMMEDIATE)
    held = asyncio.create_task(ask(app, "INSERT INTO t VALUES (1)"))
    await asyncio.wait({held}, timeout=1)
    await one.stop()
    with pytest.raises(asyncmy.errors.Error):
        await held
    hang_up(app)
    with pytest.raises(NotReady):
        await world.engine.replication.drained_position(one.ctx)


async def _held(one: Instance) -> tuple[Connection, asyncio.Task[list[Any]]]:
    """An application whose commit waits for replicas, and there is none."""
    app = await one.as_app()
    held = asyncio.create_task(ask(app, "INSERT INTO t VALUES (1)"))
    await one.until(
        "SELECT COUNT(*) > 0 FROM performance_schema.threads WHERE processlist_state LIKE 'Waiting for semi-sync ACK%%'"
    )
    return app, held


async def test_bug_a_stop_without_an_agent_acknowledged_commits_that_no_replica_held(world: World) -> None:
    one = await world.primary(durability=SYNCHRONOUS)
    two = await world.replica(one, durability=SYNCHRONOUS)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await two.stop(StopMode.IMMEDIATE)
    app, held = await _held(one)
    command = world.engine.server.command(one.ctx)
    assert one.process is not None
    one.process.send_signal(command.stop_signals[command.unattended])
    with pytest.raises(asyncmy.errors.Error):
        await held
    hang_up(app)
    await one.process.wait()


async def test_bug_a_stop_of_a_server_that_did_not_answer_acknowledged_commits_that_no_replica_held(
    world: World,
) -> None:
    one = await world.primary(durability=SYNCHRONOUS)
    two = await world.replica(one, durability=SYNCHRONOUS)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await two.stop(StopMode.IMMEDIATE)
    app, held = await _held(one)
    one.change(durability=Durability())
    (one.ctx.run / SOCKET).rename(one.ctx.run / "away")
    fresh = MySqlEngine().server  # an agent that has no connection yet, and gets none
    await fresh.close(one.ctx)
    assert one.process is not None and one.process.returncode is None, "nothing waits that anybody declared"
    assert not held.done()
    one.change(durability=SYNCHRONOUS)
    await fresh.close(one.ctx)
    assert await one.process.wait() == -signal.SIGKILL
    with pytest.raises(asyncmy.errors.Error):
        await held
    hang_up(app)


async def test_bug_a_password_that_changed_while_replicas_were_away_kept_them_from_logging_in(world: World) -> None:
    one = await world.primary(durability=SYNCHRONOUS)
    two = await world.replica(one, durability=SYNCHRONOUS)
    server = world.engine.server
    await two.stop(StopMode.IMMEDIATE)
    await one.until(
        "SELECT variable_value = 0 FROM performance_schema.global_status WHERE variable_name = 'Rpl_semi_sync_source_clients'"
    )
    one.change(accounts={"owner": Account("app", "second")})
    with pytest.raises(NotReady) as caught:
        await server.ensure_accounts(one.ctx)
    assert caught.value.reason == "AccountsWait" and "0 of 1 replicas" in caught.value.cause
    hang_up(await one.as_app("first"))
    await two.start(Role.REPLICA, one)
    await world.follows(two)
    assert await eventually(lambda: server.ensure_accounts(one.ctx)) == ["password of user app changed"]
    await two.stop(StopMode.IMMEDIATE)
    await one.stop()
    one.change(accounts={"owner": Account("app", "third")})
    await one.start()
    assert await server.ensure_accounts(one.ctx) == [], "it was changed before the server was opened"
    hang_up(await one.as_app("third"))
    assert await one.value("SELECT @@GLOBAL.rpl_semi_sync_source_enabled") == 1
    await two.start(Role.REPLICA, one)
    await world.follows(two)
    await world.level(two, one)


async def test_bug_sessions_that_wait_for_a_replica_left_no_connection_for_it(world: World) -> None:
    one = await world.primary(durability=SYNCHRONOUS, settings={"max_connections": "24"})
    two = await world.replica(one, durability=SYNCHRONOUS)
    await one.care()
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await two.stop(StopMode.IMMEDIATE)
    apps: list[Connection] = []
    with pytest.raises(asyncmy.errors.OperationalError, match="max_user_connections"):
        while len(apps) < 24:
            apps.append(await one.as_app())
    assert len(apps) == 13
    assert await world.engine.server.ensure_accounts(one.ctx) == [], "one login too many proves the password, too"
    held = [asyncio.create_task(ask(app, f"INSERT INTO t VALUES ({n})")) for n, app in enumerate(apps)]
    waiting = "performance_schema.threads WHERE processlist_state LIKE 'Waiting for semi-sync ACK%%'"
    await one.until(f"SELECT COUNT(*) > 0 FROM {waiting}")
    for app in apps:
        hang_up(app)
    await asyncio.wait(held)
    for task in held:
        assert task.exception() is not None
    await two.start(Role.REPLICA, one)
    await world.follows(two)
    await two.until("SELECT COUNT(*) = 13 FROM app.t")
