"""Writes held back for tables that are not InnoDB's: whole in the backup, and released whatever happens."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncmy
import pytest
from yoban.errors import NotReady, Terminal, Unavailable
from yoban.plugins import BackupRequest, Durability, DurabilityMode, Role
from yoban.testing.engineharness import copy
from yoban_mysql import backup, carried, follow, quiesce
from yoban_mysql.names import SOCKET
from yoban_mysql.session import Session

from tests.integration.mysql.archive import Archive
from tests.integration.mysql.test_backup import left
from tests.integration.mysql.world import Instance, World, ask

pytestmark = pytest.mark.server

DEADLINE = (
    "SELECT variable_value FROM performance_schema.variables_by_thread JOIN performance_schema.threads USING (thread_id)"
    f" WHERE variable_name = 'wait_timeout' AND processlist_id = {quiesce.HOLDER}"
)
"""Seconds of silence after which the server ends the session that holds writes back."""
TABLES = ("inno", "old", "sheet", "past")
MAKE = (
    "CREATE TABLE app.inno (id int NOT NULL, note text NOT NULL)",
    "CREATE TABLE app.old (id int NOT NULL PRIMARY KEY, note text NOT NULL) ENGINE=MyISAM",
    "CREATE TABLE app.sheet (id int NOT NULL, note text NOT NULL) ENGINE=CSV",
    "CREATE TABLE app.past (id int NOT NULL, note text NOT NULL) ENGINE=ARCHIVE",
    "CREATE TABLE app.`näme/2` (id int NOT NULL) ENGINE=MyISAM",
    "INSERT INTO app.`näme/2` VALUES (7)",
)


def rows(first: int, last: int) -> list[str]:
    """Statements that put the same rows into each table."""
    values = ", ".join(f"({number}, 'note {number}')" for number in range(first, last + 1))
    return [f"INSERT INTO app.{table} VALUES {values}" for table in TABLES]


async def sums(instance: Instance) -> list[object]:
    """Checksums of all tables."""
    session = await instance.session()
    try:
        names = ", ".join(f"app.{table}" for table in TABLES) + ", app.`näme/2`"
        found = [row["checksum"] for row in await session.rows(f"CHECKSUM TABLE {names}")]
    finally:
        session.drop()
    assert None not in found
    return found


async def writes(instance: Instance) -> float:
    """Write one row; return the seconds that it took."""
    begun = time.monotonic()
    await instance.run("INSERT INTO app.inno VALUES (0, 'written')", deadline=30)
    return time.monotonic() - begun


@asynccontextmanager
async def writing(instance: Instance) -> AsyncIterator[list[float]]:
    """Write all the while; the list gets the seconds that each write took."""
    took: list[float] = []
    enough = asyncio.Event()

    async def write() -> None:
        while not enough.is_set():
            took.append(await writes(instance))

    # Told to end and not cancelled: the driver may lose a cancellation while it connects or leaves.
    task = asyncio.create_task(write())
    try:
        yield took
    finally:
        enough.set()
        await task


async def held(instance: Instance) -> object:
    return await instance.value(f"SELECT {quiesce.HOLDER}")


async def test_tables_of_every_carried_engine_are_whole_after_a_restore_and_replay(world: World) -> None:
    primary = await world.primary()
    archive = Archive(world)
    await archive.reigns(primary)
    await primary.run(*MAKE, *rows(1, 200))
    before = time.monotonic()
    made = await archive.back_up(primary)
    assert 0 < made.end.frozen_seconds < time.monotonic() - before
    assert left(primary) == ["data"]
    assert await held(primary) is None
    at_backup = await sums(primary)
    await primary.run(*rows(201, 250), "UPDATE app.old SET note = 'changed' WHERE id = 7")
    await archive.collect(primary)
    base = await archive.restore("immediate")
    assert await sums(base) == at_backup
    await base.run(*rows(300, 301), "DROP TABLE app.`näme/2`")
    # Nothing that the server wants beside a table's rows is missed.
    await base.run("RENAME TABLE app.old TO app.older, app.sheet TO app.leaf, app.past TO app.gone")
    await base.run("ALTER TABLE app.gone ENGINE=InnoDB", "DROP DATABASE app")
    assert not (base.ctx.data / "app").exists()
    latest = await archive.restore()
    assert await sums(latest) == await sums(primary) != at_backup
    session = await latest.session()
    checked = await session.rows("CHECK TABLE app.old, app.sheet, app.past, app.inno EXTENDED")
    session.drop()
    assert [row["msg_text"] for row in checked] == ["OK"] * 4


async def test_a_replica_stands_still_and_the_primarys_writers_do_not(world: World) -> None:
    synchronous = Durability(DurabilityMode.SYNCHRONOUS, 1)
    primary = await world.primary(durability=synchronous)
    replica = await world.replica(primary, durability=synchronous)
    archive = Archive(world)
    await archive.reigns(primary)
    await primary.run(*MAKE, *rows(1, 100))
    await world.level(replica, primary)
    locks = "SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'Com_flush'"
    issued = await primary.value(locks)
    async with writing(primary) as took:
        made = await archive.back_up(replica)
        count = len(took)
    assert count > 3
    assert made.end.frozen_seconds > 0
    assert await primary.value(locks) == issued, "nothing was asked of the primary that holds writers back"
    await replica.until("SELECT service_state = 'ON' FROM performance_schema.replication_applier_status")
    await world.level(replica, primary)
    assert await sums(replica) == await sums(primary)
    await archive.collect(primary)
    assert await sums(await archive.restore()) == await sums(primary)


async def test_commits_are_confirmed_while_a_replica_stands_still(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronous = Durability(DurabilityMode.SYNCHRONOUS, 1)
    primary = await world.primary(durability=synchronous)
    replica = await world.replica(primary, durability=synchronous)
    await primary.run(*MAKE, *rows(1, 10))
    await world.level(replica, primary)
    take, counts, applied = carried.take, list[int](), list[object]()
    loop = asyncio.get_running_loop()

    async def meanwhile() -> None:
        for _ in range(3):
            applied.append(await replica.value("SELECT COUNT(*) FROM app.inno"))
            await writes(primary)
            counts.append(await primary.value("SELECT COUNT(*) FROM app.inno"))
        applied.append(await replica.value("SELECT COUNT(*) FROM app.inno"))

    def taken(*arguments: object) -> None:
        asyncio.run_coroutine_threadsafe(meanwhile(), loop).result(60)
        take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(carried, "take", taken)
    await copy(world.engine, replica.ctx)
    assert counts == [11, 12, 13], "the primary's commits wait for this replica, and it is the only one"
    assert applied == [10] * 4, "nothing is applied where the copy is made"
    await world.level(replica, primary)
    assert await sums(replica) == await sums(primary)


async def test_a_long_statement_is_found_before_the_lock_is_asked_for(world: World) -> None:
    primary = await world.primary()
    await primary.run(*MAKE, *rows(1, 5))
    app = await primary.session()
    long = asyncio.create_task(app.execute("SELECT SLEEP(60) FROM app.old LIMIT 1 /* secret words */", deadline=90))
    await primary.until("SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_info LIKE '%%secret words%%'"
                        " AND processlist_id <> CONNECTION_ID() AND processlist_time >= 2")  # fmt: skip
    locks = "SELECT SUM(count_star) FROM performance_schema.events_statements_summary_global_by_event_name"
    locks += " WHERE event_name = 'statement/sql/flush'"
    issued = await primary.value(locks)
    async with writing(primary) as took:
        begun = time.monotonic()
        with pytest.raises(NotReady) as caught:
            await copy(world.engine, primary.ctx)
        assert time.monotonic() - begun < 30
    assert caught.value.reason == "LongStatement"
    assert "connection" in caught.value.cause and "secret" not in str(caught.value)
    assert await primary.value(locks) == issued
    assert len(took) > 1 and max(took) < 30, "no writer waited for the statement"
    long.cancel()
    await asyncio.wait({long})
    for asleep in await _asleep(primary):
        await primary.run(f"KILL {asleep}")
        await primary.until(f"SELECT COUNT(*) = 0 FROM performance_schema.threads WHERE processlist_id = {asleep}")
    await copy(world.engine, primary.ctx)
    assert left(primary) == ["data"]


async def _asleep(instance: Instance) -> list[int]:
    session = await instance.session()
    try:
        found = await session.rows("SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'")
        return [int(row["id"]) for row in found]
    finally:
        session.drop()


async def test_tables_locked_by_somebody_bound_the_wait(world: World) -> None:
    primary = await world.primary()
    await primary.run(*MAKE)
    other = await primary.session()
    await other.execute("LOCK TABLES app.old WRITE")
    begun = time.monotonic()
    with pytest.raises(NotReady) as caught:
        await copy(world.engine, primary.ctx)
    assert caught.value.reason == "LockNotGranted"
    assert time.monotonic() - begun < quiesce.ASKING
    await writes(primary)
    await other.execute("UNLOCK TABLES")
    other.drop()
    await copy(world.engine, primary.ctx)


async def test_ddl_waits_until_the_copy_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = await world.primary()
    archive = Archive(world)
    await archive.reigns(primary)
    await primary.run(*MAKE, *rows(1, 50))
    before = await sums(primary)
    take, changes = carried.take, list[asyncio.Task[None]]()
    loop = asyncio.get_running_loop()

    async def change() -> None:
        session = await primary.session()
        await session.execute("SET SESSION lock_wait_timeout = 60")
        await session.execute("ALTER TABLE app.old ADD COLUMN more int", deadline=60)
        await session.execute(
            "CREATE TABLE app.late (id int) ENGINE=CSV".replace("id int", "id int NOT NULL"), deadline=60
        )
        await session.leave()

    async def begin() -> None:
        changes.append(asyncio.create_task(change()))
        await primary.until("SELECT COUNT(*) FROM performance_schema.threads"
                            " WHERE processlist_state = 'Waiting for global read lock'")  # fmt: skip

    def taken(*arguments: object) -> None:
        asyncio.run_coroutine_threadsafe(begin(), loop).result(20)
        take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(carried, "take", taken)
    await archive.back_up(primary)
    await asyncio.gather(*changes)
    assert await primary.value("SELECT COUNT(more) FROM app.old") == 0
    await archive.collect(primary)
    restored = await archive.restore("immediate")
    assert await sums(restored) == before
    assert await restored.value("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'late'") == 0


async def test_a_dead_client_holds_nothing_and_its_copy_is_worthless(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = await world.primary()
    await primary.run(*MAKE, *rows(1, 5))
    take = carried.take
    loop = asyncio.get_running_loop()
    took: list[float] = []

    async def kill() -> None:
        await primary.run(f"KILL {await held(primary)}")
        took.append(await writes(primary))

    def taken(*arguments: object) -> None:
        take(*arguments)  # type: ignore[arg-type]
        asyncio.run_coroutine_threadsafe(kill(), loop).result(20)

    monkeypatch.setattr(carried, "take", taken)
    with pytest.raises(Unavailable) as caught:
        await copy(world.engine, primary.ctx)
    assert caught.value.reason == "LockLost"
    assert took
    assert await held(primary) is None
    assert left(primary) == ["data"]


async def test_a_copy_that_takes_too_long_is_ended_and_writers_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = await world.primary()
    await primary.run(*MAKE)
    monkeypatch.setattr(carried, "take", lambda data, folder, tables, given_up: given_up.wait(30))
    async with writing(primary) as took:
        begun = time.monotonic()
        with pytest.raises(Terminal) as caught:
            async with world.engine.base_backup.backup(primary.ctx, BackupRequest("20260101T000000Z-abcdef", 1.5)):
                pass
        assert time.monotonic() - begun < 25, "not as long as the copy would have taken"
    assert caught.value.reason == "FreezeTooLong"
    assert max(took) < 25
    assert await held(primary) is None and left(primary) == ["data"]
    with pytest.raises(Terminal, match="would take longer"):
        async with world.engine.base_backup.backup(primary.ctx, BackupRequest("20260101T000000Z-abcdef", 0.001)):
            pass


async def test_the_last_copy_tells_how_long_the_next_one_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = await world.primary()
    await copy(world.engine, primary.ctx)
    await primary.run(*MAKE)
    monkeypatch.setattr(backup, "ASSUMED", 1)
    monkeypatch.setattr(backup, "TELLING", 1 << 50)
    with pytest.raises(Terminal, match="would take longer"):  # it was too small to tell
        await copy(world.engine, primary.ctx)
    monkeypatch.setattr(backup, "TELLING", 1)
    await copy(world.engine, primary.ctx)
    assert left(primary) == ["data"]


AGENT = """
import asyncio, pickle, sys
from pathlib import Path
from yoban_mysql import follow, quiesce

