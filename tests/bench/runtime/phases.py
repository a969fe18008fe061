"""One contestant, one round: start, creation, steady changes, a hot object, passes with nothing to do, a restart.

Each measure is recorded under the contestant's name; what it could not do in time is a failure of the results, not of the
bench. Processor time per reconcile is that of the process from the first creation until it rests, by the number of Cards (or
changes) that it made Ready.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from deploy.lab.audit import Request
from tests.bench.figures import Series
from tests.bench.machine import BenchError, say
from tests.bench.runtime.audit import overlaps
from tests.bench.runtime.contestants import Contestant, Operator
from tests.bench.runtime.driver import Driver, name_of
from tests.bench.runtime.processes import Usage, usage
from tests.bench.runtime.results import ALONE, Results
from tests.bench.runtime.world import World

MB, KIB = 1e6, 1024
SHARED = "bench-cache"  # the namespace of the Cards that all contestants cache
EVERY = 0.05  # seconds between two steady changes


@dataclass(frozen=True)
class Sizes:
    """How much is measured: Cards and rounds of each creation, seconds of steady changes, and so on."""

    rounds: dict[int, int]  # Cards -> rounds
    steady_at: int  # the number of Cards at which changes are measured too
    steady: float = 10.0  # seconds
    hot: int = 100  # changes of one object
    touched: int = 100  # objects that get a pass with nothing to do
    cached: int = 5000  # objects in the cache whose memory is measured
    fault_rounds: int = 2
    faulty: int = 200  # Cards while things break
    changed: int = 50  # of these, changed meanwhile
    outage: float = 10.0  # seconds
    idle: float = 600.0  # seconds
    deadline: float = 400.0  # seconds for all of a creation to be Ready


@dataclass
class Bench:
    """A run: the world, how much, and where results go. `latencies` has all of steady's, by contestant."""

    world: World
    sizes: Sizes
    results: Results
    latencies: dict[str, list[float]]


class Session:
    """A contestant in one round, with the process that drives it."""

    def __init__(self, bench: Bench, contestant: Contestant, driver: Driver, number: int) -> None:
        self.bench, self.contestant, self.driver, self.number = bench, contestant, driver, number
        self.random = random.Random(number)  # the same choice for each contestant
        self.operator: Operator | None = None

    def record(self, measure: str, unit: str, value: float) -> None:
        """Keep a value of this round."""
        self.bench.results.record(measure, unit, self.contestant.name, self.number, value)

    def requests(self, mark: int) -> list[Request]:
        """What the contestant asked for since."""
        return self.bench.world.audit.since(mark, self.bench.world.user(self.contestant.namespace))

    def usage(self) -> Usage:
        """Of the operator that runs."""
        assert self.operator is not None
        return self.operator.usage()

    def servers(self) -> float:
        """Processor seconds of API server and etcd so far."""
        return sum(usage(pid).cpu for pid in self.bench.world.api.pids.values())

    async def start(self, *, url: str | None = None, only_cache: str = "") -> Operator:
        """Start the operator and return when its caches are filled, as far as the API server can tell."""
        make = lambda: Operator(self.contestant, self.bench.world, url=url, only_cache=only_cache)  # noqa: E731
        self.operator = await asyncio.to_thread(make)
        end = time.monotonic() + 60
        while self.operator.synced() is None:
            self.operator.usage()
            if time.monotonic() > end:
                raise BenchError(f"{self.contestant.name} opens no watch:\n{self.operator.problems()}")
            await asyncio.sleep(0.1)
        return self.operator

    async def stop(self) -> None:
        """End the operator; nothing when none runs."""
        if self.operator is not None:
            await asyncio.to_thread(self.operator.stop)
            self.operator = None

    async def rest(self, seconds: float = 8.0) -> None:
        """Until the process has used next to nothing for half a second, at most so many seconds."""
        end = time.monotonic() + seconds
        quiet, before = 0, self.usage().cpu
        while quiet < 2 and time.monotonic() < end:
            await asyncio.sleep(0.25)
            now = self.usage().cpu
            quiet = quiet + 1 if now - before <= 0.01 else 0
            before = now


