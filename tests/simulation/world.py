"""One seed: a world that is made, broken for a while, left alone, and looked at."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

from yoban.kube.reflector import ReflectorSettings
from yoban.kube.resource import LEASE
from yoban.runtime.controller import CONFIRM
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.clock import START, LoopClock

from tests.simulation.external import External
from tests.simulation.judge import BOUND, Judge, Violation
from tests.simulation.network import Network, Trace
from tests.simulation.operator import LEASE_KEY, WIDGET
from tests.simulation.people import Nemesis, User
from tests.simulation.processes import KERNEL, Processes, ProcessLoop
from tests.simulation.replica import Replica
from tests.simulation.weather import Weather, draw

SETTLE = 5.0  # seconds since the last write, and the last confirmation of a pass that wrote
QUIET = 30.0  # seconds in which then nobody writes
STOP = 60.0  # seconds for a replica to stop
TIMINGS = ((15.0, 10.0, 2.0, 2.0), (8.0, 5.0, 1.0, 1.5), (15.0, 10.0, 2.0, 0.5))


@dataclass(frozen=True, slots=True)
class Options:
    """What a seed draws besides its faults.

    Attributes:
        replicas, workers, namespaces, timings, consistent, look_again: of the operator.
        watchdog: whether electors have one.
        duration: seconds with faults.
        user_every, strike_every: mean seconds between what they do.
        weather: of the network.
        force: kinds of blows that the nemesis knows in any case.
        detect_mutation: of the caches.
        reflector: of the caches, without `consistent`.
        confirm: seconds after which a pass that wrote is confirmed.
    """

    replicas: int
    workers: int
    namespaces: tuple[str, ...] | None
    timings: tuple[float, float, float, float]
    consistent: bool
    look_again: float | None
    watchdog: bool
    duration: float
    user_every: float
    strike_every: float
    weather: Weather
    force: tuple[str, ...] = ()
    detect_mutation: bool = False
    reflector: ReflectorSettings = field(default_factory=ReflectorSettings)
    confirm: float = CONFIRM


def options_of(seed: int) -> Options:
    """What `seed` draws. A quarter of the seeds let processes stand still above all, and answers be slow: only what
    happens in between leads to a leader whose Lease is not its any more.
    """
    random = Random(f"{seed} options")
    standstill = random.random() < 0.25
    weather = draw(random)
    return Options(
        replicas=random.choice((2, 3)) if standstill else random.choice((1, 2, 2, 3)),
        workers=random.choice((1, 2, 4)),
        namespaces=random.choice((None, None, ("a", "b"))),
        timings=random.choice(TIMINGS),
        consistent=random.random() < 0.3,
        look_again=random.choice((None, None, 20.0, 3600.0)),
        watchdog=random.random() < (0.4 if standstill else 0.7),
        duration=random.uniform(60.0, 150.0) if standstill else random.uniform(30.0, 120.0),
        user_every=random.choice((1.0, 3.0, 8.0)),
        strike_every=6.0 if standstill else random.choice((3.0, 8.0, 15.0)),
        weather=replace(weather, slow=0.4) if standstill else weather,
        force=("freeze", "block") * 5 if standstill else (),
        detect_mutation=random.random() < 0.1,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed.

    Attributes:
        violation: the first broken invariant, None for none.
        seconds: virtual time of it all.
        converged_in: virtual seconds after the last fault.
        digest: of all that the server was asked: equal for two runs of one seed.
    """

    seed: int
    violation: Violation | None
    seconds: float
    converged_in: float
    digest: int
    steps: int
    requests: int
    acts: int
    exempt: int
    reconciles: int
    lives: int


