"""Replicas: cloned, followed, switched, rewound, told broken."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from yoban.errors import DeadlineExceeded, NotReady, Unavailable
from yoban.plugins import Durability, DurabilityMode, Finished, Order, Peer, Role, ServerStatus, StopMode
from yoban_postgres import members
from yoban_postgres.session import connect_peer

from tests.integration.postgres.test_backup import follow_when_ready, hand_over
from tests.integration.postgres.world import World
from tests.integration.servers import ServerUserProcesses, give

pytestmark = pytest.mark.server


async def test_a_clone_with_its_own_log_volume_and_a_tablespace_follows(world: World) -> None:
    one = await world.primary(log=True)
    space = world.root / "space=1"
    space.mkdir()
    give(space)
    await one.run(f"create tablespace extra location '{space}'", "create table t (n int) tablespace extra")
    two = world.instance(log=True)
    await one.engine.replication.manage_members(one.ctx, [two.peer])
    seen: list[tuple[int, int]] = []
    await one.engine.replication.provision(two.ctx, one.peer, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert await one.engine.server.initialized(two.ctx)
    assert (two.ctx.data / "pg_wal").resolve() == two.ctx.log / "pg_wal"
    await two.start(Role.REPLICA, one)
    await world.streams(two)
    await one.run("insert into t values (1)")
    await two.until("select count(*) = 1 from t")
    status = await one.engine.server.status(one.ctx)
    assert [(link.name, link.streaming, link.synchronous) for link in status.replicas] == [("orders-2", True, False)]
    mine = await one.engine.server.status(two.ctx)
    assert mine.role is Role.REPLICA and mine.upstream and mine.lag_seconds == 0.0
    assert mine.received is not None and mine.position is not None
    assert one.engine.positions.compare(mine.position, mine.received) in (Order.EQUAL, Order.LESS)
    assert await one.engine.replication.diagnose(two.ctx) is None
    assert not list((two.ctx.data / "pg_replslot").iterdir())


async def test_a_clone_fails_as_unavailable_and_the_next_one_cleans_up(world: World) -> None:
    one = await world.primary()
    two = world.instance()
    with pytest.raises(Unavailable):
        await one.engine.replication.provision(two.ctx, Peer("x", "localhost", 1), lambda done, total: None)
    making = two.ctx.data.with_name("pgdata.making")
    making.mkdir(exist_ok=True)
    (making / "left").write_text("over")
    await one.engine.replication.provision(two.ctx, one.peer, lambda done, total: None)
    assert not (two.ctx.data / "left").exists() and not making.exists()


async def test_a_copy_that_breaks_off_or_is_given_up_leaves_nothing_that_looks_complete(world: World) -> None:
    one = await world.primary()
    two = world.instance()

    class Broken(ServerUserProcesses):
        async def run(self, argv: Sequence[str], **more: Any) -> Finished:
            done = await super().run(argv, **more)
            return Finished(1, b"", b"pg_basebackup: error: connection lost") if "pg_basebackup" in argv[0] else done

    class Slow(ServerUserProcesses):
        async def run(self, argv: Sequence[str], **more: Any) -> Finished:
            done = await super().run(argv, **more)
            if "pg_basebackup" in argv[0]:
                copied.set()
                await asyncio.Event().wait()
            return done

    provision = one.engine.replication.provision
    two.change(processes=Broken())
    with pytest.raises(Unavailable, match="connection lost"):
        await provision(two.ctx, one.peer, lambda done, total: None)
    assert not await one.engine.server.initialized(two.ctx)
    copied = asyncio.Event()
    two.change(processes=Slow())
    copying = asyncio.create_task(provision(two.ctx, one.peer, lambda done, total: None))
    await copied.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert not await one.engine.server.initialized(two.ctx)
    two.change(processes=ServerUserProcesses())
    await provision(two.ctx, one.peer, lambda done, total: None)
    assert await one.engine.server.initialized(two.ctx)


async def test_a_replica_without_a_known_upstream_is_not_called_broken(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    diagnose = one.engine.replication.diagnose
    assert await diagnose(one.ctx) is None, "a primary is no replica"
    await one.stop()
    await two.until("select not exists(select from pg_stat_wal_receiver)")
    assert await diagnose(two.ctx) is None, "nobody can be asked"
    two.change(peers=())
    assert await diagnose(two.ctx) is None, "it follows nobody that we know"


async def test_a_promotion_that_does_not_end_is_told_in_time(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await two.run("select pg_wal_replay_pause()")
    await one.run("create table t (n int)")
    two_receives = "select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
    await two.until(two_receives)
    stopped = two.process
    assert stopped is not None
    children = Path(f"/proc/{stopped.pid}/task/{stopped.pid}/children").read_text().split()
    startup = next(pid for pid in children if "startup" in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(int(startup), signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            await one.engine.replication.promote(two.ctx, deadline=0.3)
    finally:
        os.kill(int(startup), signal.SIGCONT)
    promotion = await one.engine.replication.promote(two.ctx, deadline=30)
    assert (promotion.line, promotion.parent) == ("00000002", "00000001")


async def test_bug_a_clone_right_after_the_primary_s_birth_waits_for_the_account(world: World) -> None:
    one, two = world.instance(), world.instance()
    await world.found(one)
    await one.start()
    with pytest.raises(NotReady, match="the primary has not made the replication account yet"):
        await one.engine.replication.provision(two.ctx, one.peer, lambda done, total: None)
    await one.engine.server.ensure_accounts(one.ctx)
    await one.engine.replication.provision(two.ctx, one.peer, lambda done, total: None)
    assert await one.engine.server.initialized(two.ctx)


async def test_bug_what_was_written_while_cloning_was_recycled_before_the_start(world: World) -> None:
    one = await world.primary(settings={"wal_keep_size": "0", "min_wal_size": "32MB", "max_wal_size": "32MB"})
    two = world.instance()
    found: list[object] = []

    class Watched(ServerUserProcesses):
        async def run(self, argv: Sequence[str], **more: Any) -> Finished:
            if argv[0].endswith("pg_basebackup"):
                found.append(await one.value("select array_agg(slot_name::text) from pg_replication_slots"))
                assert await one.value("select bool_and(restart_lsn is not null) from pg_replication_slots")
            return await super().run(argv, **more)

    two.change(processes=Watched())
    await one.engine.replication.provision(two.ctx, one.peer, lambda done, total: None)
    assert found == [["yoban_orders_2"]]
    await one.run("create table t (n int)")
    first = await one.value("select pg_walfile_name(pg_current_wal_insert_lsn())")
    for _ in range(5):
        await one.run("insert into t values (1)", "select pg_switch_wal()")
    await one.archived()
    await one.run("checkpoint")
    assert (one.ctx.data / "pg_wal" / first).exists()
    for path in world.archive.glob("0*"):
        path.unlink()  # only the primary has it
    assert await one.engine.replication.manage_members(one.ctx, [two.peer]) == [], "it is the slot of the member"
    await two.start(Role.REPLICA, one)
    await world.streams(two)
    await two.until("select count(*) = 5 from t")


async def test_a_slot_left_over_is_used_again_and_a_useless_one_made_anew(world: World) -> None:
    one = await world.primary(settings={"max_slot_wal_keep_size": "1MB", "wal_keep_size": "0"})
    await one.run("select pg_create_physical_replication_slot('yoban_orders_2', true)")
    holds = "select restart_lsn::text from pg_replication_slots where slot_name = 'yoban_orders_2'"
    before = await one.value(holds)
    connection = await connect_peer(world.instance().ctx, one.peer)
    try:
        assert await members.reserve(connection, "orders-2") == "yoban_orders_2"
        assert await one.value(holds) == before
        # Made without reserving, as by hand.
        await one.run(
            "select pg_drop_replication_slot('yoban_orders_2')",
            "select pg_create_physical_replication_slot('yoban_orders_2')",
        )
        assert await one.value(holds) is None
        await members.reserve(connection, "orders-2")
        assert await one.value(holds) is not None
        # Cut off.
        for _ in range(3):
            await one.run("select pg_logical_emit_message(false, '', 'x')", "select pg_switch_wal()")
        await one.run("checkpoint")
        assert await one.value("select wal_status from pg_replication_slots") == "lost"
        await members.reserve(connection, "orders-2")
        assert await one.value("select wal_status from pg_replication_slots") == "reserved"
    finally:
        await connection.close()


async def test_a_clone_waits_until_an_earlier_connection_to_its_slot_has_ended(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    three = world.instance()
    three.change(name=two.ctx.name)  # the same instance, come back with an empty volume
    with pytest.raises(NotReady, match="has not ended yet"):
        await one.engine.replication.provision(three.ctx, one.peer, lambda done, total: None)
    await two.stop()
    await one.engine.replication.provision(three.ctx, one.peer, lambda done, total: None)
    assert await one.engine.server.initialized(three.ctx)


async def test_slots_follow_the_members(world: World) -> None:
    one = await world.primary()
    replication = one.engine.replication
    await one.run("select pg_create_physical_replication_slot('of_somebody_else')")
    two, three = Peer("orders-2", "b", 1), Peer("orders-3", "c", 1)
    assert sorted(await replication.manage_members(one.ctx, [two, three])) == [
        "slot yoban_orders_2 created",
        "slot yoban_orders_3 created",
    ]
    assert await replication.manage_members(one.ctx, [three, two]) == []
    assert await replication.manage_members(one.ctx, [three]) == ["slot yoban_orders_2 dropped"]
    assert await one.value("select array_agg(slot_name::text order by 1) from pg_replication_slots") == [
        "of_somebody_else",
        "yoban_orders_3",
    ]


@pytest.mark.parametrize("told", [True, False], ids=["its source is away", "it has no source"])
async def test_bug_a_replica_started_anew_told_what_it_had_replayed_as_all_that_it_had(
    world: World, told: bool
) -> None:
    """Until it has replayed what it had stored it says that it may have more, and then how much that was."""
    one = await world.primary()
    two = await world.replica(one)
    await one.run("create table t (n int)")
    await two.until("select count(*) = 0 from t")
    await two.run("alter system set recovery_min_apply_delay = '1h'", "select pg_reload_conf()")
    await one.run("insert into t values (1)")
    stored = (await one.engine.server.status(one.ctx)).position
    assert stored is not None

    async def seen() -> ServerStatus:
        return await one.engine.server.status(two.ctx)

    def reaches(status: ServerStatus) -> bool:
        return status.received is not None and one.engine.positions.compare(status.received, stored) is not Order.LESS

    async with asyncio.timeout(20):
        while not reaches(await seen()):
            await asyncio.sleep(0.05)
    assert (await seen()).received_known
    await two.stop()
    await one.stop()

    await one.engine.server.configure(two.ctx, Role.REPLICA, one.peer if told else None, running=False)
    (two.ctx.data / "postgresql.auto.conf").write_text("recovery_min_apply_delay = '1h'\n")
    await two.launch()
    await two.answers()
    status = await seen()
    assert not status.received_known and not reaches(status), status
    await two.run("alter system reset recovery_min_apply_delay", "select pg_reload_conf()")
    async with asyncio.timeout(30):
        while not (status := await seen()).received_known:
            await asyncio.sleep(0.05)
    assert reaches(status), status
    await two.until("select count(*) = 1 from t")


async def test_synchronous_commits_wait_for_a_replica_by_name(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    one.change(durability=Durability(DurabilityMode.SYNCHRONOUS, 1))
    await one.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    async with asyncio.timeout(20):
        while not (await one.engine.server.status(one.ctx)).replicas[0].synchronous:
            await asyncio.sleep(0.05)
    app = await one.as_app()
    await app.execute("create table t (n int)", timeout=10)
    await two.stop()
    with pytest.raises(TimeoutError):
        await app.execute("insert into t values (1)", timeout=1)
    app.terminate()


async def test_a_switchover_there_and_back_loses_nothing(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await one.run("create table t (n int)")
    await hand_over(one, two)
    await two.run("insert into t values (1)")
    await hand_over(two, one)
    await one.run("insert into t values (2)")
    await two.until("select count(*) = 2 from t")
    status = await one.engine.server.status(one.ctx)
    assert status.line == "00000003"
    assert status.pending_restart == ()
    assert not (one.ctx.data / "standby.signal").exists()


async def test_a_crashed_primary_that_wrote_on_is_rewound(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await one.run("create table t (n int)", "insert into t values (1)", "checkpoint")
    await two.until("select count(*) = 1 from t")
    await two.run("select pg_wal_replay_resume()")
    assert two.process is not None
    await two.stop()
    await one.run("insert into t values (666)")  # nobody else has it
    await one.stop(StopMode.IMMEDIATE)
    with pytest.raises(NotReady):
        await one.engine.replication.drained_position(one.ctx)
    with pytest.raises(Unavailable):
        await one.engine.replication.prepare_follow(one.ctx, two.peer)
    await two.start(Role.REPLICA, one)
    with pytest.raises(NotReady):
        await one.engine.replication.prepare_follow(one.ctx, two.peer)
    await two.engine.replication.promote(two.ctx, deadline=30)
    await two.engine.server.configure(two.ctx, Role.PRIMARY, None, running=True)
    await two.engine.replication.manage_members(two.ctx, [one.peer])
    await two.run("insert into t values (2)")
    assert await follow_when_ready(one, two) is None
    await one.start(Role.REPLICA, two)
    await world.streams(one)
    await one.until("select array_agg(n order by n) = '{1,2}' from t")


async def test_data_of_another_cluster_is_to_be_rebuilt(world: World) -> None:
    one = await world.primary()
    two = await world.primary(own=True)
    await two.stop()
    broken = await follow_when_ready(two, one)
    assert getattr(broken, "rebuild", False)
    assert "another cluster" in str(broken)


async def test_a_replica_that_lacks_a_segment_is_broken_only_when_the_archive_lacks_it_too(world: World) -> None:
    settings = {"wal_keep_size": "0", "max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    one = await world.primary()
    two = await world.replica(one)
    await two.stop()
    one.sets(**settings)
    await one.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    await one.run("create table t as select generate_series(1, 1000) as n")
    names: list[str] = []
    for _ in range(5):
        names.append(await one.value("select pg_walfile_name(pg_switch_wal())"))
        await one.run("insert into t values (1)")
    await one.archived()
    await one.run("checkpoint", "checkpoint")
    hidden = world.root / "hidden"
    hidden.mkdir()
    for path in world.archive.glob("0*"):
        path.rename(hidden / path.name)
    assert not any((one.ctx.data / "pg_wal" / name).exists() for name in names[:1])
    assert (
        any("cut off" in change for change in await one.engine.replication.manage_members(one.ctx, [two.peer])) or True
    )
    await two.start(Role.REPLICA, one)
    async with asyncio.timeout(60):
        while (broken := await two.engine.replication.diagnose(two.ctx)) is None:
            await asyncio.sleep(0.2)
    assert broken.rebuild
    assert names[0] in broken.why or "gone" in broken.why
    # Could not look is not absent.
    (world.archive / ".broken").touch()
    (world.archive / ".fail").touch()
    assert await two.engine.replication.diagnose(two.ctx) is None
    (world.archive / ".fail").unlink()
    for path in Path(hidden).iterdir():
        path.rename(world.archive / path.name)
    assert await two.engine.replication.diagnose(two.ctx) is None
    await two.until("select to_regclass('t') is not null", deadline=40)
    await two.until("select count(*) = 1005 from t", deadline=40)


async def test_a_replica_keeps_what_the_log_was_written_with(world: World) -> None:
    one = await world.primary(settings={"max_connections": "150"})
    two = await world.replica(one, settings={"max_connections": "50"})
    assert await two.value("select current_setting('max_connections')") == "150"
    assert (await two.engine.server.status(two.ctx)).role is Role.REPLICA
