"""What breaks while the contestants work: no API server, expired watches, refused requests; and then nothing happens.

Each contestant reaches the API server through the lab's fault proxy, the driver directly. The measure is the time from the
moment when the way is free again (or the first refusal) until all Cards that were changed meanwhile are Ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from deploy.lab.proxy import FaultProxy
from tests.bench.machine import BenchError, say
from tests.bench.runtime.contestants import Contestant
from tests.bench.runtime.driver import Driver, name_of
from tests.bench.runtime.phases import Bench, Session, fail, turns

KINDS = ("cards", "configmaps")
BURST = 50  # requests that are refused


async def run(bench: Bench, contestant: Contestant, number: int) -> None:
    """All faults, one after the other, on the same running operator."""
    async with FaultProxy(bench.world.api) as proxy, Driver(bench.world, contestant.namespace) as driver:
        session = Session(bench, contestant, driver, number)
        cards = bench.sizes.faulty
        try:
            await session.start(url=proxy.url)
            await driver.ready(await driver.create(range(cards)), 120)
            faults = {"expired": _expired, "refused": _refused(429), "failing": _refused(500), "outage": _outage}
            for name, fault in faults.items():
                await _whole(session, proxy)
                await _measure(session, proxy, name, fault)
        except BenchError as error:
            fail(session, "faults", error)
        finally:
            await session.stop()
            await driver.empty()


async def _measure(
    session: Session, proxy: FaultProxy, name: str, fault: Callable[[Session, FaultProxy], Awaitable[float]]
) -> None:
    mark = session.bench.world.audit.mark()
    begin = await fault(session, proxy)
    changed = [name_of(card) for card in range(session.bench.sizes.changed)]
    try:
        last = await session.driver.ready(changed, 90)
    finally:
        proxy.clear()
    session.usage()
    session.record(f"fault.{name}.seconds", "s", last - begin)
    session.record(f"fault.{name}.calls", "calls", float(len(session.requests(mark))))
    say(f"{session.contestant.name}: {name}: all Ready after {last - begin:.2f} s")


async def _whole(session: Session, proxy: FaultProxy) -> None:
    """Until both watches are open again and the operator rests: a fault must not meet what is left of the one before."""

    def watched(kind: str) -> bool:
        return any(r.end is None and r.status == 200 for r in proxy.matching(f"/{kind}[?].*watch=true"))

    end = time.monotonic() + 60
    while not all(map(watched, KINDS)):
        if time.monotonic() > end:
            raise BenchError(f"{session.contestant.name} does not watch again:\n{session.usage()}")
        await asyncio.sleep(0.1)
    await session.rest()


async def _change(session: Session, text: str) -> None:
    names = [name_of(card) for card in range(session.bench.sizes.changed)]
    await session.driver.change_all(names, f"{text} {session.number}")


async def _expired(session: Session, proxy: FaultProxy) -> float:
    """Connections break, objects change, and both watches that come back are told that their version is too old."""
    for kind in KINDS:
        proxy.expire(f"/{kind}[?]", times=1)
    begin = time.monotonic()
    await proxy.refuse()
    await _change(session, "expired")
    await proxy.listen()
    return begin


def _refused(status: int) -> Callable[[Session, FaultProxy], Awaitable[float]]:
    async def fault(session: Session, proxy: FaultProxy) -> float:
        """The next requests are answered with an error, while objects change."""
        proxy.answer(status, times=BURST, retry_after=1 if status == 429 else None)
        begin = time.monotonic()
        await _change(session, f"status {status}")
        return begin

    return fault


async def _outage(session: Session, proxy: FaultProxy) -> float:
    """The API server is killed and comes back; objects change at once."""
    api = session.bench.world.api
    await asyncio.to_thread(api.kill)
    await asyncio.sleep(session.bench.sizes.outage)
    await asyncio.to_thread(api.start)
    begin = time.monotonic()
    await _change(session, "outage")
    return begin


async def idle(bench: Bench, contestants: list[Contestant]) -> None:
    """All at once, each with some Ready Cards in its own namespace, and nothing happens. Who fails fails alone."""
    async with asyncio.TaskGroup() as group:
        for contestant in contestants:
            group.create_task(_idle(bench, contestant))


async def _idle(bench: Bench, contestant: Contestant) -> None:
    async with Driver(bench.world, contestant.namespace) as driver:
        session = Session(bench, contestant, driver, 0)
        try:
            await session.start()
            await driver.ready(await driver.create(range(bench.sizes.faulty)), 120)
            await asyncio.sleep(5)
            await session.rest()
            before, mark, begin = session.usage(), bench.world.audit.mark(), time.monotonic()
            await asyncio.sleep(bench.sizes.idle)
            minutes = (time.monotonic() - begin) / 60
            after, requests = session.usage(), session.requests(mark)
            session.record("idle.calls", "calls/min", len(requests) / minutes)
            session.record("idle.cpu", "ms/min", (after.cpu - before.cpu) * 1e3 / minutes)
            session.record("idle.memory", "MB", after.resident / 1e6)
        except BenchError as error:
            fail(session, "idle", error)
        finally:
            await session.stop()
            await driver.empty()


async def rounds(bench: Bench, contestants: list[Contestant]) -> None:
    """The faults, contestants in turns."""
    for number in range(bench.sizes.fault_rounds):
        for contestant in turns(contestants, number):
            await run(bench, contestant, number)
