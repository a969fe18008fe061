"""The binary log of real servers: what is complete, what is flushed, what may go, and what must not be stored."""

from __future__ import annotations

import asyncio
import errno
import itertools
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from yoban.errors import IntegrityError
from yoban.plugins import Position, Role, Segment, StopMode
from yoban_mysql import log as module
from yoban_mysql import segments
from yoban_mysql.gtid import GtidSet
from yoban_mysql.log import MySqlLog
from yoban_mysql.session import Kept

from tests.integration.mysql.archive import gtids
from tests.integration.mysql.world import Instance, World

pytestmark = pytest.mark.server


def source(instance: Instance) -> MySqlLog:
    found = instance.engine.log_source
    assert isinstance(found, MySqlLog)
    return found


async def pending(instance: Instance) -> list[Segment]:
    return list(await source(instance).pending(instance.ctx))


async def store(instance: Instance) -> list[segments.Place]:
    """Store all that is offered."""
    found = await pending(instance)
    for segment in found:
        await source(instance).inspect(instance.ctx, segment)
        await source(instance).settled(instance.ctx, segment)
    return [segments.parse(segment.name.name) for segment in found]


async def rotated(primary: Instance, *numbers: int) -> None:
    """A transaction in a file of its own for each number."""
    await primary.run("CREATE TABLE IF NOT EXISTS app.t (id int PRIMARY KEY, note varchar(100))")
    for number in numbers:
        await primary.run(f"INSERT INTO app.t VALUES ({number}, REPEAT('x', 90))", "FLUSH BINARY LOGS")


async def test_complete_files_are_offered_in_order_until_they_are_stored(world: World) -> None:
    primary = await world.primary()
    log = source(primary)
    await rotated(primary, 1, 2, 3)
    found = await pending(primary)
    numbers = [segments.parse(segment.name.name).number for segment in found]
    assert numbers == sorted(numbers) and len(numbers) >= 3
    index = (primary.ctx.data / "binlog.index").read_text().split()
    assert f"binlog.{numbers[-1]:06d}" in index[-2]
    for segment, following in itertools.pairwise(found):
        assert following.name.name.startswith(log.successor(segment.name.name, 0))
    for segment in found:
        await log.inspect(primary.ctx, segment)
    await log.settled(primary.ctx, found[0])
    assert [one.name for one in await pending(primary)] == [one.name for one in found[1:]]
    # An agent that is new knows what its forerunner has stored.
    assert [one.name for one in await MySqlLog(Kept()).pending(primary.ctx)] == [one.name for one in found[1:]]
    assert await log.retained_bytes(primary.ctx) == sum(one.size for one in found[1:])


async def test_the_tail_claims_what_is_committed_and_written(world: World) -> None:
    primary = await world.primary()
    log = source(primary)
    await rotated(primary, 1)
    before = datetime.now(UTC)
    await primary.run("INSERT INTO app.t VALUES (2, '')")
    tail = await log.tail(primary.ctx)
    assert tail is not None
    assert GtidSet.parse(tail.position) == GtidSet.parse(await gtids(primary))
    assert tail.flushed == tail.path.stat().st_size
    assert tail.last_commit is not None and before <= tail.last_commit <= tail.observed_at
    assert [segments.parse(name).number for name in tail.earlier] == [
        segments.parse(one.name.name).number for one in await pending(primary)
    ]
    await asyncio.sleep(0.01)
    idle = await log.tail(primary.ctx)
    assert idle is not None
    assert (idle.position, idle.flushed, idle.last_commit) == (tail.position, tail.flushed, tail.last_commit)
    assert idle.observed_at > tail.observed_at
    await log.end_segment(primary.ctx, tail.segment)
    await log.end_segment(primary.ctx, tail.segment)
    ended = await log.tail(primary.ctx)
    assert ended is not None
    assert ended.segment.startswith(log.successor(tail.segment, 0))
    assert ended.last_commit == tail.last_commit, "the last commit is known in a file without any"
    assert tail.segment in [one.name.name for one in await pending(primary)]
    # A new agent finds it, too.
    fresh = await MySqlLog(Kept()).tail(primary.ctx)
    assert fresh is not None and fresh.last_commit == tail.last_commit


async def test_bug_the_last_commit_told_was_earlier_than_others_where_a_clock_had_been_ahead(world: World) -> None:
    # A restore to a moment between the two took it for later than every commit, and went on to the end of the log.
    primary = await world.primary()
    log = source(primary)
    await rotated(primary, 1)
    ahead = "SET SESSION original_commit_timestamp = 1893456000000000"  # as a former primary wrote it: 2030
    await primary.run(ahead, "INSERT INTO app.t VALUES (2, '')")
    await primary.run("INSERT INTO app.t VALUES (3, '')")
    tail = await log.tail(primary.ctx)
    assert tail is not None
    assert tail.last_commit == datetime(2030, 1, 1, tzinfo=UTC)
    await primary.run("FLUSH BINARY LOGS", "INSERT INTO app.t VALUES (4, '')")
    tail = await log.tail(primary.ctx)
    assert tail is not None
    assert tail.last_commit == datetime(2030, 1, 1, tzinfo=UTC)