async def main():
    ctx = pickle.loads(Path(sys.argv[1]).read_bytes())
    async with quiesce.reserved(ctx) as session:
        if sys.argv[3] == "replica":
            await session.execute("STOP REPLICA SQL_THREAD")
        async with quiesce.frozen(ctx, session, float(sys.argv[2])):
            print("frozen", flush=True)
            await asyncio.sleep(600)

asyncio.run(main())
"""


@asynccontextmanager
async def agent(instance: Instance, folder: Path, bound: float, kind: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another agent, which holds writes back."""
    told = folder / "context"
    told.write_bytes(pickle.dumps(instance.ctx))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, str(told), str(bound), kind, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(60):
            assert await child.stdout.readline() == b"frozen\n"
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_a_frozen_agent_is_released_by_the_server_at_the_deadline(world: World, tmp_path: Path) -> None:
    primary = await world.primary()
    await primary.run(*MAKE)
    async with agent(primary, tmp_path, 10, "primary") as child:
        child.send_signal(signal.SIGSTOP)
        assert await held(primary) is not None
        took = await asyncio.wait_for(_patient(primary), 50)
        assert took > 1, "it was held back until the deadline"
        assert Path(f"/proc/{child.pid}/stat").read_text().split(") ")[1][0] == "T", "the agent is frozen all the while"
        assert await held(primary) is None
        await copy(world.engine, primary.ctx)


