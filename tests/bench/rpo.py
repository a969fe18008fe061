"""How much would be lost: the time from a commit's acknowledgement until the stored window covers it, under write load.

The window's end is read from the object store, as somebody would who has nothing else left.
"""

from __future__ import annotations

import asyncio
import time

from tests.bench import data
from tests.bench.bench import Bench
from tests.bench.machine import MIB, say
from tests.bench.ours import repository, until

PAUSE = 0.05
LOOK_EVERY = 0.1
COVERED_DEADLINE = 60.0


async def measure(bench: Bench) -> None:
    """Measure while one session writes as fast as it can and another commits small transactions."""
    ours = bench.ours
    stop = asyncio.Event()
    waiting: list[float] = []
    covered: list[float] = []

    async def write() -> None:
        async with ours.session() as session:
            while not stop.is_set():
                await session.ask(f"insert into written {data.enlarged(5000)}")

    async def commit() -> None:
        async with ours.session() as session:
            await session.ask("create table stamps (n int)")
            while not stop.is_set():
                await session.ask("insert into stamps values (1)")
                waiting.append(time.time())
                await asyncio.sleep(PAUSE)

    async def watch() -> None:
        async with repository(ours.bucket) as repo:
            while not stop.is_set() or waiting:
                mark = await repo.marks.newest()
                seen = time.time()
                if mark is not None:
                    end = mark.time.timestamp()
                    covered.extend(seen - moment for moment in waiting if moment <= end)
                    waiting[:] = [moment for moment in waiting if moment > end]
                await asyncio.sleep(LOOK_EVERY)

    async with ours.session() as session:
        before = int(await session.ask("select pg_current_wal_lsn() - '0/0'"))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for work in (write(), commit()):
                group.create_task(work)
            watching = group.create_task(watch())
            await asyncio.sleep(bench.sizes.seconds)
            stop.set()
            async with asyncio.timeout(COVERED_DEADLINE):
                await watching
        after = int(await session.ask("select pg_current_wal_lsn() - '0/0'"))
    rate = (after - before) / MIB / (time.monotonic() - began)
    bench.facts["rpo.load.mb_per_s"] = round(rate, 1)
    bench.facts["rpo.commits"] = len(covered)
    found = bench.record("rpo", "s", covered)
    bench.record("rpo.p50", "s", [found.percentile(0.5)])
    bench.record("rpo.p99", "s", [found.percentile(0.99)])
    say(f"RPO: p50 {found.percentile(0.5):.2f}, p99 {found.percentile(0.99):.2f} s at {rate:.0f} MB/s of log")
    status = ours.pod.data / "pg_wal/archive_status"
    await until("all is stored", lambda: not list(status.glob("*.ready")), 120)
