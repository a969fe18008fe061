"""What writers notice of a base backup: sessions commit small transactions all the time, without a backup and during one."""

from __future__ import annotations

import asyncio
import time

from tests.bench.machine import say, settle
from tests.bench.mysql.bench import Bench
from tests.bench.mysql.stalls import LIMIT, Commit, blocked, within

WRITERS = 4
LEAST_QUIET = 5.0


async def measure(bench: Bench) -> None:
    """Measure: each round some seconds without a backup, then a whole backup."""
    stop = asyncio.Event()
    commits: list[Commit] = []
    spans: list[tuple[float, float, float]] = []
    frozen: list[float] = []

    async def write(number: int) -> None:
        async with await bench.ours.session() as session:
            while not stop.is_set():
                sent = time.monotonic()
                await session.execute(f"INSERT INTO stamps (writer) VALUES ({number})")
                commits.append(Commit(sent, time.monotonic()))

    await settle()
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(write(number))
        for _ in range(bench.sizes.rounds):
            before = time.monotonic()
            await asyncio.sleep(max(LEAST_QUIET, bench.sizes.seconds / 3))
            began = time.monotonic()
            done = await bench.ours.backup()
            spans.append((before, began, time.monotonic()))
            frozen.append(done.frozen_seconds)
        stop.set()
    _record(bench, commits, spans)
    bench.facts["blocked.limit.s"] = LIMIT
    bench.facts["blocked.frozen_seconds.told"] = max(frozen)


def _record(bench: Bench, commits: list[Commit], spans: list[tuple[float, float, float]]) -> None:
    quiet = [within(commits, before, began) for before, began, _ in spans]
    during = [within(commits, began, ended) for _, began, ended in spans]
    seconds = [blocked(commits, began, ended) for _, began, ended in spans]
    bench.record("blocked.seconds", "s", seconds)
    for name, parts in (("commit", quiet), ("commit.backup", during)):
        every = bench.record(name, "ms", [one.seconds * 1000 for part in parts for one in part])
        bench.record(f"{name}.longest", "ms", [max(one.seconds for one in part) * 1000 for part in parts])
        bench.record(f"{name}.p99", "ms", [every.percentile(0.99)])
    for name, parts, place in (("commit", quiet, 0), ("commit.backup", during, 1)):
        rates = [len(part) / (span[place + 1] - span[place]) for part, span in zip(parts, spans, strict=True)]
        bench.record(f"{name}.rate", "tx/s", rates)
    longest = bench.found["commit.backup.longest"], bench.found["commit.longest"]
    say(f"blocked {max(seconds):.2f} s at most; the longest commit during a backup {longest[0]}, without {longest[1]}")