async def test_after_a_clean_stop_everything_is_complete(world: World) -> None:
    primary = await world.primary()
    await rotated(primary, 1)
    tail = await source(primary).tail(primary.ctx)
    assert tail is not None
    await primary.stop()
    found = await pending(primary)
    assert found[-1].name.name == tail.segment
    await source(primary).inspect(primary.ctx, found[-1])


async def test_a_file_that_a_crash_has_ended_is_stored(world: World) -> None:
    primary = await world.primary()
    await rotated(primary, 1)
    await primary.run("INSERT INTO app.t VALUES (2, '')")
    tail = await source(primary).tail(primary.ctx)
    assert tail is not None
    await primary.stop(StopMode.IMMEDIATE)
    assert tail.segment not in [one.name.name for one in await pending(primary)]
    await primary.start()
    found = {one.name.name: one for one in await pending(primary)}
    await source(primary).inspect(primary.ctx, found[tail.segment])


async def test_a_replica_offers_nothing_and_recycles_what_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    primary = await world.primary()
    replica = await world.replica(primary)
    await rotated(primary, 1)
    await world.level(replica, primary)
    await replica.run("FLUSH LOCAL BINARY LOGS")
    stored = Position(await gtids(primary))
    await rotated(primary, 2)
    await world.level(replica, primary)
    await replica.run("FLUSH LOCAL BINARY LOGS")
    assert await pending(replica) == []
    assert await source(replica).tail(replica.ctx) is None
    before = files(replica)
    await source(replica).stored(replica.ctx, stored)
    left = files(replica)
    assert left == before[-len(left) :] and len(left) < len(before)
    # What holds the second row is still there: it was not told to be stored.
    oldest = await replica.value("SHOW BINARY LOGS")
    assert GtidSet.parse(await replica.value("SELECT @@GLOBAL.gtid_purged")) <= GtidSet.parse(stored)
    assert str(oldest) == left[0]
    await source(replica).stored(replica.ctx, stored)
    assert files(replica) == left


async def test_bug_a_replica_counts_what_it_keeps_until_its_primary_has_stored_it(world: World) -> None:
    """A replica offers nothing, and yet its volume fills while the store is down."""
    primary = await world.primary()
    replica = await world.replica(primary)
    await rotated(primary, 1)
    await world.level(replica, primary)
    await replica.run("FLUSH LOCAL BINARY LOGS")
    stored = Position(await gtids(primary))
    await rotated(primary, 2)
    await world.level(replica, primary)
    await replica.run("FLUSH LOCAL BINARY LOGS")
    log = source(replica)
    sizes = [(replica.ctx.data / name).stat().st_size for name in files(replica)[:-1]]
    assert await log.retained_bytes(replica.ctx) == sum(sizes), "nothing was told to be stored yet"
    await log.stored(replica.ctx, stored)
    assert files(replica)[:-1], "they stay for replicas that were away"
    assert await log.retained_bytes(replica.ctx) == sizes[-1], "the file with the second row"
    await log.stored(replica.ctx, Position(await gtids(primary)))
    assert await log.retained_bytes(replica.ctx) == 0


