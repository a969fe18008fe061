"""How much would be lost: the time from a commit's acknowledgement until the stored window covers it, under write load.

The window's end is read from the object store, as somebody would who has nothing else left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from yoban.model.instance import StoreDocument

from tests.bench import data
from tests.bench.bench import Bench
from tests.bench.found import Found
from tests.bench.machine import MIB, say
from tests.bench.rig import repository, until

PAUSE = 0.05
LOOK_EVERY = 0.1
COVERED_DEADLINE = 60.0


async def measure(bench: Bench) -> None:
    """Measure while one session writes as fast as it can and another commits small transactions."""
    ours = bench.ours
    async with ours.session() as session, ours.session() as writer, ours.session() as committer:
        await session.ask("create table stamps (n int)")

        async def written() -> int:
            return int(await session.ask("select pg_current_wal_lsn() - '0/0'"))

        await follow(
            bench,
            ours.bucket,
            bench.sizes.seconds,
            write=lambda: writer.ask(f"insert into written {data.enlarged(5000)}"),
            commit=lambda: committer.ask("insert into stamps values (1)"),
            written=written,
        )
    status = ours.pod.data / "pg_wal/archive_status"
    await until("all is stored", lambda: not list(status.glob("*.ready")), 120)


async def follow(
    found: Found,
    bucket: StoreDocument,
    seconds: float,
    *,
    write: Callable[[], Awaitable[object]],
    commit: Callable[[], Awaitable[object]],
    written: Callable[[], Awaitable[int]],
) -> None:
    """Follow small transactions on their way to the store.

    Args:
        found: where results go.
        bucket: that the log is stored in.
        seconds: of write load.
        write: is run again and again: the load.
        commit: a small transaction, run every `PAUSE` on a session of its own.
        written: tells bytes of log written so far, on a session of its own.
    """
    stop = asyncio.Event()
    waiting: list[float] = []
    covered: list[float] = []

    async def load() -> None:
        while not stop.is_set():
            await write()

    async def commits() -> None:
        while not stop.is_set():
            await commit()
            waiting.append(time.time())
            await asyncio.sleep(PAUSE)

    async def watch() -> None:
        async with repository(bucket) as repo:
            while not stop.is_set() or waiting:
                mark = await repo.marks.newest()
                seen = time.time()
                if mark is not None:
                    end = mark.time.timestamp()
                    covered.extend(seen - moment for moment in waiting if moment <= end)
                    waiting[:] = [moment for moment in waiting if moment > end]
                await asyncio.sleep(LOOK_EVERY)

    before, began = await written(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for work in (load(), commits()):
            group.create_task(work)
        watching = group.create_task(watch())
        await asyncio.sleep(seconds)
        stop.set()
        async with asyncio.timeout(COVERED_DEADLINE):
            await watching
    rate = (await written() - before) / MIB / (time.monotonic() - began)
    found.facts["rpo.load.mb_per_s"] = round(rate, 1)
    found.facts["rpo.commits"] = len(covered)
    series = found.record("rpo", "s", covered)
    found.record("rpo.p50", "s", [series.percentile(0.5)])
    found.record("rpo.p99", "s", [series.percentile(0.99)])
    say(f"RPO: p50 {series.percentile(0.5):.2f}, p99 {series.percentile(0.99):.2f} s at {rate:.0f} MB/s of log")