async def _patient(instance: Instance) -> float:
    """Write with a long lock wait; return the seconds that it took."""
    session = await instance.session()
    try:
        await session.execute("SET SESSION lock_wait_timeout = 60")
        begun = time.monotonic()
        await session.execute("INSERT INTO app.inno VALUES (0, 'written')", deadline=60)
        return time.monotonic() - begun
    finally:
        session.drop()


async def test_an_agent_that_died_lets_go_at_once_and_the_next_one_starts_the_applier(
    world: World, tmp_path: Path
) -> None:
    primary = await world.primary()
    replica = await world.replica(primary)
    await primary.run(*MAKE)
    await world.level(replica, primary)
    session = await replica.session()
    async with agent(replica, tmp_path, 600, "replica") as child:
        await replica.care(upstream=primary, role=Role.REPLICA)
        row = await follow.state(session)
        assert row is not None and row["applier"] == "OFF", "while a backup needs it still, it is left alone"
        await primary.run("INSERT INTO app.inno VALUES (1, 'later')")
        assert await replica.value("SELECT COUNT(*) FROM app.inno") == 0
        child.kill()
        await child.wait()
        await replica.until(f"SELECT {quiesce.HOLDER} IS NULL", deadline=30)
    await world.engine.base_backup.abandon(replica.ctx)
    await replica.care(upstream=primary, role=Role.REPLICA)
    await world.level(replica, primary)
    assert await replica.value("SELECT COUNT(*) FROM app.inno") == 1
    session.drop()


