"""Base backups by CLONE of real servers: exact, complete or refused by name, and gone without a trace."""

from __future__ import annotations

import asyncio
import shutil
from collections import namedtuple
from datetime import UTC, datetime

import pytest
from yoban.errors import Terminal, Unavailable
from yoban.plugins import BackupRequest, FileItem
from yoban.testing.engineharness import copy
from yoban_mysql import configuration
from yoban_mysql.backup import copy_folder
from yoban_mysql.gtid import GtidSet

from tests.integration.mysql.archive import Archive, gtids
from tests.integration.mysql.world import Instance, World, ask, hang_up

pytestmark = pytest.mark.server
REQUEST = BackupRequest("20260101T000000Z-abcdef")


def left(instance: Instance) -> list[str]:
    """What lies beside the data, but for the server's own temporary folder."""
    return sorted(path.name for path in instance.ctx.data.parent.iterdir() if not path.name.endswith(".tmp"))


async def test_the_set_of_gtids_is_exact_while_others_write(world: World) -> None:
    primary = await world.primary()
    archive = Archive(world)
    await archive.reigns(primary)
    await primary.run("CREATE TABLE app.t (id int AUTO_INCREMENT PRIMARY KEY, note varchar(100))")
    writing = True

    async def write() -> None:
        session = await primary.session()
        while writing:
            await session.execute("INSERT INTO app.t (note) VALUES ('x')")
        await session.leave()

    writer = asyncio.create_task(write())
    await asyncio.sleep(0.2)
    made = await archive.back_up(primary)
    writing = False
    await writer
    assert left(primary) == ["data"]
    begin, end = GtidSet.parse(made.begin.position), GtidSet.parse(made.end.position)
    assert begin <= end <= GtidSet.parse(await gtids(primary))
    assert made.end.frozen_seconds == 0.0
    assert made.end.facts["server_uuid"] == await primary.value("SELECT @@server_uuid")
    assert made.end.facts["gtid_executed"] == made.end.position
    await archive.collect(primary)
    restored = await archive.restore("immediate")
    # Each transaction but those that made accounts and tables is a row.
    count = await restored.value("SELECT COUNT(*) FROM app.t")
    everything = await primary.value("SELECT COUNT(*) FROM app.t")
    assert count == everything - (GtidSet.parse(await gtids(primary)) - end).count
    assert await restored.value("SELECT @@server_uuid") != made.end.facts["server_uuid"]


async def test_a_replica_serves_and_its_copy_follows_nobody(world: World) -> None:
    primary = await world.primary()
    replica = await world.replica(primary)
    archive = Archive(world)
    await archive.reigns(primary)
    await primary.run("CREATE TABLE app.t (id int PRIMARY KEY)", "INSERT INTO app.t VALUES (1)")
    await world.level(replica, primary)
    made = await archive.back_up(replica)
    tail = await archive.collect(primary)
    assert tail is not None
    assert made.end.line == tail.line, "the line is the primary's"
    restored = await archive.restore()
    assert await restored.value("SELECT COUNT(*) FROM app.t") == 1
    channels = "SELECT COUNT(*) FROM performance_schema.replication_connection_configuration WHERE host <> ''"
    assert await restored.value(channels) == 0
    await world.follows(replica)


async def test_bug_a_copy_ended_before_commits_that_it_holds_where_a_clock_is_behind(world: World) -> None:
    # A restore to a moment between the two began with this copy, and had what was committed after that moment.
    primary = await world.primary()
    replica = await world.replica(primary)
    ahead = "1893456000000000"  # microseconds: the primary's clock says 2030
    await primary.run(
        "CREATE TABLE app.t (id int PRIMARY KEY)",
        f"SET SESSION original_commit_timestamp = {ahead}",
        "INSERT INTO app.t VALUES (1)",
    )
    await world.level(replica, primary)
    for one in (replica, primary):
        async with world.engine.base_backup.backup(one.ctx, REQUEST) as session:
            end = await session.finish()
        assert end.time >= datetime(2030, 1, 1, tzinfo=UTC), one.ctx.name


