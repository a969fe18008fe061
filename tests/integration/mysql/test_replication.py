"""Replicas: cloned, followed, switched, told broken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncmy
import pytest
from yoban.errors import DeadlineExceeded, IntegrityError, NotReady, Unavailable
from yoban.plugins import Durability, DurabilityMode, Finished, Order, Peer, Role, StopMode
from yoban_mysql import follow, line
from yoban_mysql.gtid import GtidSet
from yoban_mysql.stopped import executed

from tests.integration.mysql.world import Instance, World, ask, eventually, hang_up
from tests.integration.servers import ServerUserProcesses

pytestmark = pytest.mark.server

SYNCHRONOUS = Durability(DurabilityMode.SYNCHRONOUS, 1)


async def test_a_clone_follows_and_carries_no_identity_of_its_donor(world: World) -> None:
    one = await world.primary(own=True)
    await one.run(
        "CREATE TABLE app.t (n int PRIMARY KEY, text longtext)", "INSERT INTO app.t VALUES (1, REPEAT('x', 20000000))"
    )
    two = world.instance()
    seen: list[tuple[int, int]] = []
    await world.engine.replication.provision(two.ctx, one.peer, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 20_000_000
    assert await world.engine.server.initialized(two.ctx)
    assert await world.engine.server.data_version(two.ctx) == "9.7"
    assert sorted(path.name for path in two.ctx.data.parent.iterdir()) == ["data"]
    assert not (two.ctx.data / "auto.cnf").exists()
    await two.start(Role.REPLICA, one)
    await world.follows(two)
    await one.run("INSERT INTO app.t VALUES (2, 'two')")
    await world.level(two, one)
    uuids = [await each.value("SELECT @@GLOBAL.server_uuid") for each in (one, two)]
    assert len(set(uuids)) == 2
    ids = [await each.value("SELECT @@GLOBAL.server_id") for each in (one, two)]
    assert len(set(ids)) == 2
    status = await world.engine.server.status(one.ctx)
    assert [(link.name, link.streaming, link.synchronous) for link in status.replicas] == [("orders-2", True, False)]
    mine = await world.engine.server.status(two.ctx)
    assert mine.role is Role.REPLICA and mine.upstream and mine.lag_seconds == 0.0
    assert mine.last_commit is not None and mine.line == status.line == f"{uuids[0]}.0000000001"
    assert mine.received is not None and mine.position is not None
    assert world.engine.positions.compare(mine.position, mine.received) in (Order.EQUAL, Order.LESS)
    assert await world.engine.replication.diagnose(two.ctx) is None
    assert await world.engine.replication.diagnose(one.ctx) is None, "a primary is no replica"
    assert await world.engine.replication.manage_members(one.ctx, [two.peer]) == []
    dumps = "SELECT MIN(connection_type) FROM performance_schema.threads WHERE processlist_command = 'Binlog Dump GTID'"
    assert await one.value(dumps) == "SSL/TLS"
    with pytest.raises(Unavailable, match="read-only"):
        await two.run("INSERT INTO app.t VALUES (3, 'three')")


async def test_a_clone_of_a_replica_does_not_follow_whom_its_donor_followed(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    three = world.instance()
    await world.engine.replication.provision(three.ctx, two.peer, lambda done, total: None)
    await two.stop()
    await three.start(Role.REPLICA)
    assert (await world.engine.server.status(three.ctx)).upstream is False
    await three.care(Role.REPLICA, one)
    await world.follows(three)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await world.level(three, one)


async def test_a_clone_fails_as_unavailable_and_the_next_one_cleans_up(world: World) -> None:
    one = await world.primary()
    two = world.instance()
    provision = world.engine.replication.provision
    with pytest.raises(Unavailable):
        await provision(two.ctx, Peer("x", "localhost", 1), lambda done, total: None)
    for name in ("data.making", "data.fetching"):
        folder = two.ctx.data.parent / name
        folder.mkdir(exist_ok=True)
        (folder / "left").write_text("over")
    await provision(two.ctx, one.peer, lambda done, total: None)
    assert sorted(path.name for path in two.ctx.data.parent.iterdir()) == ["data"]


async def test_a_copy_that_breaks_off_or_is_given_up_leaves_nothing_that_looks_complete(world: World) -> None:
    one = await world.primary()
    two = world.instance()
    fetching = asyncio.Event()
    ended: list[int] = []

    class Watched(ServerUserProcesses):
        async def run(self, argv: Sequence[str], **more: Any) -> Finished:
            if any("clone-valid-donor-list" in word for word in argv):
                fetching.set()
            return await super().run(argv, **more)

    provision = world.engine.replication.provision
    two.change(processes=Watched())
    copying = asyncio.create_task(provision(two.ctx, one.peer, lambda done, total: None))
    await fetching.wait()
    await asyncio.sleep(0.3)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert not await world.engine.server.initialized(two.ctx)
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and str(two.ctx.data).encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                ended.append(int(name))
    assert ended == [], "the server that fetched is gone"
    copying = asyncio.create_task(provision(two.ctx, one.peer, lambda done, total: None))
    await one.run("SET GLOBAL offline_mode = ON")  # the donor sends everybody away
    with pytest.raises(Unavailable):
        await copying
    assert not await world.engine.server.initialized(two.ctx)
    await one.run("SET GLOBAL offline_mode = OFF")
    await provision(two.ctx, one.peer, lambda done, total: None)
    assert await world.engine.server.initialized(two.ctx)


async def hand_over(old: Instance, new: Instance) -> None:
    """A planned change of primary, as agents do it."""
    replication = old.engine.replication
    await old.stop()
    position = await replication.drained_position(old.ctx)
    async with asyncio.timeout(30):
        while True:
            have = (await old.engine.server.status(new.ctx)).position
            if have is not None and old.engine.positions.covers(have, position):
                break
            await asyncio.sleep(0.05)
    promotion = await replication.promote(new.ctx, deadline=30)
    assert await replication.promote(new.ctx, deadline=30) == promotion
    await new.care()
    status = await old.engine.server.status(new.ctx)
    assert (status.role, status.line) == (Role.PRIMARY, promotion.line)
    assert await replication.prepare_follow(old.ctx, new.peer) is None
    await old.start(Role.REPLICA, new)
    await old.world.follows(old)
    await old.world.level(old, new)


async def test_a_switchover_under_load_there_and_back_loses_nothing(world: World) -> None:
    one = await world.primary(durability=SYNCHRONOUS)
    two = await world.replica(one, durability=SYNCHRONOUS)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    acknowledged: list[int] = []

    async def write(primary: Instance, first: int) -> None:
        app = await primary.as_app()
        try:
            with contextlib.suppress(asyncmy.errors.Error):
                for number in range(first, first + 100000):
                    await ask(app, "INSERT INTO t VALUES (%s)", number)
                    acknowledged.append(number)
        finally:
            hang_up(app)

    lines = [(await world.engine.server.status(one.ctx)).line]
    for step, (old, new) in enumerate([(one, two), (two, one), (one, two)], 1):
        writers = [asyncio.create_task(write(old, step * 1000000 + 200000 * n)) for n in range(3)]
        await asyncio.sleep(0.5)
        await hand_over(old, new)
        await asyncio.gather(*writers)
        lines.append((await world.engine.server.status(new.ctx)).line)
        missing = set(acknowledged) - {row["n"] for row in await _rows(new, "SELECT n FROM app.t")}
        assert missing == set()
    assert len(acknowledged) > 30
    assert len(set(lines)) == 4, "a line of the log has a name of its own, also of a server that reigns again"
    sums = {str(await _rows(each, "CHECKSUM TABLE app.t")) for each in (one, two)}
    assert len(sums) == 1


async def _rows(instance: Instance, query: str) -> list[dict[str, Any]]:
    session = await instance.session()
    try:
        return await session.rows(query)
    finally:
        session.drop()


async def test_a_line_reaches_back_before_its_fork(world: World) -> None:
    one = await world.primary()
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)", "INSERT INTO app.t VALUES (1)")
    two = await world.replica(one)
    copied = GtidSet.parse(await two.value("SELECT @@GLOBAL.gtid_purged"))
    await one.run("INSERT INTO app.t VALUES (2)", "FLUSH BINARY LOGS")
    await world.level(two, one)
    await two.run("FLUSH BINARY LOGS")
    shared = GtidSet.parse(await two.value("SELECT @@GLOBAL.gtid_executed"))
    await one.stop()
    promotion = await world.engine.replication.promote(two.ctx, deadline=30)
    uuid = await two.value("SELECT @@GLOBAL.server_uuid")
    assert promotion.line == f"{uuid}.0000000001"
    assert GtidSet.parse(promotion.fork) == shared, "everything that both lines share, and not what the new one wrote"
    files = line.log_files(two.ctx.data)
    assert files[0].previous == copied and copied <= shared and copied != shared, (
        "its log begins behind the copy, before the promotion"
    )
    assert [file.number for file in files] == [1, 2]
    assert copied <= files[0].previous and files[0].previous <= files[1].previous
    whole = GtidSet.parse(await two.value("SELECT @@GLOBAL.gtid_executed"))
    await two.stop()
    found = executed(two.ctx.data)
    assert found is not None and (found.gtids, found.clean) == (whole, True), "what came by copy is counted"


async def test_a_crashed_primary_that_wrote_on_is_rebuilt_by_name_of_its_transactions(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await world.level(two, one)
    await two.run("STOP REPLICA")
    await one.run("INSERT INTO app.t VALUES (666)")  # nobody else has it
    errant = await one.value("SELECT @@GLOBAL.gtid_executed")
    replication = world.engine.replication
    await one.stop(StopMode.IMMEDIATE)
    with pytest.raises(NotReady):
        await replication.drained_position(one.ctx)
    with pytest.raises(NotReady, match="no primary yet"):
        await replication.prepare_follow(one.ctx, two.peer)
    promotion = await replication.promote(two.ctx, deadline=30)
    assert promotion.parent.startswith(errant[:36])
    await two.care()
    broken = await replication.prepare_follow(one.ctx, two.peer)
    assert broken is not None and broken.rebuild
    number = str(GtidSet.parse(errant)).rpartition("-")[2]
    assert f"{errant[:36]}:{number}" in broken.why
    await replication.provision(one.ctx, two.peer, lambda done, total: None)
    await one.start(Role.REPLICA, two)
    await world.follows(one)
    await world.level(one, two)
    assert await one.value("SELECT COUNT(*) FROM app.t") == 0


async def test_a_replica_with_transactions_of_its_own_is_recognised(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    assert await world.engine.replication.diagnose(two.ctx) is None
    await two.run("SET GLOBAL super_read_only = OFF", "CREATE SCHEMA errant", "SET GLOBAL super_read_only = ON")
    uuid = await two.value("SELECT @@GLOBAL.server_uuid")
    broken = await world.engine.replication.diagnose(two.ctx)
    assert broken is not None and broken.rebuild
    assert f"{uuid}:1" in broken.why and one.ctx.name in broken.why


async def test_a_replica_whose_logs_were_purged_is_recognised(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await world.level(two, one)
    await two.stop()
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)", "FLUSH BINARY LOGS")
    newest = await _rows(one, "SHOW BINARY LOGS")
    await one.run(f"PURGE BINARY LOGS TO '{newest[-1]['log_name']}'")
    replication = world.engine.replication
    broken = await replication.prepare_follow(two.ctx, one.peer)
    assert broken is not None and broken.rebuild and "no longer has the log" in broken.why
    await two.start(Role.REPLICA, one)
    async with asyncio.timeout(30):
        while (broken := await replication.diagnose(two.ctx)) is None:
            await asyncio.sleep(0.2)
    assert broken.rebuild and "no longer has the log" in broken.why
    uuid = await one.value("SELECT @@GLOBAL.server_uuid")
    assert uuid in broken.why
    await two.stop()
    await replication.provision(two.ctx, one.peer, lambda done, total: None)
    await two.start(Role.REPLICA, one)
    await world.follows(two)


async def test_an_applier_that_fails_for_good_is_recognised_and_what_passes_is_not(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    replication = world.engine.replication
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)", "INSERT INTO app.t VALUES (1)")
    await world.level(two, one)
    await two.run(
        "SET GLOBAL super_read_only = OFF",
        "SET sql_log_bin = OFF",
        "DELETE FROM app.t",
        "SET GLOBAL super_read_only = ON",
    )
    await one.run("DELETE FROM app.t WHERE n = 1")
    last = GtidSet.parse(await one.value("SELECT @@GLOBAL.gtid_executed"))
    async with asyncio.timeout(30):
        while (broken := await replication.diagnose(two.ctx)) is None:
            await two.care(Role.REPLICA, one)  # care does not start it again and again
            await asyncio.sleep(0.1)
    assert broken.rebuild
    assert str(last).rpartition("-")[2] in broken.why and "delete" in broken.why.lower()
    assert "cannot apply" in (await world.engine.server.status(two.ctx)).problem
    with pytest.raises(NotReady, match="cannot apply"):
        await replication.promote(two.ctx, deadline=20)


async def test_bug_a_stop_waited_for_a_long_transaction_of_the_applier(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes where a table has no key: a Database that was deleted, or a node that was drained, seemed to hang."""
    monkeypatch.setattr(follow, "HALT", 1.0)
    one = await world.primary()
    two = await world.replica(one)
    numbers = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 100000) SELECT n"
    await one.run("CREATE TABLE app.t (n int, wide varchar(90))")
    # The applier looks through the table once for each few kilobytes of log.
    await one.run(
        "SET SESSION cte_max_recursion_depth = 100000", f"INSERT INTO app.t {numbers}, REPEAT('x', 90) FROM s"
    )
    await world.level(two, one)
    await one.run("DELETE FROM app.t")
    wanted = (await world.engine.server.status(one.ctx)).position
    async with asyncio.timeout(20):
        while (await world.engine.server.status(two.ctx)).received != wanted:
            await asyncio.sleep(0.05)
    # All of it has been given to the applier's worker, which takes it to its end: before that a stop breaks it off.
    await two.until(
        "SELECT COUNT(*) FROM performance_schema.threads WHERE name = 'thread/sql/replica_sql'"
        " AND processlist_state LIKE 'Replica has read all relay log%'"
    )
    await world.engine.server.close(two.ctx)
    assert two.process is not None
    async with asyncio.timeout(10):
        assert await two.process.wait() == -signal.SIGKILL
    await two.start(Role.REPLICA, one)
    await two.until("SELECT COUNT(*) = 0 FROM app.t", 120)