async def test_a_users_lock_of_the_same_name_keeps_no_replica_from_applying(world: World) -> None:
    primary = await world.primary()
    replica = await world.replica(primary)
    await primary.run(*MAKE)
    await world.level(replica, primary)
    await primary.run("CREATE USER squatter@localhost IDENTIFIED BY 'words'")
    await world.level(replica, primary)
    squatter = await asyncmy.connect(
        unix_socket=str(replica.ctx.run / SOCKET), user="squatter", password=b"words", autocommit=True
    )
    try:
        assert await ask(squatter, f"SELECT GET_LOCK('{quiesce.NAME}', 0)") == [(1,)]
        await replica.run("STOP REPLICA SQL_THREAD")
        await primary.run("INSERT INTO app.inno VALUES (1, 'later')")
        await replica.care(upstream=primary, role=Role.REPLICA)
        await world.level(replica, primary)
        with pytest.raises(NotReady) as caught:
            await copy(world.engine, replica.ctx)
        assert caught.value.reason == "Quiesced" and "squatter" in caught.value.cause
        assert left(replica) == ["data"]
    finally:
        await squatter.ensure_closed()
    await copy(world.engine, replica.ctx)


async def test_time_spent_waiting_for_the_lock_is_not_added_to_what_a_frozen_agent_holds(
    world: World, tmp_path: Path
) -> None:
    primary = await world.primary()
    await primary.run(*MAKE)
    other = await primary.session()
    await other.execute("LOCK TABLES app.old WRITE")
    bound = 3 * quiesce.LOCK_WAIT + 2
    unlocked = asyncio.create_task(_unlock_when_waited_for(primary, other))
    async with agent(primary, tmp_path, bound, "primary") as child:
        child.send_signal(signal.SIGSTOP)
        waited = await unlocked
        deadline = int(await primary.value(DEADLINE))
        assert deadline <= bound - waited
        assert await asyncio.wait_for(_patient(primary), 50) > 1
        assert await held(primary) is None


