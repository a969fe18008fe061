"""A store that stays down, on a volume with little room: what is told before it is full, and what heals by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import aiohttp
import pytest
from harness import PodProcess, World, problem, until
from mysqlside import SETTINGS, VERSION, client
from mysqlside import sql as mysql
from mysqlside import start as start_mysql
from postgres import BINARIES, make_bucket
from postgres import sql as postgres
from yoban.model.control import AgentStatus

from deploy.lab.store import LocalStore

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a volume of its own"),
]
MIB = 1 << 20


@contextmanager
def volume(pod: PodProcess, mib: int) -> Iterator[None]:
    """Give an instance a data volume of so many MiB."""
    place = str(pod.root / "var/lib")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "yoban-test", place], check=True)
    try:
        pod.own()
        yield
    finally:
        pod.kill()
        subprocess.run(["umount", "--lazy", place], check=True)


def enlarge(pod: PodProcess, mib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={mib}m", str(pod.root / "var/lib")], check=True)


async def metrics(pod: PodProcess) -> str:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.get(f"http://127.0.0.1:{pod.metrics_port}/metrics") as response,
    ):
        return await response.text()


def told(status: AgentStatus, reason: str) -> str:
    return next(one.message for one in status.problems if one.reason == reason)


def used(pod: PodProcess, logs: str) -> float:
    """The part of the volume's room for log that log takes, as the file system tells."""
    kept = sum(file.stat().st_size for file in pod.data.glob(logs))
    return kept / (kept + shutil.disk_usage(pod.data).free)


async def room(pod: PodProcess) -> AgentStatus | None:
    """What is told once the room for log becomes small."""
    status = await pod.status()
    return status if status.archive.room else None


async def filled(pod: PodProcess, write: Callable[[], object], logs: str, part: float) -> None:
    """Write until log takes this part of the volume's room for it."""
    while used(pod, logs) < part:
        await asyncio.to_thread(write)


async def well(pod: PodProcess) -> None:
    """Wait until everything is stored, and nothing is told any more."""
    moment = datetime.now(UTC)

    async def stored() -> bool:
        status = await pod.status()
        end = status.archive.window_end
        return end is not None and end > moment and not status.archive.backlog and not status.problems

    await until("everything is stored", stored, 180)
    await until("it is ready", pod.ready, 120)


async def announced(pod: PodProcess, write: Callable[[], object], logs: str) -> None:
    """Fill the volume with log, and look at what is told."""
    await filled(pod, write, logs, 0.6)
    first = await until("it is told", lambda: room(pod), 120)
    assert isinstance(first, AgentStatus)
    status = first
    assert "that the volume can hold" in told(status, status.archive.room)
    assert "writes stop when it is full" in told(status, status.archive.room)
    assert "the log cannot be stored" in told(status, "ArchiveFailing")
    assert status.archive.limit_bytes == status.archive.backlog_bytes + status.archive.free_bytes
    assert await pod.ready(), "it is told before anything stops"
    page = await metrics(pod)
    assert "yoban_log_volume_limit_bytes" in page
    assert f'yoban_instance_problems{{reason="{status.archive.room}"}} 1' in page
    await filled(pod, write, logs, 0.93)
    status = await problem(pod, "LogNearlyFull", 120)
    assert status.archive.free_bytes > 0
    assert await pod.ready()


async def test_mysql_tells_before_its_volume_is_full_and_heals_when_the_store_is_back(
    make_world: Callable[..., World], mysql_programs: object
) -> None:
    with LocalStore() as store:
        world = make_world("mysql", VERSION)
        world.change(settings={**SETTINGS, "max_binlog_size": str(4 * MIB)})
        world.archive_to(await make_bucket(store))
        pod = world.pod()
        with volume(pod, 400):
            start_mysql(pod)
            await until("it is ready", pod.ready, 120)
            mysql(pod, "CREATE TABLE app.t (n int PRIMARY KEY AUTO_INCREMENT, x longblob)")
            store.stop()
            write = (
                "SET SESSION binlog_row_image = 'MINIMAL'; INSERT INTO app.t (x) VALUES (REPEAT('x', 2000000));"
                " DELETE FROM app.t"
            )
            await announced(pod, lambda: mysql(pod, write), "binlog.0*")
            waiting = [client(pod, write)]
            while shutil.disk_usage(pod.data).free > 0:
                waiting.append(client(pod, write))
                await asyncio.sleep(0.2)
            store.start()
            await well(pod)
            # Nobody was refused: they waited, and went on.
            for one in waiting:
                _, words = await asyncio.to_thread(one.communicate, timeout=90)
                assert one.returncode == 0, words
            assert mysql(pod, "SELECT COUNT(*) FROM app.t") == "0"


@pytest.mark.skipif(not (BINARIES / "postgres").exists(), reason="needs PostgreSQL 15")
async def test_postgres_tells_before_its_volume_is_full_and_heals_when_the_store_is_back(
    make_world: Callable[..., World],
) -> None:
    with LocalStore() as store:
        world = make_world("postgres", "15")
        world.archive_to(await make_bucket(store))
        pod = world.pod()
        with volume(pod, 500):
            pod.start()
            await until("it is ready", pod.ready, 120)
            postgres(pod, "create table t (x text); insert into t values ('kept')")
            store.stop()
            write = "select pg_logical_emit_message(false, 'test', repeat('x', 8000000))"
            await announced(pod, lambda: postgres(pod, write), "pg_wal/0*")
            with pytest.raises(AssertionError, match=r"closed the connection|PANIC|No space|starting up|recovery"):
                while True:
                    await asyncio.to_thread(postgres, pod, write)
            store.start()
            await well(pod)
            assert postgres(pod, "select count(*) from t") == "1"