async def test_what_is_stored_is_known_on_a_full_volume(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing would ever be purged from it again."""
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    primary = await world.primary()
    await rotated(primary, 1, 2)
    found = await pending(primary)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "replace_file", full)
        for segment in found:
            await source(primary).settled(primary.ctx, segment)
    assert await pending(primary) == []
    assert await source(primary).retained_bytes(primary.ctx) == 0
    tail = await source(primary).tail(primary.ctx)
    assert tail is not None and tail.earlier == ()
    await source(primary).stored(primary.ctx, tail.position)
    assert len(files(primary)) == 1


def files(instance: Instance) -> list[str]:
    return [Path(name).name for name in (instance.ctx.data / "binlog.index").read_text().split()]


async def test_failure_20_nothing_is_purged_that_is_not_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    primary = await world.primary()
    await rotated(primary, 1)
    await store(primary)
    stored = Position(await gtids(primary))
    await rotated(primary, 2, 3)
    await source(primary).stored(primary.ctx, stored)
    purged = GtidSet.parse(await primary.value("SELECT @@GLOBAL.gtid_purged"))
    assert purged <= GtidSet.parse(stored)
    assert len(files(primary)) >= 3
    everything = Position(await gtids(primary))
    await source(primary).stored(primary.ctx, everything)
    assert len(files(primary)) >= 3, "whatever it is told: these files are its own, and nobody has stored them"
    await store(primary)
    await source(primary).stored(primary.ctx, everything)
    assert len(files(primary)) == 1


async def test_bug_log_that_a_former_primary_had_not_stored_was_purged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was down while a replica was made and took over: what lies before the copy is in no other file."""
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    first = await world.primary()
    await rotated(first, 1, 2)
    second = await world.replica(first)
    await rotated(first, 3)
    await world.level(second, first)
    await first.stop()
    own = files(first)[:-1]  # the last one holds nothing
    promotion = await world.engine.replication.promote(second.ctx, deadline=30)
    await second.care(Role.PRIMARY)
    await first.start(Role.REPLICA, second)
    await world.follows(first)
    await rotated(second, 4)
    await world.level(first, second)
    await first.run("FLUSH LOCAL BINARY LOGS")
    everything = Position(await gtids(second))
    await source(first).stored(first.ctx, everything)
    assert files(first)[: len(own)] == own
    found = await pending(first)
    assert {one.name.line for one in found} == {promotion.parent}
    assert [one.path.name for one in found] == own, "what it wrote as a primary, and nothing that it wrote since"
    await store(first)
    await source(first).stored(first.ctx, everything)
    assert len(files(first)) == 1


async def test_bug_a_file_seen_before_the_base_was_noted_was_never_stored(world: World) -> None:
    """An agent looks at the room for log every few seconds, and so also just before it has cared for a new server."""
    first = await world.primary()
    await rotated(first, 1)
    second = world.instance()
    await world.engine.replication.provision(second.ctx, first.peer, lambda done, total: None)
    await world.engine.server.configure(second.ctx, Role.REPLICA, first.peer, running=False)
    await second.launch()
    await second.answers()
    assert await source(second).retained_bytes(second.ctx) == 0
    await second.care(Role.REPLICA, first)
    await world.level(second, first)
    await first.stop()
    await world.engine.replication.promote(second.ctx, deadline=30)
    await second.care(Role.PRIMARY)
    await rotated(second, 2)
    assert (await store(second))[0].number == 1


async def test_a_bound_of_stored_log_stays_for_replicas_that_were_away(world: World) -> None:
    primary = await world.primary()
    await rotated(primary, 1, 2, 3)
    before = files(primary)
    await source(primary).stored(primary.ctx, Position(await gtids(primary)))
    assert files(primary) == before


async def test_failure_22_files_of_one_name_on_two_servers(world: World) -> None:
    """A file of another server, under a name of ours, is never stored; in the archive no two servers share names."""
    primary, other = await world.primary(), await world.primary()
    await rotated(primary, 1)
    await rotated(other, 1)
    ours, theirs = (await pending(primary))[-1], (await pending(other))[-1]
    assert ours.path.name == theirs.path.name
    assert ours.name.name != theirs.name.name
    shutil.copyfile(theirs.path, ours.path)
    with pytest.raises(IntegrityError) as caught:
        await source(primary).inspect(primary.ctx, ours)
    assert caught.value.reason == "ForeignSegment"


async def test_failure_24_a_damaged_file_is_named_and_others_are_stored(world: World) -> None:
    primary = await world.primary()
    await rotated(primary, 1, 2, 3)
    found = await pending(primary)
    broken = found[-2]
    data = bytearray(broken.path.read_bytes())
    data[data.rindex(b"xxxx")] ^= 0xFF
    broken.path.write_bytes(bytes(data))
    for segment in found:
        if segment is not broken:
            await source(primary).inspect(primary.ctx, segment)
    with pytest.raises(IntegrityError) as caught:
        await source(primary).inspect(primary.ctx, broken)
    assert (caught.value.reason, caught.value.object) == ("LogDamaged", broken.name.name)
    assert broken.path.name in str(caught.value)
    broken.path.write_bytes(bytes(data[:-60]))
    with pytest.raises(IntegrityError):
        await source(primary).inspect(primary.ctx, broken)


async def test_a_promoted_replica_s_line_begins_before_the_fork_and_is_offered_whole(world: World) -> None:
    primary = await world.primary()
    replica = await world.replica(primary)
    await rotated(primary, 1)
    await world.level(replica, primary)
    await replica.run("FLUSH LOCAL BINARY LOGS")
    await rotated(primary, 2)
    await world.level(replica, primary)
    await primary.stop()
    promotion = await world.engine.replication.promote(replica.ctx, deadline=30)
    await replica.care(Role.PRIMARY)
    found = [segments.parse(one.name.name) for one in await pending(replica)]
    assert {one.line for one in found} == {promotion.line}
    fork = GtidSet.parse(promotion.fork)
    assert found[0].number == found[0].first
    assert found[0].before < fork.count
    tail = await source(replica).tail(replica.ctx)
    assert tail is not None
    assert tail.line == promotion.line
    assert (GtidSet.parse(tail.position) - fork).count >= 1, "the line's own first transaction"