async def _unlock_when_waited_for(instance: Instance, other: Session) -> float:
    """Let go of a table a while after the global lock was asked for; return the seconds that it was waited for."""
    await instance.until("SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_info LIKE 'FLUSH TABLES%'")
    asked = time.monotonic()
    await asyncio.sleep(0.6 * quiesce.LOCK_WAIT)
    waited = time.monotonic() - asked
    await other.execute("UNLOCK TABLES")
    other.drop()
    return waited


async def test_a_promotion_ends_a_backup_that_holds_writes_back(world: World, tmp_path: Path) -> None:
    primary = await world.primary()
    replica = await world.replica(primary)
    await primary.run(*MAKE)
    await world.level(replica, primary)
    async with agent(replica, tmp_path, 600, "replica") as child:
        child.send_signal(signal.SIGSTOP)
        await primary.run("INSERT INTO app.inno VALUES (1, 'later')")
        await replica.until(
            "SELECT received_transaction_set <> '' FROM performance_schema.replication_connection_status"
        )
        await primary.stop()
        await world.engine.replication.promote(replica.ctx, deadline=20)
        await writes(replica)
        assert await replica.value("SELECT COUNT(*) FROM app.inno") == 2


async def test_no_replica_is_made_that_would_lack_rows(world: World) -> None:
    primary = await world.primary()
    await primary.run(*MAKE)
    made = world.instance()
    with pytest.raises(Unavailable) as caught:
        await world.engine.replication.provision(made.ctx, primary.peer, lambda done, total: None)
    assert caught.value.reason == "TablesNotCarried"
    assert "app.old (MyISAM)" in caught.value.object and "inno" not in caught.value.object
    assert not await world.engine.server.initialized(made.ctx)
    await primary.run("DROP TABLE app.old, app.sheet, app.past, app.`näme/2`")
    await world.engine.replication.provision(made.ctx, primary.peer, lambda done, total: None)
    assert await world.engine.server.initialized(made.ctx)