async def test_a_promotion_that_does_not_end_is_told_in_time(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await world.level(two, one)
    session = await two.session()
    await session.execute("LOCK INSTANCE FOR BACKUP")  # the applier waits with its DDL
    await one.run("ALTER TABLE app.t ADD m int")
    wanted = (await world.engine.server.status(one.ctx)).position
    async with asyncio.timeout(20):
        while (await world.engine.server.status(two.ctx)).received != wanted:
            await asyncio.sleep(0.05)
    assert (await world.engine.server.status(two.ctx)).position != wanted
    with pytest.raises(DeadlineExceeded):
        await world.engine.replication.promote(two.ctx, deadline=0.5)
    await session.leave()
    await world.engine.replication.promote(two.ctx, deadline=30)
    assert await two.value(
        "SELECT COUNT(*) FROM information_schema.columns WHERE table_name = 't' AND column_name = 'm'"
    )


async def test_a_replica_keeps_what_it_confirmed_and_had_not_applied_when_it_crashed(world: World) -> None:
    one = await world.primary(durability=SYNCHRONOUS)
    two = await world.replica(one, durability=SYNCHRONOUS)
    app = await one.as_app()
    await ask(app, "CREATE TABLE t (n int PRIMARY KEY)")
    await world.level(two, one)
    await two.run("STOP REPLICA SQL_THREAD")
    for number in range(20):
        await ask(app, "INSERT INTO t VALUES (%s)", number)  # acknowledged: the replica has it, unapplied
    hang_up(app)
    assert two.process is not None
    two.process.kill()
    await two.process.wait()
    await one.stop(StopMode.IMMEDIATE)
    # Its agent has the Lease now; the old primary is gone for good.
    await world.engine.server.configure(two.ctx, Role.REPLICA, None, running=False)
    await two.launch()
    await two.answers()
    await world.engine.replication.promote(two.ctx, deadline=30)
    await two.care()
    assert await two.value("SELECT COUNT(*) FROM app.t") == 20


@pytest.mark.parametrize("crashed", [True, False], ids=["found at the start", "found by the applier"])
async def test_a_damaged_relay_log_is_fetched_again(world: World, crashed: bool) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await world.level(two, one)
    await two.run("STOP REPLICA SQL_THREAD")
    for number in range(10):
        await one.run(f"INSERT INTO app.t VALUES ({number})")
    wanted = (await world.engine.server.status(one.ctx)).position
    async with asyncio.timeout(20):
        while (await world.engine.server.status(two.ctx)).received != wanted:
            await asyncio.sleep(0.05)
    if crashed:
        await two.stop(StopMode.IMMEDIATE)
    newest = max(two.ctx.data.glob("relay.0*"), key=lambda path: path.stat().st_size)
    with newest.open("r+b") as file:
        file.seek(newest.stat().st_size - 400)
        file.write(b"\xff" * 50)
    if crashed:
        await two.start(Role.REPLICA, one)
    async with asyncio.timeout(40):
        while (await world.engine.server.status(two.ctx)).position != wanted:
            await two.care(Role.REPLICA, one)
            assert await world.engine.replication.diagnose(two.ctx) is None
            await asyncio.sleep(0.2)
    await two.until("SELECT COUNT(*) = 10 FROM app.t")
    assert ("relay log" in two.output.lower()) != crashed, "the server itself drops what it cannot read at a start"


async def test_a_replica_without_a_source_applies_what_it_has(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await world.level(two, one)
    await two.run("STOP REPLICA SQL_THREAD")
    await one.run("INSERT INTO app.t VALUES (1)")
    wanted = (await world.engine.server.status(one.ctx)).position
    async with asyncio.timeout(20):
        while (await world.engine.server.status(two.ctx)).received != wanted:
            await asyncio.sleep(0.05)
    await one.stop(StopMode.IMMEDIATE)
    await two.stop()
    await two.start(Role.REPLICA)
    async with asyncio.timeout(20):
        while (await world.engine.server.status(two.ctx)).position != wanted:
            await asyncio.sleep(0.05)


async def test_a_replica_turns_to_another_source_and_keeps_what_it_received(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    three = await world.replica(one)
    await one.run("CREATE TABLE app.t (n int PRIMARY KEY)")
    await world.level(two, one)
    await one.stop()
    await world.engine.replication.promote(two.ctx, deadline=30)
    await two.care()
    await two.run("INSERT INTO app.t VALUES (1)")
    await three.care(Role.REPLICA, two)
    await world.follows(three)
    await world.level(three, two)
    assert await world.engine.replication.diagnose(three.ctx) is None
    status = await world.engine.server.status(two.ctx)
    assert [link.name for link in status.replicas] == ["orders-3"]
    # Nobody to follow is no failure.
    await three.care(Role.REPLICA)
    assert (await world.engine.server.status(three.ctx)).upstream is False
    assert await world.engine.replication.diagnose(three.ctx) is None


async def test_events_run_on_the_primary_and_go_on_after_a_switchover(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    await one.run(
        "CREATE TABLE app.t (at datetime(6), id int)",
        "CREATE EVENT app.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO app.t VALUES (NOW(6), @@server_id)",
    )
    await world.level(two, one)
    assert await two.value("SELECT @@GLOBAL.event_scheduler") == "OFF"
    await hand_over(one, two)
    assert await one.value("SELECT @@GLOBAL.event_scheduler") == "OFF"
    await two.until("SELECT COUNT(*) > 0 FROM app.t WHERE id = @@server_id")


async def test_bug_events_changed_owner_and_state_with_the_primary(world: World) -> None:
    """They ran as the agent then, and those that were off, or had run, ran (again)."""
    one = await world.primary()
    app = await one.as_app()
    for statement in (
        "CREATE TABLE t (name varchar(10))",
        "SET NAMES latin1",
        "CREATE EVENT `100%` ON SCHEDULE EVERY 1 DAY STARTS '2099-01-01' DO INSERT INTO t VALUES ('never')",
        "CREATE EVENT later ON SCHEDULE AT '2099-01-01' ON COMPLETION PRESERVE DO INSERT INTO t VALUES ('later')",
    ):
        await ask(app, statement)
    two = await world.replica(one)
    for statement in (
        "CREATE EVENT tick ON SCHEDULE EVERY 1 DAY STARTS '2099-01-01' DO INSERT INTO t VALUES ('never')",
        "CREATE EVENT off ON SCHEDULE EVERY 1 SECOND DISABLE DO INSERT INTO t VALUES ('off')",
        "CREATE EVENT once ON SCHEDULE AT NOW() ON COMPLETION PRESERVE DO INSERT INTO t VALUES ('once')",
    ):
        await ask(app, statement)
    hang_up(app)
    # Its time has come after it was cloned.
    await one.run("SET SESSION sql_log_bin = OFF", "ALTER EVENT app.later ON SCHEDULE AT NOW() ON COMPLETION PRESERVE")
    await one.until("SELECT COUNT(*) = 3 FROM information_schema.events WHERE status = 'DISABLED'")
    await one.care()
    await world.level(two, one)
    on_copy = "SELECT status FROM information_schema.events WHERE event_name = 'later'"
    assert await two.value(on_copy) == "ENABLED"
    await hand_over(one, two)
    session = await two.session()
    try:
        found = {
            str(row["name"]): (row["definer"], row["on"], row["client"])
            for row in await session.rows(
                "SELECT event_name AS name, definer, status = 'ENABLED' AS `on`, character_set_client AS client"
                " FROM information_schema.events"
            )
        }
    finally:
        session.drop()
    assert found == {
        "100%": ("app@%", 1, "latin1"),
        "tick": ("app@%", 1, "latin1"),
        "off": ("app@%", 0, "latin1"),
        "once": ("app@%", 0, "latin1"),
        "later": ("app@%", 0, "latin1"),
    }
    assert await two.value("SELECT GROUP_CONCAT(name ORDER BY name) FROM app.t") == "later,once"
    position = (await world.engine.server.status(two.ctx)).position
    await two.care()
    assert (await world.engine.server.status(two.ctx)).position == position, "with nothing changed nothing is written"
    await two.run("ALTER DEFINER = app EVENT app.off ENABLE", "ALTER DEFINER = app EVENT app.tick DISABLE")
    await two.care()
    await hand_over(two, one)
    query = (
        "SELECT GROUP_CONCAT(event_name ORDER BY event_name) FROM information_schema.events WHERE status = 'ENABLED'"
    )
    assert await one.value(query) == "100%,off"


async def test_data_of_another_database_is_to_be_rebuilt(world: World) -> None:
    one = await world.primary()
    two = await world.primary(own=True)
    await two.stop()
    broken = await eventually(lambda: world.engine.replication.prepare_follow(two.ctx, one.peer))
    assert broken is not None and broken.rebuild and "lacks" in broken.why
    empty = world.instance()
    with pytest.raises(IntegrityError):
        await world.engine.replication.drained_position(empty.ctx)