async def test_tables_that_clone_does_not_carry_are_refused_by_name(world: World) -> None:
    primary = await world.primary()
    await primary.run(
        "CREATE TABLE app.one (id int) ENGINE=MyISAM",
        "CREATE TABLE app.many (id int) ENGINE=MERGE UNION=(app.one)",
        "CREATE TABLE app.hole (id int) ENGINE=BLACKHOLE",
    )
    with pytest.raises(Terminal) as caught:
        await copy(world.engine, primary.ctx)
    assert caught.value.reason == "TablesNotCarried"
    assert "app.many (MRG_MYISAM)" in caught.value.object and "app.hole (BLACKHOLE)" in caught.value.object
    assert "app.one" not in caught.value.object
    assert left(primary) == ["data"]
    await primary.run("DROP TABLE app.many, app.hole")
    await copy(world.engine, primary.ctx)


async def test_bug_a_table_in_memory_made_a_backup_that_could_not_be_restored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "IN_MEMORY", "FEDERATED")  # a server of before
    primary = await world.primary()
    archive = Archive(world)
    await archive.reigns(primary)
    await archive.back_up(primary)
    await primary.run("CREATE TABLE app.memo (id int PRIMARY KEY) ENGINE=MEMORY", "INSERT INTO app.memo VALUES (1)")
    with pytest.raises(Terminal) as caught:
        await copy(world.engine, primary.ctx)
    assert (caught.value.reason, caught.value.object) == ("TablesNotCarried", "app.memo (MEMORY)")
    replica = world.instance()
    with pytest.raises(Unavailable) as refused:
        await world.engine.replication.provision(replica.ctx, primary.peer, lambda done, total: None)
    assert refused.value.reason == "TablesNotCarried"
    await primary.run("ALTER TABLE app.memo ENGINE=InnoDB")
    await archive.collect(primary)
    monkeypatch.undo()
    restored = await archive.restore()
    assert await restored.value("SELECT COUNT(*) FROM app.memo") == 1, "what was logged is applied"
    await copy(world.engine, restored.ctx)


async def test_too_little_room_is_told_with_figures(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = await world.primary()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 12345, 12345))
    with pytest.raises(Terminal) as caught:
        await copy(world.engine, primary.ctx)
    assert caught.value.reason == "NoSpace"
    assert "12345 are free" in caught.value.cause
    assert left(primary) == ["data"]


async def test_failure_32_a_backup_that_is_cancelled_or_lost_leaves_nothing(world: World) -> None:
    primary = await world.primary()
    await primary.run("CREATE TABLE app.t (id int PRIMARY KEY)")
    backup = world.engine.base_backup
    with pytest.raises(ZeroDivisionError):
        async with backup.backup(primary.ctx, REQUEST):
            assert copy_folder(primary.ctx).is_dir()
            raise ZeroDivisionError
    assert left(primary) == ["data"]
    for pause in (0.0, 0.15, 0.4, 1.0):

        async def make() -> None:
            async with backup.backup(primary.ctx, REQUEST):
                await asyncio.sleep(60)

        task = asyncio.create_task(make())
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left(primary) == ["data"]
    copy_folder(primary.ctx).mkdir()
    (copy_folder(primary.ctx) / "left by an agent that is gone").touch()
    await backup.abandon(primary.ctx)
    assert left(primary) == ["data"]
    await copy(world.engine, primary.ctx)
    await primary.run("INSERT INTO app.t VALUES (1)")


async def test_failure_16_nothing_of_one_server_only_is_in_it(world: World) -> None:
    primary = await world.primary()
    app = await primary.as_app()
    await ask(app, "CREATE TEMPORARY TABLE passing (n int PRIMARY KEY)")
    await ask(app, "INSERT INTO passing VALUES (1)")
    made = await copy(world.engine, primary.ctx)
    hang_up(app)
    paths = [item.path for item, _ in made.items]
    assert "auto.cnf" not in paths
    first = {path.split("/")[0] for path in paths}
    assert not [name for name in first if name.startswith(("binlog.", "relay", "#innodb_temp", "ibtmp", "yoban-"))]
    assert "mysql.ibd" in paths and "ibdata1" in paths
    assert all(item.size == len(data) for item, data in made.items if isinstance(item, FileItem))