async def run(bench: Bench, contestant: Contestant, cards: int, number: int) -> None:
    """All phases of one creation's size; what fails is noted and the world emptied all the same."""
    async with Driver(bench.world, contestant.namespace) as driver:
        session = Session(bench, contestant, driver, number)
        try:
            await create(session, cards)
            if cards == bench.sizes.steady_at:
                await steady(session)
                await hot(session)
                await nothing(session)
            if cards >= bench.sizes.steady_at:
                await restart(session, cards)
        except BenchError as error:
            fail(session, f"{cards} Cards", error)
        finally:
            await session.stop()
            await driver.empty()


def fail(session: Session, what: str, error: BenchError) -> None:
    """Note that a contestant did not manage."""
    text = f"{session.contestant.name}, round {session.number}, {what}: {error}"
    session.bench.results.failures.append(text)
    say(f"FAILED {text}")


async def create(session: Session, cards: int) -> None:
    """From nothing to all Ready."""
    operator = await session.start()
    synced = operator.synced()
    assert synced is not None
    session.record("start.synced", "s", synced)
    await session.rest()
    before, servers = session.usage(), session.servers()
    session.record("memory.base", "MB", before.resident / MB)
    mark = session.bench.world.audit.mark()
    sent = await session.driver.create(range(cards))
    loaded = time.monotonic() - min(sent.values())
    last = await session.driver.ready(sent, session.bench.sizes.deadline)
    took = last - min(sent.values())
    await session.rest()
    after, prefix = session.usage(), f"create.{cards}"
    requests = session.requests(mark)
    session.record(f"{prefix}.seconds", "s", took)
    session.record(f"{prefix}.load", "s", loaded)
    session.record(f"{prefix}.cpu", "ms", (after.cpu - before.cpu) / cards * 1e3)
    session.record(f"{prefix}.servers", "ms", (session.servers() - servers) / cards * 1e3)
    session.record(f"{prefix}.writes", "writes", _writes(requests) / cards)
    session.record(f"{prefix}.calls", "calls", len(requests) / cards)
    session.record(f"{prefix}.memory", "MB", after.resident / MB)
    say(
        f"{session.contestant.name}: {cards} Ready in {took:.2f} s (made in {loaded:.2f} s), "
        f"{(after.cpu - before.cpu) / cards * 1e3:.2f} ms CPU and {_writes(requests) / cards:.3f} writes each"
    )


async def steady(session: Session) -> None:
    """A change every 50 ms to a random Card: from its sending until the independent watch shows it Ready."""
    sizes, driver = session.bench.sizes, session.driver
    before, mark = session.usage(), session.bench.world.audit.mark()
    loop = asyncio.get_running_loop()
    begin, count = loop.time(), int(sizes.steady / EVERY)
    sent: list[tuple[str, int, float]] = []

    async def one(name: str, number: int) -> None:
        at = await driver.change(name, f"steady {session.number}.{number}")
        sent.append((name, driver.generations[name], at))

    async with asyncio.TaskGroup() as group:
        # Each Card once, so that no change hides another.
        for number, card in enumerate(session.random.sample(range(sizes.steady_at), count)):
            await asyncio.sleep(max(0.0, begin + number * EVERY - loop.time()))
            group.create_task(one(name_of(card), number))
    await driver.ready([name for name, _, _ in sent], 60)
    seen = [(driver.seen(name, generation), at) for name, generation, at in sent]
    found = Series("ms", tuple((when - at) * 1e3 for when, at in seen if when is not None))
    session.bench.latencies.setdefault(session.contestant.name, []).extend(found.values)
    await session.rest()
    session.record("steady.p50", "ms", found.percentile(0.5))
    session.record("steady.p99", "ms", found.percentile(0.99))
    session.record("steady.cpu", "ms", (session.usage().cpu - before.cpu) / count * 1e3)
    session.record("steady.writes", "writes", _writes(session.requests(mark)) / count)
    say(
        f"{session.contestant.name}: change to status {found.percentile(0.5):.1f} ms, p99 {found.percentile(0.99):.1f} ms"
    )


