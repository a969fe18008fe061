"""Restores on real servers: base backup, archived log, exactly to the target; and what must not pass for success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from yoban.errors import IntegrityError, InvalidInput, NotReady
from yoban.plugins import RecoveryState, RecoveryTarget, Role, StopMode, TargetType
from yoban_mysql import recovery
from yoban_mysql.gtid import GtidSet

from tests.integration.mysql.archive import Archive, add, anew, gtids, restored_rows, rows, started, table
from tests.integration.mysql.world import Instance, World
from tests.integration.servers import MIB

pytestmark = pytest.mark.server


@pytest.fixture
async def archive(world: World) -> AsyncIterator[Archive]:
    yield Archive(world)


async def test_targets_across_a_rotation(archive: Archive) -> None:
    primary = await started(archive)
    await add(primary, 2)
    await primary.run("FLUSH BINARY LOGS")
    (third,) = await add(primary, 3)
    position = await gtids(primary)
    await asyncio.sleep(0.05)
    moment = datetime.now(UTC)
    await asyncio.sleep(0.05)
    (fourth,) = await add(primary, 4)
    await primary.run("FLUSH BINARY LOGS")
    (fifth,) = await add(primary, 5)
    await archive.collect(primary)
    everything = await gtids(primary)

    latest = await archive.restore()
    assert await rows(latest) == [1, 2, 3, 4, 5]
    assert GtidSet.parse(everything) <= GtidSet.parse(await gtids(latest))
    assert await latest.value("SELECT COUNT(*) FROM app.t") == 5
    # Writing goes on as a new server, whose log is archived on a line of its own.
    await add(latest, 100)
    tail = await archive.world.engine.log_source.tail(latest.ctx)
    assert tail is not None
    assert tail.line.startswith(str(await latest.value("SELECT @@server_uuid")))
    await latest.stop()

    cases = [
        ("time", moment.isoformat(), False, [1, 2, 3]),
        ("position", position, False, [1, 2, 3]),
        ("transaction", third, False, [1, 2, 3]),
        ("transaction", third, True, [1, 2]),
        ("transaction", fifth, False, [1, 2, 3, 4, 5]),
        ("immediate", "", False, [1]),
    ]
    for kind, value, exclusive, expected in cases:
        made = await archive.restore(kind, value, exclusive=exclusive)
        assert await rows(made) == expected, (kind, exclusive)
        if kind == "position":
            held = GtidSet.parse(await gtids(made)) - GtidSet.parse(position)
            uuid = str(await made.value("SELECT @@server_uuid"))
            assert {source.uuid for source in held.sources} == {uuid}, "only what the new server wrote itself"
        await made.stop()

    skipped = await archive.restore(skip=[fourth])
    assert await rows(skipped) == [1, 2, 3, 5]
    assert GtidSet.parse(fourth) <= GtidSet.parse(await gtids(skipped))


async def test_a_restore_needs_room_for_a_part_of_the_log_only(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is many times what is taken at a time; what was applied is removed before more is taken."""
    monkeypatch.setattr(recovery, "WINDOW", 2 * MIB)
    primary = await started(archive)
    await primary.run("CREATE TABLE app.big (id int PRIMARY KEY AUTO_INCREMENT, text longblob)")
    added: dict[int, str] = {}
    for number in range(2, 22):
        await primary.run("INSERT INTO app.big (text) VALUES (REPEAT(UUID(), 25000))")
        (added[number],) = await add(primary, number)
        await primary.run("FLUSH BINARY LOGS")
    await archive.collect(primary)
    log = sum(len(data) for data in archive.whole.values())
    assert log > 15 * MIB
    target = RecoveryTarget(TargetType.LATEST, skip=(added[15],))
    made, chosen = await archive.begin(target)
    meals, most = 1, 0
    while True:
        found = await archive.world.engine.recovery.progress(made.ctx, chosen.recovery)
        most = max(most, sum(file.stat().st_size for file in made.ctx.data.glob("relay.0*")))
        if found.state is RecoveryState.WAITING:
            again = await archive.world.engine.recovery.progress(made.ctx, chosen.recovery)
            assert again == found, "looking changes nothing"
            with pytest.raises(NotReady):
                await archive.world.engine.recovery.finish(made.ctx, chosen.recovery)
            await archive.feed(made, chosen)
            meals += 1
        elif found.state is not RecoveryState.REPLAYING:
            break
        await asyncio.sleep(0.02)
    assert found.state is RecoveryState.REACHED, found.message
    assert meals >= 5
    assert most < 4 * MIB
    await archive.finish(made, chosen)
    assert await rows(made) == [number for number in range(1, 22) if number != 15]
    sums = "SELECT SUM(id * CRC32(text)) FROM app.big"
    assert await made.value(sums) == await primary.value(sums)


