"""Recoveries that real servers cannot simply go through with: limits raised meanwhile, pages of the log that are damaged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from yoban.plugins import RecoveryPlan, RecoveryProgress, RecoveryState, Role, TargetType
from yoban_postgres import recovery, standstill
from yoban_postgres.lsn import PAGE, parse_lsn, segment_with

from tests.integration.postgres.test_backup import finish, journal, note, place_of, plan_for
from tests.integration.postgres.world import Instance, World, restore, settle, take
from tests.integration.servers import give

pytestmark = pytest.mark.server
SEGMENT = 16 << 20


async def start_again(target: Instance, plan: RecoveryPlan) -> RecoveryProgress:
    """What core does when a recovery asks for it."""
    await target.stop()
    await target.engine.server.configure(target.ctx, Role.RECOVERY, None, running=False)
    await target.engine.recovery.prepare(target.ctx, plan)
    await target.launch()
    return await settle(target, plan)


async def test_bug_a_limit_raised_after_the_backup_was_the_end_of_a_restore(world: World, tmp_path: Path) -> None:
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)")
    copy = await take(one, tmp_path / "copy")
    await note(one, 1)
    for n, limits in ((2, {"max_connections": "300"}), (3, {"max_worker_processes": "20", "max_connections": "320"})):
        await one.stop()
        one.sets(**limits)
        await one.start()
        moment = await note(one, n)
    await note(one, 4)
    end = await place_of(one)
    for type, value, expected in (
        (TargetType.LATEST, "", [1, 2, 3, 4]),
        (TargetType.TIME, moment.isoformat(), [1, 2, 3]),
    ):
        target = world.target()
        plan = plan_for(copy, type=type, value=value, end=end)
        progress = await restore(copy, target, plan)
        assert progress.state is RecoveryState.RESTART
        assert progress.message == "max_connections is 100, the log was written with 300"
        progress = await start_again(target, plan)
        assert progress.state is RecoveryState.RESTART
        assert progress.message == (
            "max_connections is 300, the log was written with 320; "
            "max_worker_processes is 8, the log was written with 20"
        )
        progress = await start_again(target, plan)
        assert progress.state is RecoveryState.REACHED, progress
        assert await journal(target) == expected
        assert await finish(target, plan) == "00000002"
        await target.stop()
        await target.start(Role.PRIMARY)
        assert await journal(target) == expected
        assert await target.value("show max_connections") == "100"
        await target.stop()


async def test_bug_leaving_recovery_at_a_target_waited_until_everything_was_flushed(
    world: World, tmp_path: Path
) -> None:
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)", "create unlogged table u as select 1 as n")
    copy = await take(one, tmp_path / "copy")
    moment = await note(one, 1)
    await note(one, 2)
    end = await place_of(one)
    target = world.target()
    plan = plan_for(copy, type=TargetType.TIME, value=moment.isoformat(), end=end)
    progress = await restore(copy, target, plan)
    assert progress.state is RecoveryState.REACHED, progress
    assert progress.position is not None
    reached = await target.engine.recovery.finish(target.ctx, plan)
    assert (reached.position, reached.line, reached.parent) == (progress.position, "00000002", "00000001")
    assert "end-of-recovery" not in (target.ctx.run / "recovery.log").read_text()
    assert await journal(target) == [1]
    # What core makes of it: stopped cleanly all is flushed, and the new line begins in the archive of its own.
    await target.stop()
    await target.start(Role.PRIMARY)
    assert await journal(target) == [1]
    assert await target.value("select count(*) from u") == 0
    await note(target, 3)
    await target.run("select pg_switch_wal()")
    first = segment_with("00000002", parse_lsn(reached.position[9:]), SEGMENT)
    async with asyncio.timeout(60):
        while not {"00000002.history", first} <= {path.name for path in Path(target.ctx.ask[1]).iterdir()}:
            await asyncio.sleep(0.1)


def spoil(world: World, lsn: int) -> None:
    """Flip a bit in the header of the page that holds this place."""
    file = world.archive / segment_with("00000001", lsn, SEGMENT)
    with file.open("r+b") as opened:
        opened.seek(lsn % SEGMENT - lsn % PAGE)
        byte = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes([byte[0] ^ 0x10]))
    give(world.archive)


async def pages(one: Instance, count: int) -> int:
    """Write more than so many pages of log; return a place in the last but one of them."""
    place = parse_lsn(await one.value("select pg_current_wal_insert_lsn()::text"))
    await one.run(f"insert into filler select repeat(md5(n::text), 20) from generate_series(1, {count * 20}) as n")
    assert parse_lsn(await one.value("select pg_current_wal_insert_lsn()::text")) > place + count * PAGE
    return place + (count - 1) * PAGE


@pytest.mark.parametrize("understood", [True, False], ids=["understood", "not understood"])
async def test_bug_a_damaged_page_of_the_log_was_waited_for_for_ever(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, understood: bool
) -> None:
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)", "create table filler (t text)")
    copy = await take(one, tmp_path / "copy")
    await note(one, 1)
    at = await pages(one, 10)
    await note(one, 2)
    end = await place_of(one)
    spoil(world, at)
    if not understood:
        monkeypatch.setattr(recovery, "damage_at", lambda *arguments, **more: "")
        monkeypatch.setattr(standstill, "AFTER", 2.0)
    target = world.target()
    progress = await restore(copy, target, plan_for(copy, end=end))
    assert progress.state is RecoveryState.FAILED
    assert "invalid magic number" in progress.message
    assert ("damaged" if understood else "cannot be read on after") in progress.message


async def test_bug_damage_before_the_data_is_consistent_was_waited_for_for_ever(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standstill, "AFTER", 2.0)
    one = await world.primary()
    await one.run("create table journal (n int, at timestamptz)", "create table filler (t text)")
    places: list[int] = []

    async def write(_: object) -> None:
        places.append(await pages(one, 10))

    copy = await take(one, tmp_path / "copy", meanwhile=write)
    end = await place_of(one)
    spoil(world, places[0])
    target = world.target()
    progress = await restore(copy, target, plan_for(copy, end=end))
    assert progress.state is RecoveryState.FAILED
    assert "before the data is consistent: invalid magic number" in progress.message