async def hot(session: Session) -> None:
    """Many changes of one object, each sent when the one before was stored."""
    driver, sizes, name = session.driver, session.bench.sizes, name_of(0)
    mark, begin = session.bench.world.audit.mark(), time.monotonic()
    for number in range(sizes.hot):
        await driver.change(name, f"hot {session.number}.{number}")
    changed = time.monotonic()
    last = await driver.ready([name], 60)
    await session.rest()
    requests = session.requests(mark)
    session.record("hot.seconds", "s", max(last, changed) - begin)
    session.record("hot.tail", "ms", max(0.0, last - changed) * 1e3)
    session.record("hot.writes", "writes", _writes(requests))
    session.record("hot.overlaps", "times", overlaps(requests))


async def nothing(session: Session) -> None:
    """Passes that find everything as it should be: an annotation that nobody reads is changed."""
    names = [name_of(number) for number in range(min(session.bench.sizes.touched, session.bench.sizes.steady_at))]
    before, mark = session.usage(), session.bench.world.audit.mark()
    await session.driver.touch(names, str(session.number))
    await asyncio.sleep(1.0)
    await session.rest()
    session.record("noop.writes", "writes", _writes(session.requests(mark)) / len(names))
    session.record("noop.cpu", "ms", (session.usage().cpu - before.cpu) / len(names) * 1e3)


async def restart(session: Session, cards: int) -> None:
    """Stop; change a tenth and make one new; start: what it takes until that is Ready, and memory at its worst."""
    driver, prefix = session.driver, f"restart.{cards}"
    await session.stop()
    changed = [name_of(number) for number in session.random.sample(range(cards), cards // 10)]
    await driver.change_all(changed, f"while away {session.number}")
    new = name_of(cards)
    await driver.create([cards])
    began = time.monotonic()
    operator = await session.start()
    first = await driver.ready([new], session.bench.sizes.deadline)
    every = await driver.ready([*changed, new], session.bench.sizes.deadline)
    await session.rest()
    after, requests = session.usage(), session.requests(operator.mark)
    session.record(f"{prefix}.first", "s", first - began)
    session.record(f"{prefix}.all", "s", every - began)
    session.record(f"{prefix}.memory", "MB", after.resident / MB)
    session.record(f"{prefix}.peak", "MB", after.peak / MB)
    session.record(f"{prefix}.cpu", "ms", after.cpu / (cards + 1) * 1e3)
    session.record(f"{prefix}.calls", "calls", float(len(requests)))
    # Two writes are due for each of what changed and what is new.
    session.record(f"{prefix}.surplus", "writes", _writes(requests) - 2.0 * (len(changed) + 1))


async def cache(bench: Bench, contestants: list[Contestant]) -> None:
    """Memory of a cache alone, by the object: fresh processes, one of an empty namespace and one of many Ready Cards."""
    count = bench.sizes.cached
    async with Driver(bench.world, SHARED) as driver:
        await driver.create(range(count))
        await driver.report(range(count))
        try:
            for contestant in contestants:
                session = Session(bench, contestant, driver, 0)
                try:
                    empty = await _filled(session, contestant.namespace)
                    full = await _filled(session, SHARED)
                except BenchError as error:
                    fail(session, "cache", error)
                    continue
                finally:
                    await session.stop()
                slope = (full.resident - empty.resident) / count / KIB
                session.record("cache.slope", "KiB", slope)
                session.record("cache.peak", "KiB", (full.peak - empty.peak) / count / KIB)
                say(f"{contestant.name}: {slope:.2f} KiB a cached object")
        finally:
            await driver.empty()


async def _filled(session: Session, namespace: str) -> Usage:
    await session.start(only_cache=namespace)
    await asyncio.sleep(1.0)
    await session.rest()
    found = session.usage()
    await session.stop()
    return found


async def alone(bench: Bench, cards: int) -> None:
    """The same writes without an operator: what API server and etcd need for them."""
    async with Driver(bench.world, SHARED) as driver:
        try:
            took = await driver.alone(range(cards))
        finally:
            await driver.empty()
    bench.results.record(f"create.{cards}.seconds", "s", ALONE, 0, took)
    say(f"no operator: the writes for {cards} alone take {took:.2f} s")


def turns(contestants: list[Contestant], number: int) -> list[Contestant]:
    """Their order in that round: another one begins each time."""
    at = number % len(contestants)
    return contestants[at:] + contestants[:at]


def _writes(requests: list[Request]) -> float:
    return float(sum(request.is_write for request in requests))
