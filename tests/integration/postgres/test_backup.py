"""Base backups and what comes of them, with real servers. Numbers are those of the list of silent failures."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from yoban.errors import IntegrityError, Retryable
from yoban.plugins import (
    BackupFacts,
    BackupRequest,
    Reach,
    RecoveryPlan,
    RecoveryState,
    RecoveryTarget,
    Role,
    StopMode,
    TargetType,
)
from yoban_postgres import history
from yoban_postgres.recovery import last_words

from tests.integration.postgres.world import Copy, Instance, World, restore, settle, take
from tests.integration.servers import give

pytestmark = pytest.mark.server


def plan_for(
    copy: Copy,
    *,
    type: TargetType = TargetType.LATEST,
    value: str = "",
    exclusive: bool = False,
    line: str = "",
    end: str,
) -> RecoveryPlan:
    return RecoveryPlan(
        target=RecoveryTarget(type=type, value=value, exclusive=exclusive),
        line=line or end[:8],
        end=end,  # type: ignore[arg-type]
        backup_end=copy.end.position,
        backup_facts=copy.end.facts,
    )


async def place_of(one: Instance) -> str:
    """The flushed end of everything, in the archive."""
    status = await one.engine.server.status(one.ctx)
    await one.archived()
    assert status.position is not None
    return status.position


async def note(one: Instance, n: int) -> datetime:
    """Commit a row, and return a time after it and before anything else."""
    await one.run(f"insert into journal values ({n}, clock_timestamp())")
    await asyncio.sleep(0.02)
    moment = await one.value("select clock_timestamp()")
    await asyncio.sleep(0.02)
    assert isinstance(moment, datetime)
    return moment


async def journal(one: Instance) -> list[int]:
    rows = await one.value("select array_agg(n order by n) from journal")
    return list(rows or [])


async def finish(target: Instance, plan: RecoveryPlan) -> str:
    reached = await target.engine.recovery.finish(target.ctx, plan)
    again = await target.engine.recovery.finish(target.ctx, plan)
    assert again == reached
    assert await target.value("select not pg_is_in_recovery()")
    return reached.line


class Load:
    """Writes until it is stopped; counts what was acknowledged."""

    def __init__(self, one: Instance) -> None:
        self.one = one
        self.acknowledged = 0

    async def __aenter__(self) -> Load:
        await self.one.run("create table load (n int primary key, filler text)")
        self.task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        connection = await asyncpg.connect(
            host=str(self.one.ctx.run), port=self.one.ctx.port, user="postgres", database="postgres"
        )
        try:
            while True:
                await connection.execute(
                    "insert into load select n, repeat(md5(n::text), 40) from (select $1::int as n) as x",
                    self.acknowledged + 1,
                )
                self.acknowledged += 1
        finally:
            connection.terminate()

    async def __aexit__(self, *_: object) -> None:
        assert not self.task.done(), self.task
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        assert self.acknowledged > 0


async def test_bug_settings_of_the_owner_that_blinded_the_agent(world: World, tmp_path: Path) -> None:
    hard = {
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "lock_timeout": "1",
        "idle_session_timeout": "300",
        "idle_in_transaction_session_timeout": "300",
    }
    if int(world.version) >= 17:
        hard["transaction_timeout"] = "50"
    one = await world.primary(settings=hard)
    two = await world.replica(one, settings=hard)
    engine = world.engine

    async def slow(_: object) -> None:
        await asyncio.sleep(0.7)  # longer than a session may be idle

    copy = await take(two, tmp_path / "copy", meanwhile=slow)
    assert copy.session.total_bytes > 0
    await engine.server.probe_write(one.ctx)
    end = await place_of(one)
    target = world.target(settings=hard)
    plan = plan_for(copy, end=end)
    progress = await restore(copy, target, plan)
    assert progress.state is RecoveryState.REACHED, progress
    await engine.recovery.finish(target.ctx, plan)
    await one.stop(StopMode.IMMEDIATE)
    await engine.replication.promote(two.ctx, deadline=30)
    assert (await engine.server.status(two.ctx)).role is Role.PRIMARY


async def test_backup_under_load_restores_everything_acknowledged(world: World, tmp_path: Path) -> None:
    one = await world.primary(log=True)
    async with Load(one) as load:
        await asyncio.sleep(0.3)
        copy = await take(one, tmp_path / "copy")
        assert load.acknowledged > 0
        await asyncio.sleep(0.3)
    end = await place_of(one)
    assert copy.end.first_segment <= copy.end.last_segment
    assert copy.end.frozen_seconds == 0.0
    assert copy.session.begin.position < copy.end.position
    target = world.target(log=True)
    plan = plan_for(copy, end=end)
    progress = await restore(copy, target, plan)
    assert progress.state is RecoveryState.REACHED, progress
    assert await finish(target, plan) == "00000002"
    found = await target.value("select array[count(*), max(n)] from load")
    assert found[0] == found[1]
    assert 0 <= found[0] - load.acknowledged <= 1, "the one in flight may be there or not"
    # As the agent does: a restart ends the recovery's own log and its special archive mode.
    await target.stop()
    await target.start(Role.PRIMARY)
    assert await target.value("select current_setting('archive_mode')") == "always"
    assert not (target.ctx.data / "yoban-recovery.conf").exists()
    assert (await target.engine.server.status(target.ctx)).line == "00000002"


async def test_failures_14_15_16_labels_tablespaces_unlogged_and_temporary(world: World, tmp_path: Path) -> None:
    one = await world.primary()
    for name in ("fast", "cold"):
        folder = world.root / f"space {name}"
        folder.mkdir()
        give(folder)
        await one.run(f"create tablespace {name} location '{folder}'")
    await one.run(
        "create table a (n int) tablespace fast", "insert into a values (1), (2)",
        "create table b (n int) tablespace cold", "insert into b values (3)",
        "create unlogged table u (n int) tablespace fast", "insert into u select generate_series(1, 1000)",
        "create table journal (n int, at timestamptz)",
    )  # fmt: skip
    unlogged = await one.value("select pg_relation_filepath('u')")
    held = await asyncpg.connect(host=str(one.ctx.run), port=one.ctx.port, user="postgres", database="postgres")
    await held.execute("create temporary table t as select generate_series(1, 1000) as n")
    temporary = await held.fetchval("select pg_relation_filepath('t')")
    (one.ctx.data / "base" / "pgsql_tmp").mkdir()
    (one.ctx.data / "base" / "pgsql_tmp" / "pgsql_tmp1.0").write_bytes(b"x")
    copy = await take(one, tmp_path / "copy")
    await held.close()
    assert unlogged not in copy.paths and f"{unlogged}_init" in copy.paths
    assert temporary not in copy.paths
    for path in copy.paths:
        assert "pgsql_tmp" not in path
        assert "pg_internal.init" not in path
        assert not path.startswith(("pg_wal/0", "pg_replslot/", "pg_stat_tmp/", "pg_dynshmem/", "pg_notify/"))
    assert {"backup_label", "tablespace_map", "global/pg_control", "pg_tblspc", "pg_notify", "PG_VERSION"} <= set(
        copy.paths
    )
    assert not {"postmaster.pid", "postmaster.opts", "current_logfiles", "standby.signal"} & set(copy.paths)
    assert len([path for path in copy.paths if path.startswith("pg_tblspc/") and path.count("/") == 1]) == 2
    end = await place_of(one)

    target = world.target()
    plan = plan_for(copy, end=end)
    assert (await restore(copy, target, plan)).state is RecoveryState.REACHED
    await finish(target, plan)
    assert await target.value(
        "select array[(select sum(n) from a), (select sum(n) from b), (select count(*) from u)]"
    ) == [3, 3, 0]
    places = await target.value(
        "select array_agg(pg_tablespace_location(oid)) from pg_tablespace where spcname in ('fast', 'cold')"
    )
    assert all(place.startswith(str(target.ctx.data / "tablespaces")) for place in places)
    await target.run("insert into a values (3)")
    assert await one.value("select sum(n) from a") == 3, "the restored copy writes to the source's tablespace"

    # A backup and a clone of what was restored work as well.
    await target.stop()
    await target.start()
    again = await take(target, tmp_path / "again")
    assert not any(path.startswith("tablespaces") for path in again.paths)
    clone = await world.replica(target, archive=world.root / f"archive of {target.ctx.number}")
    assert await clone.value("select sum(n) from a") == 6

    # 14: without its label the copy is refused, not started from the wrong place.
    (copy.folder / "backup_label").unlink()
    bare = world.target()
    with pytest.raises(IntegrityError, match="label"):
        await restore(copy, bare, plan)


async def test_failure_17_a_damaged_page_fails_the_backup(world: World, tmp_path: Path) -> None:
    one = await world.primary()
    await one.run("create table t as select generate_series(1, 20000) as n", "checkpoint")
    path = await one.value("select pg_relation_filepath('t')")
    await one.stop()
    with (one.ctx.data / path).open("r+b") as file:
        file.seek(3 * 8192 + 4000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))
    await one.start()
    with pytest.raises(IntegrityError) as caught:
        await take(one, tmp_path / "copy")
    assert "page 3 is damaged" in str(caught.value) and path in str(caught.value)
    assert await one.value("select count(*) from pg_stat_activity where application_name = 'yoban-backup'") == 0
    # A page that claims a future place in the log is not excused either.
    with (one.ctx.data / path).open("r+b") as file:
        file.seek(3 * 8192)
        file.write((0x7FFF).to_bytes(4, "little"))
    with pytest.raises(IntegrityError, match="page 3 is damaged"):
        await take(one, tmp_path / "copy2")


async def test_a_lost_backup_is_abandoned(world: World) -> None:
    one = await world.primary()
    async with one.engine.base_backup.backup(one.ctx, BackupRequest("lost")) as session:
        await one.engine.base_backup.abandon(one.ctx)
        with pytest.raises(Retryable):
            await session.finish()
    async with one.engine.base_backup.backup(one.ctx, BackupRequest("left")):
        pass
    await one.until("select count(*) = 0 from pg_stat_activity where application_name = 'yoban-backup'")


async def test_promotion_during_a_backup_fails_it(world: World, tmp_path: Path) -> None:
    one = await world.primary()
    two = await world.replica(one)

    async def promote(_: object) -> None:
        await one.stop()
        await two.engine.replication.promote(two.ctx, deadline=30)

    with pytest.raises(Retryable):
        await take(two, tmp_path / "copy", meanwhile=promote)
    assert (await two.engine.server.status(two.ctx)).role is Role.PRIMARY


async def test_backup_of_a_replica_is_consistent_at_its_end(world: World, tmp_path: Path) -> None:
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)")
    two = await world.replica(one)
    async with Load(one) as load:
        await asyncio.sleep(0.2)
        copy = await take(two, tmp_path / "copy")
        await asyncio.sleep(0.2)
    assert copy.end.facts["from"] == "replica"
    assert copy.end.time >= copy.session.begin.time
    end = await place_of(one)
    target = world.target()
    plan = plan_for(copy, end=end)
    progress = await restore(copy, target, plan)
    assert progress.state is RecoveryState.REACHED, progress
    await finish(target, plan)
    assert 0 <= await target.value("select count(*) from load") - load.acknowledged <= 1
    early = world.target()
    plan = plan_for(copy, type=TargetType.IMMEDIATE, end=end)
    assert (await restore(copy, early, plan)).state is RecoveryState.REACHED
    await finish(early, plan)
    assert 0 < await early.value("select count(*) from load") <= load.acknowledged + 1


async def test_every_target_stops_exactly_there(world: World, tmp_path: Path) -> None:
    """25 and 27 too: times with an offset, a target inside the backup is told by the facts."""
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)")
    await note(one, 1)
    middle: list[datetime] = []

    async def write(_: object) -> None:
        middle.append(await note(one, 2))

    before = int(await one.value("select pg_current_xact_id()::text"))
    copy = await take(one, tmp_path / "copy", meanwhile=write)
    time3 = await note(one, 3)
    xid4 = int(
        await one.value(
            "with i as (insert into journal values (4, now()) returning 1) select pg_current_xact_id()::text"
        )
    )
    commit4 = await one.value("select pg_xact_commit_timestamp($1::text::xid)", str(xid4))
    await one.run("select pg_create_restore_point('before the accident')")
    lsn5 = await one.value("select pg_current_wal_insert_lsn()::text")
    await note(one, 5)
    end = await place_of(one)

    began, ended = copy.session.begin, copy.end
    facts = BackupFacts("b", "00000001", began.position, ended.position, began.time, ended.time, ended.facts)
    targets = one.engine.targets
    assert targets is not None
    reach = lambda type, value: targets.reach(targets.parse(RecoveryTarget(type, value)), facts, ())  # noqa: E731
    assert reach(TargetType.TIME, middle[0].isoformat()) is Reach.NO
    assert reach(TargetType.TIME, time3.isoformat()) is Reach.YES
    assert reach(TargetType.TRANSACTION, str(xid4)) is Reach.YES
    assert reach(TargetType.TRANSACTION, str(before)) is Reach.NO

    kst = time3.astimezone(tz=datetime.strptime("+0900", "%z").tzinfo).isoformat()
    cases = [
        (TargetType.TIME, kst, False, [1, 2, 3]),
        (TargetType.TIME, commit4.isoformat(), False, [1, 2, 3, 4]),
        (TargetType.TIME, commit4.isoformat(), True, [1, 2, 3]),
        (TargetType.TRANSACTION, str(xid4), False, [1, 2, 3, 4]),
        (TargetType.TRANSACTION, str(xid4), True, [1, 2, 3]),
        (TargetType.NAME, "before the accident", False, [1, 2, 3, 4]),
        (TargetType.POSITION, lsn5, True, [1, 2, 3, 4]),
        (TargetType.POSITION, end, False, [1, 2, 3, 4, 5]),
        (TargetType.IMMEDIATE, "", False, [1, 2]),
        (TargetType.LATEST, "", False, [1, 2, 3, 4, 5]),
    ]
    for type, value, exclusive, expected in cases:
        target = world.target()
        parsed = targets.parse(RecoveryTarget(type, value, exclusive))
        plan = plan_for(copy, type=type, value=parsed.value, exclusive=exclusive, end=end)
        progress = await restore(copy, target, plan)
        assert progress.state is RecoveryState.REACHED, (
            type,
            value,
            progress,
            last_words(target.ctx.run / "recovery.log"),
        )
        assert await journal(target) == expected, (type, value, exclusive)
        assert await finish(target, plan) == "00000002"
        assert await journal(target) == expected
        await note(target, 99)
        await target.stop(StopMode.IMMEDIATE)


async def test_failure_26_a_target_that_the_log_does_not_hold_fails_with_the_server_s_words(
    world: World, tmp_path: Path
) -> None:
    one = await world.primary()
    copy = await take(one, tmp_path / "copy")
    end = await place_of(one)
    future = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for type, value in ((TargetType.TIME, future), (TargetType.NAME, "never"), (TargetType.TRANSACTION, "4000000000")):
        target = world.target()
        plan = plan_for(copy, type=type, value=value, end=end)
        progress = await restore(copy, target, plan)
        assert progress.state is RecoveryState.FAILED
        assert "recovery ended before configured recovery target was reached" in progress.message
        assert target.process is not None
        await target.ended()


async def test_failure_4_restore_across_three_switches(world: World, tmp_path: Path) -> None:
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)")
    copy = await take(one, tmp_path / "copy")
    times = [await note(one, 1)]
    two = await world.replica(one)
    current, other = one, two
    for n in (2, 3, 4):
        await current.archived()
        drained = await hand_over(current, other)
        assert drained
        times.append(await note(other, n))
        current, other = other, current
    end = await place_of(current)
    assert end.startswith("00000004:")
    for n, moment in enumerate(times[:-1], start=1):
        target = world.target()
        plan = plan_for(copy, type=TargetType.TIME, value=moment.isoformat(), end=end)
        progress = await restore(copy, target, plan)
        assert progress.state is RecoveryState.REACHED, (n, progress)
        assert await journal(target) == list(range(1, n + 1))
        assert await finish(target, plan) == "00000005"
        await target.stop(StopMode.IMMEDIATE)
    last = world.target()
    plan = plan_for(copy, end=end)
    assert (await restore(copy, last, plan)).state is RecoveryState.REACHED
    await finish(last, plan)
    assert await journal(last) == [1, 2, 3, 4]
    # Without the history of the chosen line the server refuses; it never stops on an older line.
    way = history.parse((world.archive / "00000004.history").read_text(), "00000004")
    (world.archive / "00000004.history").unlink()
    lost = world.target()
    progress = await restore(copy, lost, plan)
    assert progress.state is RecoveryState.FAILED
    assert "timeline 4" in progress.message
    # Core knows the forks by other means, and that is enough.
    known = world.target()
    plan = replace(plan, forks=tuple(way))
    assert (await restore(copy, known, plan)).state is RecoveryState.REACHED
    assert await finish(known, plan) == "00000005"
    assert await journal(known) == [1, 2, 3, 4]


async def hand_over(old: Instance, new: Instance) -> str:
    """A switchover by hand, as agents do it: returns the drained position."""
    await old.stop(StopMode.CLEAN)
    engine = old.engine
    drained = await engine.replication.drained_position(old.ctx)
    async with asyncio.timeout(20):
        while True:
            status = await engine.server.status(new.ctx)
            assert status.position is not None
            if engine.positions.covers(status.position, drained):
                break
            await asyncio.sleep(0.02)
    promotion = await engine.replication.promote(new.ctx, deadline=30)
    assert await engine.replication.promote(new.ctx, deadline=30) == promotion
    assert promotion.parent == drained[:8] and promotion.fork == drained, "nothing was lost, nothing was written"
    await engine.server.configure(new.ctx, Role.PRIMARY, None, running=True)
    await engine.replication.manage_members(new.ctx, [old.peer])
    broken = await follow_when_ready(old, new)
    assert broken is None, broken
    await old.start(Role.REPLICA, new)
    await old.world.streams(old)
    return drained


async def follow_when_ready(old: Instance, new: Instance) -> object:
    from yoban.errors import NotReady

    async with asyncio.timeout(60):
        while True:
            try:
                return await old.engine.replication.prepare_follow(old.ctx, new.peer)
            except NotReady:
                await asyncio.sleep(0.1)


async def test_failure_11_an_archive_that_does_not_answer_stops_the_recovery(world: World, tmp_path: Path) -> None:
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)")
    copy = await take(one, tmp_path / "copy")
    await note(one, 1)
    await one.archived()
    await note(one, 2)
    end = await place_of(one)
    last = sorted(path.name for path in world.archive.glob("0*") if len(path.name) == 24)[-1]
    (world.archive / f".broken.{last}").touch()
    target = world.target()
    progress = await restore(copy, target, plan_for(copy, end=end))
    assert progress.state is RecoveryState.FAILED
    assert last in progress.message


async def test_failures_8_10_a_short_segment_is_refused_and_64_mib_segments_work(world: World, tmp_path: Path) -> None:
    one = await world.primary(config={"walSegmentSize": 64})
    await one.run("create table journal (n int, at timestamptz)")
    copy = await take(one, tmp_path / "copy")
    await note(one, 1)
    await one.archived()
    await note(one, 2)
    end = await place_of(one)
    target = world.target(config={"walSegmentSize": 64})
    plan = plan_for(copy, end=end)
    assert (await restore(copy, target, plan)).state is RecoveryState.REACHED
    await finish(target, plan)
    assert await journal(target) == [1, 2]
    await target.stop(StopMode.IMMEDIATE)
    last = world.archive / one.engine.log_source.segment_of("00000001", end, (), 64 * 1024 * 1024)  # type: ignore[arg-type]
    os.truncate(last, 5 * 1024 * 1024)
    cut = world.target(config={"walSegmentSize": 64})
    progress = await restore(copy, cut, plan)
    assert progress.state is RecoveryState.FAILED
    assert last.name in progress.message


async def test_failure_12_a_damaged_record_is_not_taken_for_the_end(world: World, tmp_path: Path) -> None:
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)")
    copy = await take(one, tmp_path / "copy")
    await note(one, 1)
    place = await one.value("select pg_current_wal_insert_lsn()::text")
    await note(one, 2)
    await note(one, 3)
    end = await place_of(one)
    from yoban_postgres.lsn import parse_lsn, segment_with

    at = parse_lsn(place)
    segment = world.archive / segment_with("00000001", at, 16 << 20)
    with segment.open("r+b") as file:
        file.seek(at % (16 << 20) + 40)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    target = world.target()
    plan = plan_for(copy, end=end)
    progress = await restore(copy, target, plan)
    assert progress.state is RecoveryState.FAILED
    assert "damaged" in progress.message
    assert (await settle(target, plan)).state is RecoveryState.FAILED