async def test_bug_a_last_transaction_that_takes_long_failed_the_restore(archive: Archive) -> None:
    """A lock on its row holds it up; who distributes transactions has read all relay logs at once."""
    primary = await started(archive)
    await add(primary, 2)
    await primary.run("UPDATE app.t SET note = 'late' WHERE id = 1")
    await archive.collect(primary)
    made, chosen = await archive.begin(RecoveryTarget())
    holder = await made.session()
    await holder.execute("BEGIN")
    await holder.rows("SELECT * FROM app.t WHERE id = 1 FOR SHARE")
    progress = archive.world.engine.recovery.progress
    assert (await progress(made.ctx, chosen.recovery)).state is RecoveryState.REPLAYING
    read = (
        "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_state LIKE 'Replica has read all relay log%'"
    )
    await made.until(read)
    for _ in range(recovery.SILENT_LOOKS * 3):
        found = await progress(made.ctx, chosen.recovery)
        assert found.state is RecoveryState.REPLAYING, found.message
    await holder.execute("ROLLBACK")
    await holder.leave()
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.REACHED, found.message
    await archive.finish(made, chosen)
    assert await made.value("SELECT note FROM app.t WHERE id = 1") == "late"


async def test_more_of_the_log_is_not_taken_before_what_is_there_is_applied(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "WINDOW", 1)
    primary = await started(archive)
    for number in (2, 3, 4):
        await add(primary, number)
        await primary.run("FLUSH BINARY LOGS")
    await archive.collect(primary)
    made, chosen = await archive.begin(RecoveryTarget(TargetType.LATEST))
    assert archive.fed < len(chosen.recovery.segments)
    with pytest.raises(NotReady, match="not applied yet"):
        await archive.feed(made, chosen)
    archive.fed -= 1
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.REACHED, found.message
    await archive.finish(made, chosen)
    assert await rows(made) == [1, 2, 3, 4]


async def test_failure_21_the_tail_of_a_dead_primary_is_left_out(archive: Archive) -> None:
    """What the old primary had stored, and the new one never got, belongs to no history that `latest` follows."""
    world = archive.world
    first = await started(archive)
    second = await world.replica(first)
    await add(first, 2)
    await archive.collect(first)
    await world.level(second, first)
    await second.run("STOP REPLICA IO_THREAD")
    (orphan,) = await add(first, 50)
    await archive.collect(first)
    await first.stop(StopMode.IMMEDIATE)
    promotion = await world.engine.replication.promote(second.ctx, deadline=30)
    assert GtidSet.parse(orphan) & GtidSet.parse(promotion.fork) == GtidSet()
    await archive.reigns(second, promotion)
    await add(second, 60)
    await second.run("FLUSH BINARY LOGS")
    await add(second, 61)
    await archive.collect(second)
    latest = await archive.restore()
    assert await rows(latest) == [1, 2, 60, 61]
    assert not GtidSet.parse(orphan) <= GtidSet.parse(await gtids(latest))
    await latest.stop()
    # The line can be named: then the old primary's own end is what is restored.
    old = await archive.restore(line=archive.terms[0].line)
    assert await rows(old) == [1, 2, 50]


async def test_failure_21_a_switchover_in_the_middle_of_archiving(archive: Archive) -> None:
    """Files of both servers overlap; targets on either side of the switchover are met, from backups of either line."""
    world = archive.world
    first = await started(archive)
    second = await world.replica(first)
    await add(first, 2)
    await archive.collect(first)
    (third,) = await add(first, 3)  # never stored by the one who wrote it
    await world.level(second, first)
    await first.stop()
    drained = await world.engine.replication.drained_position(first.ctx)
    promotion = await world.engine.replication.promote(second.ctx, deadline=30)
    assert promotion.fork == drained
    await archive.reigns(second, promotion)
    (fourth,) = await add(second, 4)
    await archive.collect(second)
    at_four = await restored_rows(archive, "transaction", fourth)
    assert at_four == [1, 2, 3, 4]
    assert await restored_rows(archive, "transaction", third, exclusive=True) == [1, 2]
    # A backup after the new line began, from the old primary that follows now.
    await first.start(Role.REPLICA, second)
    await world.follows(first)
    await world.level(first, second)
    await archive.back_up(first, "b2")
    await add(second, 5)
    await archive.collect(second)
    assert archive.plan(RecoveryTarget()).backup.facts.id == "b2"
    assert await restored_rows(archive, "latest") == [1, 2, 3, 4, 5]
    # The first server's files have the same names on its volume as the second's; in the archive none are shared.
    numbers = [name.rsplit(".", 2)[1] for name in (*archive.whole, *archive.tails)]
    assert len(set(numbers)) < len(numbers)


