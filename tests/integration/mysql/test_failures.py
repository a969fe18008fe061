"""Ways in which backups fail without a word, put to real servers and their archive: each ends by name, or in equal data.

The numbers are those of docs/failures.md. More of them are tested where their subject is: test_log, test_recovery and
test_backup.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from yoban.domain.recoverability import recoverable
from yoban.errors import IntegrityError, InvalidInput, Unavailable
from yoban.kube.clock import SystemClock
from yoban.plugins import (
    BackupRequest,
    Fork,
    InstanceContext,
    Position,
    Promotion,
    RecoveryPlan,
    RecoveryState,
    RecoveryTarget,
    Role,
    SettingClass,
    StopMode,
    TargetType,
)
from yoban.repository import Repository
from yoban.testing.engineharness import copy, place
from yoban.testing.memory_store import MemoryCloud, MemoryStore
from yoban_mysql import pages, segments
from yoban_mysql.backup import MySqlBackup, copy_folder
from yoban_mysql.gtid import GtidSet
from yoban_mysql.names import RECOVERY_FILE, RELAY_LOG

from tests.integration.mysql.archive import Archive, add, anew, gtids, restored_rows, rows, started, table
from tests.integration.mysql.world import Instance, World, ask, hang_up

pytestmark = pytest.mark.server
REQUEST = BackupRequest("20260101T000000Z-abcdef")


@pytest.fixture
async def archive(world: World) -> AsyncIterator[Archive]:
    yield Archive(world)


def lost(archive: Archive, *names: str) -> None:
    """Make stored files gone."""
    for name in names:
        archive.whole.pop(name, None)
        archive.tails.pop(name, None)


def gap(archive: Archive) -> str:
    """The hole that is told, as the operator and a restore say it."""
    found = recoverable(archive.history(), archive.world.engine)
    assert found.gap is not None
    with pytest.raises(IntegrityError) as caught:
        archive.plan(RecoveryTarget())
    assert caught.value.reason == "LogGap"
    assert str(found.gap) in f"{caught.value.object} {caught.value.cause}"
    return str(found.gap)


async def half_stored(archive: Archive) -> tuple[Instance, Instance]:
    """A primary and its replica, with row 2 stored and row 3 not."""
    first = await started(archive)
    second = await archive.world.replica(first)
    await add(first, 2)
    await archive.collect(first)
    await add(first, 3)
    return first, second


async def promoted(archive: Archive, second: Instance, number: int = 0) -> Promotion:
    promotion = await archive.world.engine.replication.promote(second.ctx, deadline=30)
    await archive.reigns(second, promotion, number)
    await second.care(Role.PRIMARY)
    return promotion


async def test_failure_01_a_file_that_was_never_put_is_told_before_anybody_restores(archive: Archive) -> None:
    primary = await started(archive)
    for number in (2, 3, 4):
        await add(primary, number)
        await primary.run("FLUSH BINARY LOGS")
    await archive.collect(primary)
    before, gone = archive.plan(RecoveryTarget()).recovery.segments[:2]
    lost(archive, gone)
    assert segments.successor(before) in gap(archive)
    # What lies before the hole can be restored all the same.
    assert await restored_rows(archive, "immediate") == [1]


async def test_failure_02_a_backup_whose_log_is_never_stored(archive: Archive) -> None:
    """It is consistent by itself: its own end is restored, and what should follow it is a hole with a name."""
    primary = await archive.world.primary()
    await archive.reigns(primary)
    await table(primary)
    await add(primary, 1)
    await archive.collect(primary)
    await add(primary, 2)  # from here on nothing is stored, and the backup is made all the same
    await archive.back_up(primary)
    assert await restored_rows(archive, "latest") == [1, 2]
    await add(primary, 3)
    await primary.run("FLUSH BINARY LOGS")
    await add(primary, 4)
    tail = await archive.collect(primary)
    assert tail is not None
    lost(archive, *tail.earlier, *archive.whole)
    gap(archive)


async def test_failure_03_what_a_dead_primary_had_not_stored_comes_from_its_successor(archive: Archive) -> None:
    world = archive.world
    first, second = await half_stored(archive)
    await first.run("FLUSH BINARY LOGS")
    await add(first, 4)
    await world.level(second, first)
    await first.stop(StopMode.IMMEDIATE)
    await promoted(archive, second)
    await second.run("FLUSH BINARY LOGS")
    await add(second, 5)
    await archive.collect(second)
    assert await restored_rows(archive, "latest") == [1, 2, 3, 4, 5]
    own = sorted(name for name in archive.whole if name.startswith(archive.terms[1].line))
    lost(archive, *own)
    assert archive.terms[1].line in gap(archive), "the new line begins past the fork then"


async def test_failure_04_a_reign_without_its_record_is_never_the_end_of_the_log(archive: Archive) -> None:
    world = archive.world
    instances = [await started(archive)]
    for number in (2, 3):
        instances.append(await world.replica(instances[-1]))
        await add(instances[-2], 10 * number)
        await world.level(instances[-1], instances[-2])
        await archive.collect(instances[-2])
        await instances[-2].stop()
        await promoted(archive, instances[-1])
        await add(instances[-1], number)
        await archive.collect(instances[-1])
    assert await restored_rows(archive, "latest") == [1, 2, 3, 20, 30]
    terms = list(archive.terms)
    archive.terms = terms[:2]
    with pytest.raises(IntegrityError) as caught:
        archive.plan(RecoveryTarget())
    assert (caught.value.reason, caught.value.object) == ("TermMissing", "terms/3")
    assert archive.plan(RecoveryTarget(line=terms[1].line)).recovery.line == terms[1].line
    archive.terms = [terms[0], terms[2]]
    assert await restored_rows(archive, "latest") == [1, 2, 3, 20, 30], "the later one tells of it"
    archive.terms = [terms[0], replace(terms[2], ancestors=())]
    with pytest.raises(IntegrityError) as caught:
        archive.plan(RecoveryTarget())
    assert (caught.value.reason, caught.value.object) == ("TermMissing", "terms/2")


async def test_bug_a_reign_that_was_never_recorded_cut_the_log_in_two(archive: Archive) -> None:
    """The store was down for two changes of primary: nothing of the reign between them is stored, nor its record."""
    world = archive.world
    first = await started(archive)
    second, third = await world.replica(first), await world.replica(first)
    await add(first, 2)
    await archive.collect(first)
    await add(first, 3)
    for replica in (second, third):
        await world.level(replica, first)
    await first.stop()
    between = await world.engine.replication.promote(second.ctx, deadline=30)
    await second.care(Role.PRIMARY)
    await third.care(Role.REPLICA, second)
    await add(second, 4)
    await world.level(third, second)
    await second.stop()
    last = await promoted(archive, third, number=3)
    assert last.parent == between.line
    assert last.ancestors == (Fork(between.line, between.parent, between.fork),)
    await add(third, 5)
    await archive.collect(third)
    assert await restored_rows(archive, "latest") == [1, 2, 3, 4, 5]


async def test_failure_04_a_primary_moved_there_and_back_without_a_store_ends_the_window_by_name(
    archive: Archive,
) -> None:
    """What it stores of its first reign afterwards proves nothing; a new backup begins a new window."""
    world = archive.world
    first, second = await half_stored(archive)
    await world.level(second, first)
    await first.stop()
    await world.engine.replication.promote(second.ctx, deadline=30)
    await second.care(Role.PRIMARY)
    assert await world.engine.replication.prepare_follow(first.ctx, second.peer) is None
    await first.start(Role.REPLICA, second)
    await add(second, 4)
    await world.level(first, second)
    await second.stop()
    await promoted(archive, first, number=3)
    await add(first, 5)
    await archive.collect(first)
    assert archive.terms[-1].parent in gap(archive)
    assert await anew(archive, first, 6) == [1, 2, 3, 4, 5, 6]


async def test_failure_05_a_backup_of_a_history_that_was_left_is_not_used(archive: Archive) -> None:
    """The old primary lives on by itself and is backed up with what nobody else has."""
    world = archive.world
    first = await started(archive)
    second = await world.replica(first)
    await world.level(second, first)
    await archive.collect(first)
    await second.run("STOP REPLICA IO_THREAD")
    (orphan,) = await add(first, 50)
    await promoted(archive, second)
    await add(second, 60)
    await archive.back_up(first, "b2")
    await archive.collect(second)
    assert "left before its end" in dict(recoverable(archive.history(), world.engine).unusable)["b2"]
    made = await archive.restore()
    assert await rows(made) == [1, 60]
    assert not GtidSet.parse(orphan) & GtidSet.parse(await gtids(made))
    with pytest.raises(InvalidInput) as caught:
        archive.plan(RecoveryTarget(backup="b2"))
    assert caught.value.reason == "BackupUnusable"


async def test_failure_06_twins_store_one_name_once(archive: Archive) -> None:
    """A volume was copied with its identity: both servers write the same names, with other content."""
    world = archive.world
    one, two = await world.primary(), world.instance()
    await table(one)
    await one.stop()
    await asyncio.to_thread(subprocess.run, ["cp", "-a", str(one.ctx.data), str(two.ctx.data)], check=True)
    two.change(number=one.ctx.number, name=one.ctx.name)
    repository = Repository(MemoryStore(MemoryCloud(SystemClock().now)), "shop/orders/0123456789ab")
    for twin in (one, two):
        await twin.start()
    for twin, number in ((one, 1), (two, 2)):
        await add(twin, number)
        await twin.run("FLUSH BINARY LOGS")
    mine, theirs = [(await world.engine.log_source.pending(twin.ctx))[-1] for twin in (one, two)]
    assert mine.name == theirs.name
    line, name = mine.name.line, mine.name.name
    assert (await repository.log.put_segment(line, name, mine.path)).uploaded
    for probe in (False, True):
        with pytest.raises(IntegrityError) as caught:
            await repository.log.put_segment(line, name, theirs.path, probe=probe)
        assert caught.value.reason == "SegmentConflict"
    fetched = one.ctx.tmp / "fetched"
    await repository.log.fetch(line, name, fetched)
    assert fetched.read_bytes() == mine.path.read_bytes(), "what was there first was not touched"


async def test_failure_07_another_database_s_log_under_our_name_is_no_success(archive: Archive) -> None:
    world = archive.world
    primary = await started(archive)
    (second,) = await add(primary, 2)
    await primary.run("FLUSH BINARY LOGS")
    await archive.collect(primary)
    stranger = await world.primary(incarnation="feedfeedfeed")
    await table(stranger)
    await add(stranger, 2)
    await stranger.run("FLUSH BINARY LOGS")
    theirs = (await world.engine.log_source.pending(stranger.ctx))[-1]
    chosen = archive.plan(RecoveryTarget())
    name = next(name for name in chosen.recovery.segments if name in archive.whole)
    archive.whole[name] = theirs.path.read_bytes()
    made, chosen = await archive.begin(RecoveryTarget(), chosen=chosen)
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.FAILED
    assert second in found.message


async def test_failure_08_a_file_in_the_middle_that_was_cut_is_a_gap(archive: Archive) -> None:
    primary = await started(archive)
    await add(primary, 2)
    size = (await archive.world.engine.log_source.tail(primary.ctx)).flushed  # type: ignore[union-attr]
    await add(primary, 3)
    await primary.run("FLUSH BINARY LOGS")
    await add(primary, 4)
    await archive.collect(primary)
    chosen = archive.plan(RecoveryTarget())
    name, following = chosen.recovery.segments[-2:]
    whole = archive.whole[name]
    for end in (size, size + 100, len(whole) - 100):
        archive.whole[name] = whole[:end]
        with pytest.raises(IntegrityError) as caught:
            await archive.begin(RecoveryTarget(), chosen=chosen)
        assert caught.value.reason == "LogGap"
        assert following in str(caught.value.object)


async def test_failure_09_a_feed_that_breaks_off_leaves_nothing_half(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent dies after it has written half of a relay log, and its note of it is not on disk; each time."""
    primary = await started(archive)
    for number in (2, 3):
        await add(primary, number)
        await primary.run("FLUSH BINARY LOGS")
    await add(primary, 4)
    await archive.collect(primary)
    recovery = archive.world.engine.recovery
    feed = recovery.feed

    async def broken_off(ctx: InstanceContext, plan: RecoveryPlan, name: str, path: Path) -> bool:
        note, content = (ctx.data / RECOVERY_FILE).read_text(), path.read_bytes()
        await feed(ctx, plan, name, path)
        newest = max(ctx.data.glob(f"{RELAY_LOG}.0*"), default=None)
        if newest is not None:
            os.truncate(newest, newest.stat().st_size // 2)
        (ctx.data / RECOVERY_FILE).write_text(note)
        path.write_bytes(content)
        return await feed(ctx, plan, name, path)

    monkeypatch.setattr(recovery, "feed", broken_off)
    assert await restored_rows(archive, "latest") == [1, 2, 3, 4]


async def test_failure_10_a_file_that_was_never_handed_over_is_not_the_end(archive: Archive) -> None:
    primary = await started(archive)
    await add(primary, 2)
    await primary.run("FLUSH BINARY LOGS")
    (third,) = await add(primary, 3)
    await archive.collect(primary)
    chosen = archive.plan(RecoveryTarget())
    short = replace(chosen, recovery=replace(chosen.recovery, segments=chosen.recovery.segments[:-1]))
    made, chosen = await archive.begin(RecoveryTarget(), chosen=short)
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.FAILED
    assert third.rsplit(":", 1)[1] in found.message


async def test_failure_14_a_backup_that_lacks_what_makes_it_one(archive: Archive) -> None:
    """Its dictionary, and the set of transactions by which the log goes on from it."""
    world = archive.world
    primary = await started(archive)
    (second,) = await add(primary, 2)
    await archive.collect(primary)
    whole = archive.backups["b1"]
    for name in ("mysql.ibd", "ibdata1"):
        made = world.instance(incarnation="ba9876543210")
        part = replace(whole, items=[one for one in whole.items if one[0].path != name])
        with pytest.raises(IntegrityError, match="no dictionary"):
            await place(world.engine, made.ctx, part)
    # Another backup's set: it claims what its data does not hold.
    claimed = Position(str(GtidSet.parse(whole.end.position) | GtidSet.parse(second)))
    archive.backups["b1"] = replace(whole, end=replace(whole.end, position=claimed))
    made, chosen = await archive.begin(RecoveryTarget())
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.FAILED
    assert f"lacks transactions of its base backup: {second}" in found.message


async def test_failure_15_no_table_can_lie_outside_of_what_is_copied(world: World) -> None:
    primary = await world.primary()
    outside = primary.ctx.data.parent
    for statement in (
        f"CREATE TABLE app.t (n int) DATA DIRECTORY = '{outside}'",
        f"CREATE TABLESPACE elsewhere ADD DATAFILE '{outside}/elsewhere.ibd'",
    ):
        with pytest.raises(Unavailable):
            await primary.run(statement)
    assert world.engine.setting_rule("innodb_directories", primary.ctx.version).kind is SettingClass.FIXED


@pytest.mark.parametrize("form", ["", " ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8", " COMPRESSION='zlib'"])
async def test_failure_17_a_damaged_page_fails_the_backup(world: World, form: str) -> None:
    """CLONE copies it, and the server does not look at it again until somebody reads that page."""
    primary = await world.primary()
    app = await primary.as_app()
    await ask(app, f"CREATE TABLE t (id int PRIMARY KEY, note varchar(2000)){form}")
    await ask(
        app,
        "INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)"
        " SELECT i, REPEAT(SHA2(i, 256), 4) FROM n",
    )
    hang_up(app)
    await copy(world.engine, primary.ctx)  # every page of a whole server fits
    if "zlib" in form:
        return  # what lies on the disk is no page of the server's
    await primary.stop()
    path = primary.ctx.data / "app" / "t.ibd"
    data = bytearray(path.read_bytes())
    at = 5 * (8192 if form else pages.PAGE) + 5000
    data[at] ^= 0x01
    path.write_bytes(bytes(data))
    await primary.start()
    with pytest.raises(IntegrityError) as caught:
        await copy(world.engine, primary.ctx)
    assert (caught.value.reason, caught.value.object, caught.value.cause) == ("PageDamaged", "app/t.ibd", "pages 5")
    assert not copy_folder(primary.ctx).exists()


async def test_failure_25_a_time_is_what_its_offset_says_wherever_the_server_is(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = archive.world.engine.server
    command = server.command
    far = {"TZ": "KST-9"}
    monkeypatch.setattr(server, "command", lambda ctx: replace(command(ctx), env={**command(ctx).env, **far}))
    primary = await archive.world.primary(config={"timeZone": "+09:00"})
    assert await primary.value("SELECT CONCAT(@@GLOBAL.time_zone, @@GLOBAL.system_time_zone)") == "+09:00KST"
    await archive.reigns(primary)
    await table(primary)
    await add(primary, 1)
    await archive.back_up(primary)
    await add(primary, 2)
    await asyncio.sleep(0.05)
    moment = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await add(primary, 3)
    await archive.collect(primary)
    there = moment.astimezone(timezone(timedelta(hours=9)))
    assert await restored_rows(archive, "time", there.isoformat()) == [1, 2]
    with pytest.raises(InvalidInput, match="offset"):
        archive.plan(RecoveryTarget(TargetType.TIME, moment.replace(tzinfo=None).isoformat()))
    # Read as a time of the other zone it lies outside, and that is said.
    with pytest.raises(InvalidInput) as caught:
        archive.plan(RecoveryTarget(TargetType.TIME, there.replace(tzinfo=UTC).isoformat()))
    assert caught.value.reason == "TargetOutsideWindow"


async def test_failure_26_a_target_after_the_last_commit(archive: Archive) -> None:
    primary = await started(archive)
    await add(primary, 2)
    await archive.collect(primary)
    await asyncio.sleep(0.2)  # it idles
    await archive.collect(primary)
    window = archive.plan(RecoveryTarget()).window
    assert window.last_commit is not None and window.last_commit < window.end
    idle = window.last_commit + (window.end - window.last_commit) / 2
    assert await restored_rows(archive, "time", idle.isoformat()) == [1, 2]
    later = (window.end + timedelta(seconds=1)).isoformat()
    position = GtidSet.parse(window.position)
    next_one = f"{await primary.value('SELECT @@server_uuid')}:{position.count + 1}"
    for kind, value in (("time", later), ("transaction", next_one), ("position", f"{window.position},{next_one}")):
        with pytest.raises(InvalidInput) as caught:
            archive.plan(RecoveryTarget(TargetType(kind), value))
        assert caught.value.reason == "TargetOutsideWindow", kind
        assert window.end.isoformat()[:16] in f"{caught.value.fix} {caught.value}"


async def test_failure_27_a_target_inside_a_backup(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backup holds at its end cannot be left out again: the one before it leads there, or nothing does."""
    primary = await started(archive)
    inside: list[tuple[str, str, list[int]]] = []
    look = MySqlBackup._look

    async def writing(facet: MySqlBackup, ctx: InstanceContext) -> Any:
        begin = await look(facet, ctx)
        (gtid,) = await add(primary, 2)
        await asyncio.sleep(0.05)
        inside.append(("time", datetime.now(UTC).isoformat(), [1, 2]))
        await asyncio.sleep(0.05)
        inside.append(("position", await gtids(primary), [1, 2]))
        inside.append(("transaction", gtid, [1, 2]))
        await add(primary, 3)
        return begin

    monkeypatch.setattr(MySqlBackup, "_look", writing)
    await archive.back_up(primary, "b2")
    monkeypatch.undo()
    await archive.collect(primary)
    for kind, value, expected in inside:
        chosen = archive.plan(RecoveryTarget(TargetType(kind), value))
        assert chosen.backup.facts.id == "b1", kind
        with pytest.raises(InvalidInput) as caught:
            archive.plan(RecoveryTarget(TargetType(kind), value, backup="b2"))
        assert caught.value.reason in ("BackupUnusable", "TargetOutsideWindow"), kind
        assert await restored_rows(archive, kind, value) == expected, kind
    del archive.backups["b1"]
    for kind, value, _ in inside:
        with pytest.raises(InvalidInput) as caught:
            archive.plan(RecoveryTarget(TargetType(kind), value))
        assert caught.value.reason in ("BackupUnusable", "TargetOutsideWindow"), kind


async def test_failure_28_what_an_earlier_restore_left_is_not_applied(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = archive.world
    primary = await started(archive)
    await add(primary, 2)
    await archive.collect(primary)
    stranger = await world.primary(incarnation="feedfeedfeed")
    await table(stranger)
    await add(stranger, 77)
    await stranger.run("FLUSH BINARY LOGS")
    left = (await world.engine.log_source.pending(stranger.ctx))[-1].path.read_bytes()
    recovery = world.engine.recovery
    prepare = recovery.prepare

    async def over(ctx: InstanceContext, plan: RecoveryPlan) -> None:
        for number in (1, 2, 3):
            (ctx.data / f"{RELAY_LOG}.{number:06d}").write_bytes(left)
        index = "".join(f"./{RELAY_LOG}.{number:06d}\n" for number in (1, 2, 3))
        (ctx.data / f"{RELAY_LOG}.index").write_text(index)
        await prepare(ctx, plan)

    monkeypatch.setattr(recovery, "prepare", over)
    made, chosen = await archive.begin(RecoveryTarget())
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.REACHED, found.message
    assert await rows(made) == [1, 2]
    uuid = await stranger.value("SELECT @@server_uuid")
    assert uuid not in await gtids(made)


async def test_failure_31_a_base_backup_holds_accounts_routines_events_and_triggers(archive: Archive) -> None:
    primary = await archive.world.primary()
    await archive.reigns(primary)
    await table(
        primary,
        "CREATE USER 'reader'@'%' IDENTIFIED BY 'secret'",
        "GRANT SELECT ON app.* TO 'reader'@'%'",
        "CREATE ROLE auditor",
        "GRANT auditor TO 'reader'@'%'",
        "CREATE FUNCTION app.f () RETURNS int DETERMINISTIC RETURN 7",
        "CREATE TRIGGER app.g BEFORE INSERT ON app.t FOR EACH ROW SET NEW.note = CONCAT(NEW.note, '!')",
        "CREATE EVENT app.e ON SCHEDULE EVERY 1 DAY STARTS '2099-01-01' DO INSERT INTO app.t VALUES (9, 'event')",
        "CREATE VIEW app.v AS SELECT id FROM app.t",
    )
    await archive.back_up(primary)
    await archive.collect(primary)
    made = await archive.restore("immediate")
    assert await made.value("SELECT COUNT(*) FROM mysql.tables_priv WHERE user = 'reader'") == 0
    assert await made.value("SELECT COUNT(*) FROM mysql.db WHERE user = 'reader' AND db = 'app'") == 1
    assert await made.value("SELECT COUNT(*) FROM mysql.role_edges WHERE from_user = 'auditor'") == 1
    assert await made.value("SELECT app.f()") == 7
    await add(made, 1)
    assert await made.value("SELECT note FROM app.t") == "row 1!"
    assert await made.value("SELECT COUNT(*) FROM information_schema.events WHERE event_name = 'e'") == 1
    assert await made.value("SELECT COUNT(*) FROM app.v") == 1
    # The application's own account works with the password that the Secret has now.
    app = await made.as_app()
    assert (await ask(app, "SELECT COUNT(*) FROM t"))[0] is not None
    hang_up(app)
