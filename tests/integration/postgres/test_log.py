"""The log of a real server: what is complete, what grows, what does not belong."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from yoban.errors import IntegrityError
from yoban.plugins import RecoveryState, Role, Segment, SegmentKind, StopMode

from tests.integration.postgres.test_backup import Load, finish, follow_when_ready, hand_over, plan_for
from tests.integration.postgres.world import World, restore, take
from tests.integration.servers import give

pytestmark = pytest.mark.server
MIB = 1024 * 1024


async def test_pending_lists_what_the_archive_lacks_and_the_server_stops_asking_after_a_yes(world: World) -> None:
    one = await world.primary()
    log = one.engine.log_source
    (world.archive / ".fail").touch()
    first = await one.value("select pg_walfile_name(pg_switch_wal())")
    await one.run("create table t (n int)")
    second = await one.value("select pg_walfile_name(pg_switch_wal())")
    pending = await log.pending(one.ctx)
    assert [segment.name.name for segment in pending if segment.name.kind is SegmentKind.FULL][-2:] == [first, second]
    assert await log.retained_bytes(one.ctx) == sum(segment.size for segment in pending) >= 32 * MIB
    for segment in pending:
        await log.inspect(one.ctx, segment)
        await log.settled(one.ctx, segment)
    tail = await log.tail(one.ctx)
    assert tail is not None
    assert (*tail.earlier, tail.segment)[-2:] == (first, second), "nothing was written since the switch"
    assert tail.flushed == 16 * MIB
    (world.archive / ".fail").unlink()
    await one.run("create table u (n int)")  # a new segment wakes the archiver, which else rests for a minute
    await one.archived()
    async with asyncio.timeout(60):
        while await log.pending(one.ctx):
            await asyncio.sleep(0.2)
    assert (world.archive / second).exists()


async def test_bug_the_segment_in_which_a_line_was_left_was_to_be_stored_by_each_replica_with_other_bytes(
    world: World,
) -> None:
    small = {
        "config": {"walSegmentSize": 1},
        "settings": {"min_wal_size": "16MB", "max_wal_size": "16MB", "wal_keep_size": "0"},
    }
    one = await world.primary(**small)
    two, three = await world.replica(one, **small), await world.replica(one, **small)
    await one.run("create table t (n text)")
    for _ in range(10):  # until segments are recycled: behind what is written they hold what was written before
        await one.run("insert into t select repeat(md5(n::text), 30) from generate_series(1, 6000) n", "checkpoint")
        await two.until("select count(*) > 0 from t")
        await two.run("checkpoint")  # three keeps new files, full of zeros
    await hand_over(one, two)
    await two.engine.replication.manage_members(two.ctx, [one.peer, three.peer])
    await three.stop()
    assert await follow_when_ready(three, two) is None
    await three.start(Role.REPLICA, two)
    await two.run(
        "delete from t", "insert into t select repeat('x', 900) from generate_series(1, 9000) n", "checkpoint"
    )
    await two.archived()
    left = (await two.engine.server.status(two.ctx)).position
    assert left is not None and str(left).startswith("00000002")
    for follower in (one, three):
        await follower.until("select count(*) = 9000 from t")
        await follower.run("checkpoint")
        log = follower.engine.log_source
        ready = [
            f.name.removesuffix(".ready") for f in (follower.ctx.data / "pg_wal/archive_status").glob("00000001*.ready")
        ]
        whole = [name for name in ready if log.classify(name).kind is SegmentKind.FULL]
        assert [await log.superseded(follower.ctx, name) for name in whole] == [True] * len(whole)
        assert not [s.name.name for s in await log.pending(follower.ctx) if s.name.name in whole]
    async with asyncio.timeout(90):  # the server asks three times, and again a minute later
        while not (refused := {name for name in _asked_of_line_1(world) if _asked_of_line_1(world).count(name) > 3}):
            await asyncio.sleep(0.2)
    asked = _asked_of_line_1(world)
    assert len(refused) == 1, "two servers have other bytes under one name"
    fork = max(refused)
    assert not await one.engine.log_source.superseded(one.ctx, f"00000002{fork[8:]}"), "the new line's own is stored"
    for name in sorted({name for name in asked if name < fork})[-1:]:
        assert not await one.engine.log_source.superseded(one.ctx, name), "what lies before it is stored"


def _asked_of_line_1(world: World) -> list[str]:
    return [line.split()[1] for line in world.asked() if line.startswith("archive 00000001") and "." not in line]


async def test_failures_6_7_8_a_foreign_wrong_or_short_segment_is_not_stored(world: World) -> None:
    one, other = await world.primary(), world.instance(archive=world.root / "elsewhere")
    await other.engine.server.initialize(other.ctx)
    await other.start()
    log = one.engine.log_source
    (world.archive / ".fail").touch()
    name = await one.value("select pg_walfile_name(pg_switch_wal())")
    mine = next(segment for segment in await log.pending(one.ctx) if segment.name.name == name)
    await log.inspect(one.ctx, mine)

    foreign = await other.value("select pg_walfile_name(pg_switch_wal())")
    with pytest.raises(IntegrityError, match="another cluster"):
        await log.inspect(one.ctx, Segment(log.classify(foreign), other.ctx.data / "pg_wal" / foreign, 16 * MIB))

    wrong = one.ctx.tmp / "0000000100000000000000AA"
    shutil.copy(mine.path, wrong)
    with pytest.raises(IntegrityError, match="another part"):
        await log.inspect(one.ctx, Segment(log.classify(wrong.name), wrong, 16 * MIB))

    short = one.ctx.tmp / name
    short.write_bytes(mine.path.read_bytes()[: 9 * MIB])
    with pytest.raises(IntegrityError, match="cut short"):
        await log.inspect(one.ctx, Segment(mine.name, short, 9 * MIB))
    short.write_bytes(b"\0" * 16 * MIB)
    with pytest.raises(IntegrityError, match="no segment"):
        await log.inspect(one.ctx, Segment(mine.name, short, 16 * MIB))


async def test_tail_is_flushed_and_timed_before_its_place(world: World) -> None:
    one = await world.primary()
    log = one.engine.log_source
    await one.run("create table t (n int)")
    before = datetime.now(UTC)
    first = await log.tail(one.ctx)
    again = await log.tail(one.ctx)
    assert first is not None and again is not None
    assert before <= first.observed_at <= again.observed_at
    assert first.last_commit is not None and first.last_commit <= first.observed_at
    assert (first.line, first.path.name, first.flushed > 0) == ("00000001", first.segment, True)
    await one.engine.server.probe_write(one.ctx)
    later = await log.tail(one.ctx)
    assert later is not None
    assert later.last_commit is not None and later.last_commit > again.observed_at
    assert later.flushed > first.flushed or later.segment > first.segment
    two = await world.replica(one)
    assert await log.tail(two.ctx) is None


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_padded_tail_recovers_every_commit_acknowledged_before_it(
    world: World, tmp_path: Path, busy: bool
) -> None:
    one = await world.primary()
    copy = await take(one, tmp_path / "copy")
    log = one.engine.log_source
    async with Load(one) as load:
        await asyncio.sleep(0.4)
        if not busy:
            load.task.cancel()
            await asyncio.gather(load.task, return_exceptions=True)
            load.task = asyncio.create_task(asyncio.sleep(60))
        acknowledged = load.acknowledged
        tail = await log.tail(one.ctx)
        assert tail is not None
        chunk = tail.path.read_bytes()[: tail.flushed]
    await one.stop(StopMode.IMMEDIATE)  # nothing more comes to the archive
    async with asyncio.timeout(20):
        while set(tail.earlier) - {path.name for path in world.archive.iterdir()}:
            await asyncio.sleep(0.1)
    size = log.pads_to(16 * MIB)
    (world.archive / tail.segment).write_bytes(chunk + b"\0" * (size - len(chunk)))
    for path in world.archive.iterdir():
        if path.name > tail.segment:
            path.unlink()
    give(world.archive)
    target = world.target()
    plan = plan_for(copy, end=tail.position)
    progress = await restore(copy, target, plan)
    assert progress.state is RecoveryState.REACHED, progress
    await finish(target, plan)
    assert await target.value("select count(*) from load") >= acknowledged > 0