async def test_failure_20_log_purged_by_hand_is_a_named_gap(archive: Archive) -> None:
    primary = await started(archive)
    await add(primary, 2)
    await primary.run("FLUSH BINARY LOGS")
    await add(primary, 3)
    await primary.run("FLUSH BINARY LOGS")
    await add(primary, 4)
    log = await primary.value("SHOW BINARY LOG STATUS")
    await primary.run(f"PURGE BINARY LOGS TO '{log}'")
    await archive.collect(primary)
    assert await anew(archive, primary, 5) == [1, 2, 3, 4, 5]


async def test_failure_20_a_missing_file_in_the_middle_is_named(archive: Archive) -> None:
    primary = await started(archive)
    for number in (2, 3, 4):
        await add(primary, number)
        await primary.run("FLUSH BINARY LOGS")
    await archive.collect(primary)
    whole = archive.plan(RecoveryTarget())
    gone = whole.recovery.segments[1]
    del archive.whole[gone]
    with pytest.raises(IntegrityError) as caught:
        archive.plan(RecoveryTarget())
    assert caught.value.reason == "LogGap"
    assert gone[:-20] in caught.value.object
    # Who does not look at names is stopped by what the files themselves say.
    left = tuple(name for name in whole.recovery.segments if name != gone)
    with pytest.raises(IntegrityError) as caught:
        await archive.begin(RecoveryTarget(), chosen=replace(whole, recovery=replace(whole.recovery, segments=left)))
    assert (caught.value.reason, left[1] in caught.value.object) == ("LogGap", True)


async def test_failure_23_a_transaction_taken_for_executed_before_the_replay_is_no_success(archive: Archive) -> None:
    primary = await started(archive)
    (second,) = await add(primary, 2)
    await archive.collect(primary)
    made, chosen = await archive.begin(RecoveryTarget())
    await made.run(
        "SET GLOBAL super_read_only = OFF", f"SET GTID_NEXT = '{second}'", "BEGIN", "COMMIT",
        "SET GTID_NEXT = 'AUTOMATIC'", "SET GLOBAL super_read_only = ON",
    )  # fmt: skip
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.FAILED
    assert second in found.message


async def test_failure_24_a_damaged_file_in_the_archive_stops_the_restore_by_name(archive: Archive) -> None:
    primary = await started(archive)
    await add(primary, 2)
    await primary.run("INSERT INTO app.t VALUES (3, REPEAT('x', 90))", "FLUSH BINARY LOGS")
    await add(primary, 4)
    await archive.collect(primary)
    chosen = archive.plan(RecoveryTarget())
    name = next(name for name, data in archive.whole.items() if b"xxxx" in data)
    data = bytearray(archive.whole[name])
    data[data.index(b"xxxx")] ^= 0xFF
    archive.whole[name] = bytes(data)
    made, chosen = await archive.begin(RecoveryTarget(), chosen=chosen)
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.FAILED
    assert "cannot be applied" in found.message
    assert await rows(made) == [1, 2], "everything before it is applied, nothing after it"
    await made.stop()
    # A file whose structure is broken is found before anything is applied.
    archive.whole[name] = bytes(data[:200]) + b"\xff" * 40 + bytes(data[240:])
    with pytest.raises(IntegrityError) as caught:
        await archive.begin(RecoveryTarget(), chosen=chosen)
    assert (caught.value.reason, caught.value.object) == ("LogDamaged", name)


async def test_failure_08_a_truncated_last_file_is_no_success(archive: Archive) -> None:
    primary = await started(archive)
    await add(primary, 2)
    (third,) = await add(primary, 3)
    tail = await archive.collect(primary)
    assert tail is not None
    chosen = archive.plan(RecoveryTarget())
    archive.tails[tail.segment] = archive.tails[tail.segment][:-7]
    with pytest.raises(IntegrityError, match="missing"):
        archive.plan(RecoveryTarget())
    made, chosen = await archive.begin(RecoveryTarget(), chosen=chosen)
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.FAILED
    assert third.rsplit(":", 1)[1] in found.message


async def test_failure_29_a_server_with_the_sources_id_applies_all_the_same(archive: Archive) -> None:
    primary = await started(archive)
    await add(primary, 2, 3)
    await archive.collect(primary)
    made, chosen = await archive.begin(RecoveryTarget(), twin=primary)
    assert await made.value("SELECT @@server_id") == await primary.value("SELECT @@server_id")
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.REACHED, found.message
    assert await rows(made) == [1, 2, 3]


