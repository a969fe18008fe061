"""Restores on real servers: base backup, archived log, exactly to the target; and what must not pass for success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from yoban_mysql.gtid import GtidSet

from tests.integration.mysql.archive import Archive, gtids
from tests.integration.mysql.world import Instance, World

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def archive(world: World) -> AsyncIterator[Archive]:
    yield Archive(world)


async def table(instance: Instance, *more: str) -> None:
    await instance.run("CREATE TABLE app.t (id int PRIMARY KEY, note varchar(100))", *more)


async def add(instance: Instance, *numbers: int) -> list[str]:
    """Insert rows, one transaction each; return their GTIDs."""
    found: list[str] = []
    for number in numbers:
        before = GtidSet.parse(await gtids(instance))
        await instance.run(f"INSERT INTO app.t VALUES ({number}, 'row {number}')")
        found.append(str(GtidSet.parse(await gtids(instance)) - before))
    return found


async def rows(instance: Instance) -> list[int]:
    session = await instance.session()
    try:
        return [row["id"] for row in await session.rows("SELECT id FROM app.t ORDER BY id")]
    finally:
        await session.leave()


async def started(archive: Archive) -> Instance:
    """A primary with a table, a row, and a base backup of that."""
    primary = await archive.world.primary()
    await archive.reigns(primary)
    await table(primary)
    await add(primary, 1)
    await archive.back_up(primary)
    return primary


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