class World:
    """Everything of one seed. `run` it once, on its own loop.

    Attributes:
        bound, quiet: seconds until all has converged, and in which then nobody writes.
    """

    bound = BOUND
    quiet = QUIET

    def __init__(self, seed: int, options: Options, loop: Processes, trace: Trace) -> None:
        self.seed = seed
        self.options = options
        self.loop = loop
        self.trace = trace
        self.server = self._make_server()
        self.external = External(loop)
        self.judge = Judge(loop, self.server, self.external)
        self.network = self._make_network()
        self.network.on_send = self.judge.sent
        self.external.on_call = self.judge.called
        self.server.on_change.append(self.judge.changed)
        self.living: list[Replica] = []
        self.lives = 0
        self.converged_in = -1.0
        self.healed_at = 0.0
        self._random = Random(f"{seed} world")
        self._closing = False
        self.user = User(self, Random(f"{seed} user"))

    def _make_server(self) -> FakeApiServer:
        uids = count(1)
        server = FakeApiServer(clock=LoopClock(), uids=lambda: f"uid-{next(uids)}")
        server.register(WIDGET)
        return server

    def _make_network(self) -> Network:
        return Network(self.loop, self.server, self.options.weather, self.trace)

    def _make_nemesis(self) -> Nemesis:
        return Nemesis(self, Random(f"{self.seed} nemesis"))

    @staticmethod
    def kernel() -> contextvars.Context:
        """The context of what is no process."""
        return KERNEL

    # -- replicas ----------------------------------------------------------------------------------------------------

    def _start(self, slot: int) -> None:
        if not self._closing:
            self.lives += 1
            self.living.append(Replica(self, slot, self.lives, self._ended))

    def _ended(self, replica: Replica) -> None:
        if replica in self.living:
            self.living.remove(replica)
        self.loop.later(self._random.uniform(0.5, 8.0), self._start, replica.slot)

    # -- the story ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises `Violation`."""
        options = self.options
        user, nemesis = self.user, self._make_nemesis()
        for _ in range(3):
            user.act()
        for slot in range(options.replicas):
            self.loop.later(self._random.uniform(0.0, 3.0), self._start, slot)
        others = [
            asyncio.create_task(user.run(options.user_every), name="user"),
            asyncio.create_task(nemesis.run(options.strike_every), name="nemesis"),
            asyncio.create_task(self._collect(), name="garbage collector"),
        ]
        try:
            await self._until(lambda: False, options.duration)
            for task in others[:2]:
                task.cancel()
            user.let_go()
            await self._heal()
            await self._converge()
            await self._rest()
        finally:
            for task in others:
                task.cancel()
        await self._stop()

    async def _until(self, reached: Callable[[], bool], seconds: float, every: float = 1.0) -> bool:
        end = self.loop.time() + seconds
        while not reached():
            self.judge.check()
            left = end - self.loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(every, left))
        self.judge.check()
        return True

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 5.0))
            self.server.collect_garbage()

    async def _heal(self) -> None:
        self.trace("world", "no more faults")
        self.healed_at = self.loop.time()
        self.network.calm()
        self.server.lag = 0
        self.external.failing = 0.0
        for replica in list(self.living):
            replica.link.heal()
            replica.thaw()

    async def _converge(self) -> None:
        start = self.loop.time()
        if not await self._until(lambda: not self.judge.lacks(), self.bound):
            raise Violation("converged", f"not within {self.bound:.0f} s: {self.judge.lacks()}", self.loop.time())
        self.converged_in = self.loop.time() - start
        self.trace("world", f"converged after {self.converged_in:.0f} s")

    async def _rest(self) -> None:
        """Every watch that went silent is noticed, every pass that wrote was confirmed, and then nobody writes any more."""
        if not await self._until(self._is_quiet, self.bound):
            self.judge.final(self.living)
            self.judge.check()
            silent = self.loop.time() - self.judge.wrote_at
            raise Violation("quiet", f"the last write was {silent:.0f} s ago: {self.judge.lacks()}", self.loop.time())
        writes = self.judge.writes
        self.trace("world", "must be quiet from now on")
        await self._still()
        if self.judge.writes != writes:
            raise Violation("quiet", f"{self.judge.writes - writes} writes on a converged world", self.loop.time())
        self.judge.final(self.living)
        self.judge.check()

    async def _still(self) -> None:
        """Let the time pass in which nobody writes."""
        await self._until(lambda: False, self.quiet, every=5.0)

    def _is_quiet(self) -> bool:
        return (
            self.loop.time() - max(self.judge.wrote_at, self.healed_at) >= self.options.confirm + SETTLE
            and len(self.living) == self.options.replicas
            and self.server.watchers == self.judge.reflectors(self.living)
            and not self.judge.lacks()
            and not self.judge.stale(self.living)
        )

    async def _stop(self) -> None:
        self._closing = True
        for replica in list(self.living):
            replica.stop()
        if not await self._until(lambda: not self.living and not self.server.watchers, STOP) and self.living:
            raise Violation("leaks", f"{len(self.living)} replicas do not stop", self.loop.time())
        if self.server.watchers:
            raise Violation("leaks", f"{self.server.watchers} watches are open after the stop", self.loop.time())
        lease = self.server.find(LEASE, *LEASE_KEY)
        if lease is not None and lease["spec"]["holderIdentity"]:
            raise Violation("leaks", "the Lease was not released by who stopped in order", self.loop.time())

    async def bury(self) -> None:
        """Nothing is left running, after a violation too."""
        self._closing = True
        for replica in list(self.living):
            replica.kill("the end")
        me = asyncio.current_task()
        for _ in range(3):
            left = [task for task in asyncio.all_tasks() if task is not me]
            if left:
                await asyncio.wait(left, timeout=60.0)
            for task in left:
                task.cancel()


def run(
    seed: int, *, options: Options | None = None, trace: Trace | None = None, change: dict[str, object] | None = None
) -> Outcome:
    """Run `seed`. `change` replaces single options that it draws."""
    options = replace(options or options_of(seed), **(change or {}))  # type: ignore[arg-type]
    loop = ProcessLoop()
    violation: Violation | None = None
    with silent(trace is not None), asyncio.Runner(loop_factory=lambda: loop) as runner:
        world: World | None = None

        async def story() -> None:
            nonlocal world, violation
            world = World(seed, options, loop, _timed(loop, trace))
            try:
                await world.run()
            except Violation as error:
                violation = error
            finally:
                await world.bury()

        runner.run(story())
    assert world is not None
    return Outcome(
        seed=seed,
        violation=violation,
        seconds=loop.time() - START,
        converged_in=world.converged_in,
        digest=world.network.digest,
        steps=loop.steps,
        requests=len(world.server.requests),
        acts=world.judge.acts,
        exempt=world.judge.exempt,
        reconciles=world.judge.reconciles,
        lives=world.lives,
    )


def _timed(loop: ProcessLoop, trace: Trace | None) -> Trace:
    if trace is None:
        return lambda who, what: None
    return lambda who, what: trace(f"{loop.time() - START:9.3f} {who}", what)


@contextmanager
def silent(traced: bool = False) -> Iterator[None]:
    """Faults are expected here: thousands of warnings about them are of no use, but to who reads a trace."""
    logger = logging.getLogger("yoban")
    level = logger.level
    logger.setLevel(logging.DEBUG if traced else logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