async def test_leaving_out_what_later_rows_need_stops_by_name(archive: Archive) -> None:
    primary = await started(archive)
    (second,) = await add(primary, 2)
    await primary.run("DELETE FROM app.t WHERE id = 2")
    await archive.collect(primary)
    made, chosen = await archive.begin(RecoveryTarget(skip=(second,)))
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.FAILED
    assert "cannot be applied" in found.message
    assert "1032" in found.message or "DELETE_ROWS" in found.message.upper() or "find record" in found.message


async def test_what_a_backup_holds_cannot_be_left_out(archive: Archive) -> None:
    primary = await archive.world.primary()
    await archive.reigns(primary)
    await table(primary)
    (one,) = await add(primary, 1)
    await archive.back_up(primary)
    await add(primary, 2)
    await archive.collect(primary)
    with pytest.raises(InvalidInput):
        archive.plan(RecoveryTarget(skip=(one,)))


async def test_everything_that_a_log_can_hold(archive: Archive) -> None:
    """DDL, a large transaction, XA, tables without a key, routines, triggers, events, accounts."""
    primary = await started(archive)
    await primary.run(
        "CREATE TABLE app.plain (a int, b varchar(300))",
        "INSERT INTO app.plain VALUES (1, 'one'), (1, 'one'), (2, 'two')",
        "UPDATE app.plain SET b = 'other' WHERE a = 1",
        "CREATE TABLE app.big (id int AUTO_INCREMENT PRIMARY KEY, b varchar(2000))",
        "INSERT INTO app.big (b) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)"
        " SELECT REPEAT('x', 1500) FROM n",
        "INSERT INTO app.big (b) SELECT b FROM app.big",
        "INSERT INTO app.big (b) SELECT b FROM app.big",
        "INSERT INTO app.big (b) SELECT b FROM app.big",
        "ALTER TABLE app.t ADD COLUMN more int DEFAULT 7",
        "XA START 'a'",
        "INSERT INTO app.t (id, note) VALUES (200, 'xa')",
        "XA END 'a'",
        "XA PREPARE 'a'",
        "XA COMMIT 'a'",
        "CREATE PROCEDURE app.p () SELECT 1",
        "CREATE FUNCTION app.f () RETURNS int DETERMINISTIC RETURN 7",
        "CREATE TRIGGER app.g BEFORE INSERT ON app.t FOR EACH ROW SET NEW.note = CONCAT(NEW.note, '!')",
        "CREATE EVENT app.e ON SCHEDULE EVERY 1 SECOND DO INSERT INTO app.plain VALUES (9, 'event')",
        "CREATE USER 'reader'@'%' IDENTIFIED BY 'secret'",
        "GRANT SELECT ON app.* TO 'reader'@'%'",
        deadline=60,
    )
    await primary.run("DROP EVENT app.e", "INSERT INTO app.t (id, note) VALUES (201, 'triggered')")
    await primary.run("CREATE EVENT app.later ON SCHEDULE EVERY 1 SECOND DO INSERT INTO app.plain VALUES (8, 'later')")
    await archive.collect(primary)
    await primary.run("DROP EVENT app.later")
    made, chosen = await archive.begin(RecoveryTarget())
    found = await archive.settle(made, chosen)
    assert found.state is RecoveryState.REACHED, found.message
    assert await made.value("SELECT @@event_scheduler") == "OFF"
    for name in ("t", "big"):
        assert await checksum(made, name) == await checksum(primary, name), name
    assert await made.value("SELECT COUNT(*) FROM app.plain WHERE a <= 2") == 3
    before = await made.value("SELECT COUNT(*) FROM app.plain WHERE a = 8")
    await asyncio.sleep(1.5)
    assert await made.value("SELECT COUNT(*) FROM app.plain WHERE a = 8") == before, "events stay off until the end"
    await archive.finish(made, chosen)
    assert await made.value("SELECT app.f()") == 7
    assert await made.value("SELECT note FROM app.t WHERE id = 201") == "triggered!"
    assert await made.value("SELECT COUNT(*) FROM mysql.user WHERE user = 'reader'") == 1
    assert await made.value("SELECT @@innodb_flush_log_at_trx_commit, @@sync_binlog") == 1
    await made.until("SELECT COUNT(*) > 0 FROM app.plain WHERE a = 8")


async def checksum(instance: Instance, name: str) -> int:
    session = await instance.session()
    try:
        row = await session.row(f"CHECKSUM TABLE app.{name}")
        assert row is not None
        return int(row["checksum"])
    finally:
        await session.leave()
